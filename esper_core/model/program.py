"""The program of a run: everything that a device strategy needs to know, none of which changes.

Role: builds hosts and seeds from their keys. Initialisation belongs here and not to a strategy, so that it
is identical under every one; ordinary modules that draw from torch's global generator stay ordinary because
they are built inside a generator that is keyed and restored.
Neighbours: `runner.setup` assembles it, device strategies are built from it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from attrs import frozen
from torch import Tensor, nn

from esper_core.model.hosts import Host, Site, as_host
from esper_core.model.parts import Part
from esper_core.model.problem import Problem
from esper_core.model.seeds import Seed
from esper_core.rules.randomness import Purpose, torch_seed
from esper_core.state.actions import ActionSpace, Blend
from esper_core.state.arrays import Ints
from esper_core.state.settings import GrowthSettings, TrainSettings

SeedKey = tuple[int, int, int]
"""What decides a seed's structure: index of the site, of the blueprint and of the blend."""


class BuildError(Exception):
    """A plugin's builder returned something that cannot be used; the message names the plugin."""


@contextmanager
def keyed_generator(seed: int) -> Iterator[None]:
    """Run code that draws from torch's global CPU generator under `seed`, then restore the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@frozen(kw_only=True, eq=False)
class Program:
    """What is executed.

    Attributes:
        problem: data, host, loss and score.
        sites: the host's sites, in execution order; S of them.
        space: vocabulary of the actions, with costs.
        blueprints: builders of the blueprints in `space`.
        train: how hosts and seeds are trained.
        growth: how they may grow.
        root: the run's seed.
    """

    problem: Problem
    sites: tuple[Site, ...]
    space: ActionSpace
    blueprints: tuple[Part, ...]
    train: TrainSettings
    growth: GrowthSettings
    root: int

    def host(self, round_index: int, env: int) -> Host:
        """The host of an environment at birth, on the CPU.

        Args:
            round_index: number of the round, from 0.
            env: number of the environment.
        """
        with keyed_generator(torch_seed(self.root, Purpose.HOST, round_index, env)):
            return build_host(self.problem.host)

    def seed(self, site: int, blueprint: int, blend: int, keys: tuple[int, int, int]) -> Seed:
        """A seed at birth, on the CPU.

        Args:
            site: index of the site.
            blueprint: index into the action space.
            blend: index into the action space.
            keys: round, environment, and number of the seed within its environment.
        """
        with keyed_generator(torch_seed(self.root, Purpose.SEED, *keys, site)):
            return build_seed(self.blueprints[blueprint], self.sites[site], self.space.blends[blend])

    def parameter_names(self, key: SeedKey | None) -> tuple[str, ...]:
        """Names that `GradientStatistics.culprit` indexes.

        Args:
            key: site, blueprint and blend of a seed; None for the host.
        """
        with keyed_generator(0):
            module = (
                build_host(self.problem.host)
                if key is None
                else build_seed(self.blueprints[key[1]], self.sites[key[0]], self.space.blends[key[2]])
            )
        return tuple(name for name, p in module.named_parameters() if p.requires_grad)


def build_host(part: Part) -> Host:
    """Build a host and check that it keeps the contract of `model.hosts`.

    Raises:
        BuildError: it does not, or the builder failed.
    """
    try:
        return as_host(part.make())
    except Exception as error:
        raise BuildError(f"host {part.name}: {type(error).__name__}: {error}") from error


def build_seed(part: Part, site: Site, blend: Blend) -> Seed:
    """Build a seed for a site.

    Raises:
        BuildError: the builder failed, or did not return a module.
    """
    where = f"blueprint {part.name} at {site.name!r}"
    try:
        branch = part.make(site)
    except Exception as error:
        raise BuildError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(branch, nn.Module):
        raise BuildError(f"{where}: built a {type(branch).__name__}, expected an nn.Module")
    return Seed(branch, blend, site)


def seed_costs(
    blueprints: tuple[Part, ...],
    fits: tuple[frozenset[str], ...],
    sites: tuple[Site, ...],
    blends: tuple[Blend, ...],
) -> Ints:
    """Parameters of every seed that could be built, `[S, P, L]`; -1 where the blueprint does not fit."""
    cost = np.full((len(sites), len(blueprints), len(blends)), -1, np.int64)
    for s, site in enumerate(sites):
        for p, (part, kinds) in enumerate(zip(blueprints, fits, strict=True)):
            if site.kind in kinds:
                for b, blend in enumerate(blends):
                    with keyed_generator(0):
                        cost[s, p, b] = count_parameters(build_seed(part, site, blend))
    return cost


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def is_sound(seed: Seed, source: Tensor, h: Tensor) -> bool:
    """G1: the seed's parameters and its change are finite, and the change has the shape of `h`.

    Args:
        seed: at birth.
        source: a batch of the seed's input.
        h: the host's features that it would change.
    """
    with torch.no_grad():
        change = seed(source, h)
    if change.shape != h.shape:
        return False
    tensors = (*seed.parameters(), change)
    return bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all())
