"""Evaluation by the `stacked` executor: many configurations of many environments as one batched program.

The prefix trie of `model.trie`, with a row for every branch of every environment: configurations of an
environment that agree on the influences of all sites so far are one row. A segment is run once on all
rows, with its environment's parameters in each.

Role: how resident environments are evaluated at once. Neighbours: `rowwise` applies modules to rows,
`stacked` trains, `loop` is the other executor.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from esper_core.plugin import Floats, Host, Ints, Program, Split
from esper_plugins.devices.blocks import Block
from esper_plugins.devices.rowwise import Rowwise, RowwiseSeed
from esper_plugins.devices.sites import Leave, Passed, passed
from esper_plugins.devices.tensors import Tensors

SAMPLES = 64
"""Samples of every row that a pass should hold; where they are too many, it holds fewer environments."""


class Fork(NamedTuple):
    """The trie at a site.

    Attributes:
        parent: `[M]` row that every branch comes from, ascending.
        influence: `[M]` of the seed.
    """

    parent: Ints
    influence: Floats


class Trie(NamedTuple):
    """Branches of several environments.

    Attributes:
        forks: of every site; None where no seed has influence.
        leaf: `[N, K]` last row of every configuration.
    """

    forks: list[Fork | None]
    leaf: Ints

    @classmethod
    def of(cls, influence: Floats) -> "Trie":
        """The trie of `[N, K, S]` influences; in the beginning every environment is one row."""
        row = np.repeat(np.arange(len(influence))[:, None], influence.shape[1], axis=1)
        forks: list[Fork | None] = []
        for here in np.moveaxis(influence, 2, 0):
            if not here.any():
                forks.append(None)
                continue
            # complex numbers sort by real part, then by imaginary part
            pairs, inverse = np.unique(row + 1j * here, return_inverse=True)
            row = inverse.reshape(row.shape)
            forks.append(Fork(pairs.real.astype(np.int64), pairs.imag))
        return cls(forks, row)


class _Seeds(NamedTuple):
    """Seeds of one pool at a fork.

    Attributes:
        seeds: of one structure.
        tensors: `[P, ...]` theirs, a row for every row that is read.
        reads: `[P]` rows before the fork that are read.
        changed: `[Q]` rows behind the fork that are changed.
        change: `[Q]` by which of the P changes; None if each changes one row, in order.
        influence: `[Q]` of it.
    """

    seeds: RowwiseSeed
    tensors: Mapping[str, Tensor]
    reads: Tensor
    changed: Tensor
    change: Tensor | None
    influence: Tensor

    def join(self, h: Tensor, source: Tensor, branches: Tensor) -> None:
        """Add the changes to branches, in place."""
        found = self.seeds.on(self.tensors, self.reads, source, h)
        if self.change is not None:
            found = found.index_select(0, self.change)
        influence = self.influence.view(-1, *[1] * (h.dim() - 1))
        branches.index_add_(0, self.changed, influence * found)


class _Fork(NamedTuple):
    """A fork with the seeds that grow there.

    Attributes:
        parent: `[M]` row that every branch comes from.
        across: seeds read what the segment read.
        pools: the seeds.
    """

    parent: Tensor
    across: bool
    pools: list[_Seeds]


class _Network:
    """Hosts and seeds of some environments, with a row for every branch."""

    def __init__(self, tensors: Tensors, envs: Ints, trie: Trie) -> None:
        """Gather their parameters, once for all chunks of the data."""
        host = cast(Host, tensors.hosts.modules[0].eval())
        self._sites = sites = {site.after: number for number, site in enumerate(host.sites)}
        self._segments: list[Callable[[Tensor], Tensor]] = []
        self._forks: dict[int, _Fork] = {}
        for index, segment in enumerate(host.segments):
            stacked = Rowwise(segment, host)
            self._segments.append(partial(stacked, _rows_of(tensors.hosts.block, stacked.reads, envs)))
            fork = trie.forks[sites[index]] if index in sites else None
            if fork is not None:
                site = sites[index]
                self._forks[index] = _fork(tensors, site, envs, fork, across=host.sites[site].across)
                envs = envs[fork.parent]
        self.rows = envs

    def __call__(self, x: Tensor, leave: Leave | None = None) -> Tensor:
        """Outputs `[M, B, ...]` for inputs `[N, B, ...]`; `leave` is as in `fold`."""
        for index, segment in enumerate(self._segments):
            before, x = x, segment(x)
            fork = self._forks.get(index)
            if fork is not None:
                h, x = x, x.index_select(0, fork.parent)
                for pool in fork.pools:
                    pool.join(h, before if fork.across else h, x)
            if leave is not None and index in self._sites:
                x = leave(self._sites[index], x)
        return x


def _fork(tensors: Tensors, site: int, envs: Ints, fork: Fork, *, across: bool) -> _Fork:
    """Find the seeds of a fork; `envs` has the environment of every row before it."""
    like = tensors.hosts.block.values
    pools = []
    for key, pool in tensors.pools.items():
        if key.site != site:
            continue
        row_of = np.full(len(tensors.envs), -1)
        row_of[list(pool.envs)] = np.arange(len(pool.envs))
        changed = np.flatnonzero((fork.influence > 0) & (row_of[envs[fork.parent]] >= 0))
        if not len(changed):
            continue
        reads, change = np.unique(fork.parent[changed], return_inverse=True)
        seeds = RowwiseSeed(pool.modules[0].eval())
        pools.append(
            _Seeds(
                seeds,
                _rows_of(pool.block, seeds.reads, row_of[envs[reads]]),
                torch.as_tensor(reads, device=like.device),
                torch.as_tensor(changed, device=like.device),
                None if len(reads) == len(changed) else torch.as_tensor(change, device=like.device),
                torch.as_tensor(fork.influence[changed]).to(like),
            )
        )
    return _Fork(torch.as_tensor(fork.parent, device=like.device), across, pools)


def _rows_of(block: Block, names: frozenset[str], rows: Ints) -> dict[str, Tensor]:
    """Copies of rows of some of a block's tensors."""
    named, index = block.named(), torch.as_tensor(rows, device=block.values.device)
    return {name: named[name].index_select(0, index) for name in names}


@torch.inference_mode()
def evaluate(
    program: Program, tensors: Tensors, data: Split, influence: Floats, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate K configurations of every environment; arguments and result are those of `loop.evaluate`."""
    ends = Trie.of(influence).leaf.max(axis=1) + 1
    counted = [
        _evaluate_some(program, tensors, envs, data, influence[envs], budget)
        for envs in _at_once(ends, budget // min(len(data), SAMPLES))
    ]
    losses, scores, products = (torch.cat(values) for values in zip(*counted, strict=True))
    return losses, scores, products


def _at_once(ends: Ints, limit: int) -> Iterator[Ints]:
    """Environments in groups of at most `limit` rows, or of one; `ends` is where the rows of each end."""
    start, done = 0, 0
    while start < len(ends):
        stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield np.arange(start, stop)
        start, done = stop, ends[stop - 1]


def _evaluate_some(
    program: Program, tensors: Tensors, envs: Ints, data: Split, influence: Floats, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    trie = Trie.of(influence)
    network = _Network(tensors, envs, trie)
    rows = len(network.rows)
    place = data.inputs.device
    first = trie.leaf.min(axis=1)[:, None]
    count = trie.leaf.max(axis=1)[:, None] + 1 - first
    table = torch.as_tensor(first + np.minimum(np.arange(count.max()), count - 1), device=place)
    losses = data.inputs.new_zeros(rows, dtype=torch.float64)
    scores = losses.clone()
    products = losses.new_zeros(*table.shape, table.shape[1])
    size = max(1, budget // rows)
    for start in range(0, len(data), size):
        x, y = data.inputs[start : start + size], data.targets[start : start + size]
        outputs = network(x.expand(len(envs), *x.shape)).flatten(0, 1)
        targets = y.expand(rows, *y.shape).flatten(0, 1)
        losses += program.problem.loss(outputs, targets).view(rows, -1).sum(dim=1, dtype=torch.float64)
        hits = program.problem.score(outputs, targets).view(rows, -1).to(torch.float64)
        scores += hits.sum(dim=1)
        hits = hits[table]
        products += hits @ hits.mT
    leaf = torch.as_tensor(trie.leaf, device=place)
    local = torch.as_tensor(trie.leaf - first, device=place)
    env = torch.arange(len(envs), device=place)[:, None, None]
    return losses[leaf], scores[leaf], products[env, local[:, :, None], local[:, None, :]]


def look(
    program: Program,
    tensors: Tensors,
    envs: Ints,
    data: Split,
    influence: Floats,
    measures: frozenset[str],
) -> Passed:
    """Pass data through environments, all at once; arguments and result are those of `sites.look`."""
    network = _Network(tensors, envs, Trie.of(influence[:, None, :]))

    def run(leave: Leave) -> Tensor:
        outputs = network(data.inputs.expand(len(envs), *data.inputs.shape), leave)
        targets = data.targets.expand(len(envs), *data.targets.shape)
        return program.problem.loss(outputs.flatten(0, 1), targets.flatten(0, 1)).sum()

    return passed(run, wanted="orthogonality" in measures)
