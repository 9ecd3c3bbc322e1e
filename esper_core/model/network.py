"""The network: a host's segments with seeds between them, as a function and as a plain module.

Role: the one forward pass. Training folds it with gains, the exported network folds it with fixed influences.
Neighbours: `model.blending` joins host and seed; `runner.grown` writes a `GrownNetwork` to disk.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from esper_core.model.blending import Gain, blend, tap
from esper_core.model.hosts import Host
from esper_core.model.seeds import Seed


class Planted(NamedTuple):
    """A seed at work and its gains; see `model.blending`.

    Attributes:
        seed: proposes a change, as `Seed.forward` does.
        influence: a, its share in the features.
        seed_gain: 0 where no gradient reaches the seed.
        input_gain: share of its gradient that reaches the host through its input.
        cap: largest change that incubation trains towards, relative to the features.
    """

    seed: Callable[[Tensor, Tensor], Tensor]
    influence: Gain
    seed_gain: Gain
    input_gain: Gain
    cap: float


def fold(
    host: Host,
    x: Tensor,
    planted: Mapping[int, Planted],
    leave: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Run a host with seeds.

    Args:
        host: segments and sites.
        x: a batch of inputs.
        planted: by index of the site.
        leave: sees the index of every site and the features that leave it; what it returns goes on.

    Returns:
        The output of the last segment.
    """
    at = sites_by_segment(host)
    for index, segment in enumerate(host.segments):
        before, x = x, segment(x)
        if index not in at:
            continue
        here = planted.get(at[index])
        if here is not None:
            source = tap(before if host.sites[at[index]].across else x, here.input_gain)
            change = here.seed(source, tap(x, here.input_gain))
            x = blend(x, change, here.influence, here.seed_gain, here.cap)
        if leave is not None:
            x = leave(at[index], x)
    return x


def features(host: Host, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For every site, what a seed there would read and what it would change, without any seed.

    Args:
        host: segments and sites.
        x: a batch of inputs.
    """
    at = sites_by_segment(host)
    found = []
    for index, segment in enumerate(host.segments):
        before, x = x, segment(x)
        if index in at:
            found.append((before if host.sites[at[index]].across else x, x))
    return found


def sites_by_segment(host: Host) -> dict[int, int]:
    """Index of the site behind each segment that has one."""
    return {site.after: index for index, site in enumerate(host.sites)}


class GrownNetwork(nn.Module):
    """A host and its committed seeds as a plain module: no run, no controller, no plugin manager.

    Attributes:
        host: the host.
        seeds: by name of the site.
        influence: by name of the site, in (0, 1].
    """

    def __init__(self, host: Host, seeds: Mapping[str, Seed], influence: Mapping[str, float]) -> None:
        """Put a host and its seeds together.

        Raises:
            ValueError: a seed's site is not one of the host's, or has no influence.
        """
        super().__init__()
        names = [site.name for site in host.sites]
        for name in seeds:
            if name not in names or name not in influence:
                raise ValueError(f"seed at {name!r}: the host's sites are {', '.join(names)}")
        self.host = host
        self.seeds = nn.ModuleDict(seeds)
        self.influence = dict(influence)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for a batch of inputs."""
        planted = {
            index: Planted(seed, self.influence[site.name], 1.0, 1.0, 1.0)
            for index, site in enumerate(self.host.sites)
            for name, seed in self.seeds.items()
            if name == site.name and isinstance(seed, Seed)
        }
        return fold(self.host, x, planted)
