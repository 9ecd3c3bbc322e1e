"""Snapshots: copies of rows to which the governor may roll environments back.

A row is complete: parameters, optimizer state, step count and buffers. A seed's row is found again by its
pool and its environment. Rows are copied, never computed with, so whatever they hold stays what it is.

Role: from the blocks of a tensor record to blocks of their own, and back in place.
Neighbours: `blocks` is the storage, `single` the strategy that takes snapshots.
"""

import attrs
import numpy as np
import torch

from esper_core.plugin import Bools, Ints
from esper_plugins.devices.blocks import Block
from esper_plugins.devices.tensors import Group, Key, Tensors


@attrs.frozen(eq=False)
class Rows:
    """Copies of rows of one structure.

    Attributes:
        block: state of R rows.
        envs: `[R]` position of the environment of every row, ascending.
    """

    block: Block
    envs: Ints


@attrs.frozen(eq=False)
class Snapshot:
    """A state of every environment; they may be of different epochs.

    Attributes:
        rows: seeds by site, blueprint and blend; under None the hosts.
    """

    rows: dict[Key | None, Rows]


def take(tensors: Tensors, last: Snapshot | None, envs: Bools) -> Snapshot:
    """Copy some environments; see `Device.snapshot` in `esper_core.plugin.protocols`.

    Args:
        tensors: unchanged; the snapshot shares no memory with them.
        last: has the other environments; None if there are none.
        envs: `[N]` environments to copy.
    """
    groups = _groups(tensors)
    kept = {} if last is None or envs.all() else last.rows
    taken = {key: _taken(groups.get(key), kept.get(key), envs) for key in {**kept, **groups}}
    return Snapshot({key: rows for key, rows in taken.items() if len(rows.envs)})


def put_back(tensors: Tensors, snapshot: Snapshot, envs: Bools) -> None:
    """Overwrite rows of some environments in place, so that modules stay bound to them.

    A seed that the snapshot does not have, or that is no longer planted, is left alone.

    Args:
        tensors: changed.
        snapshot: unchanged.
        envs: `[N]` environments to restore.
    """
    for key, group in _groups(tensors).items():
        if key in snapshot.rows:
            _put_back(group, snapshot.rows[key], envs)


def _groups(tensors: Tensors) -> dict[Key | None, Group]:
    groups: list[tuple[Key | None, Group]] = [(None, tensors.hosts), *tensors.pools.items()]
    return dict(groups)


def _taken(group: Group | None, kept: Rows | None, envs: Bools) -> Rows:
    """Copies of rows: of chosen environments those of `group`, of all others those of `kept`."""
    sources = []
    if kept is not None:
        sources.append((kept.block, kept.envs, ~envs[kept.envs]))
    if group is not None:
        owners = np.asarray(group.envs)
        sources.append((group.block, owners, envs[owners]))
    blocks, owners_of, wanted = zip(*sources, strict=True)
    block = blocks[0] if len(blocks) == 1 else blocks[0].join(blocks[1])
    owners = np.concatenate(owners_of)
    rows = np.flatnonzero(np.concatenate(wanted))
    rows = rows[np.argsort(owners[rows])]
    return Rows(block.take(rows.tolist()), owners[rows])


def _put_back(group: Group, saved: Rows, envs: Bools) -> None:
    both, mine, theirs = np.intersect1d(group.envs, saved.envs, assume_unique=True, return_indices=True)
    chosen = envs[both]
    place = group.block.values.device
    to, of = (torch.from_numpy(rows[chosen]).to(place) for rows in (mine, theirs))
    for target, source in zip(_parts(group.block), _parts(saved.block), strict=True):
        target.index_copy_(0, to, source.index_select(0, of))


def _parts(block: Block) -> list[torch.Tensor]:
    """Whole tensors, each of them `[R, ...]`."""
    return [block.values, *block.state.values(), block.steps, *block.buffers.values()]
