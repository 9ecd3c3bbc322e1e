"""The tensor record of the `single` strategy: blocks of hosts and of seeds, and the modules bound to them.

Role: what is resident. Neighbours: `blocks` is the storage below it, `epoch` and the executors work on it.
"""

from typing import NamedTuple, cast

import attrs
from torch import nn

from esper_core.plugin import Host, Seed
from esper_plugins.devices.blocks import Block


class Key(NamedTuple):
    """What the seeds of a pool have in common, as indices into the action space.

    Attributes:
        site: index of the slot.
        blueprint: index of the architecture.
        blend: index of the blend.
    """

    site: int
    blueprint: int
    blend: int


@attrs.frozen(eq=False)
class Group:
    """Rows of one structure, and the modules that are bound to them.

    Attributes:
        block: state of R rows.
        envs: position of the environment of every row, ascending.
        modules: bound to the rows.
        parameters: trainable parameters of every module.
        row: of every environment that has one.
    """

    block: Block
    envs: tuple[int, ...]
    modules: tuple[nn.Module, ...]
    parameters: tuple[list[nn.Parameter], ...]
    row: dict[int, int] = attrs.field(init=False)

    @row.default
    def _rows(self) -> dict[int, int]:
        return {env: row for row, env in enumerate(self.envs)}


@attrs.frozen(eq=False)
class Tensors:
    """What a record of N environments holds.

    Attributes:
        round_index: number of the round, which keys initialisation.
        envs: numbers of the environments.
        hosts: one row per environment.
        pools: seeds by site, blueprint and blend.
    """

    round_index: int
    envs: tuple[int, ...]
    hosts: Group
    pools: dict[Key, Group]

    def host(self, env: int) -> Host:
        """The host of an environment."""
        return cast(Host, self.hosts.modules[env])

    def seeds(self, env: int) -> dict[int, Seed]:
        """The seeds of an environment by site."""
        found = {}
        for key, pool in self.pools.items():
            if env in pool.row:
                found[key.site] = cast(Seed, pool.modules[pool.row[env]])
        return dict(sorted(found.items()))
