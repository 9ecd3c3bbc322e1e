"""Many configurations of one network in one pass over a batch: a trie over the sites in execution order.

Configurations that agree on the influences of all sites so far share one computation: a segment is run once
per distinct prefix, a seed only for prefixes that some configuration continues with an influence above 0.
Valid because in evaluation no row depends on another.

Role: the algorithm, independent of how environments are batched.
Neighbours: `model.network` is the same pass for one configuration; device strategies feed chunks.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from esper_core.model.hosts import Host
from esper_core.model.network import sites_by_segment
from esper_core.model.seeds import Seed


def distinct(configurations: Sequence[tuple[float, ...]]) -> tuple[list[tuple[float, ...]], list[int]]:
    """The distinct configurations in order of first appearance, and for each one given, which it is."""
    index: dict[tuple[float, ...], int] = {}
    which = [index.setdefault(configuration, len(index)) for configuration in configurations]
    return list(index), which


def fold_all(
    host: Host, x: Tensor, seeds: Mapping[int, Seed], configurations: Sequence[tuple[float, ...]]
) -> Tensor:
    """Run a host with seeds under every configuration of influences.

    Args:
        host: segments and sites, in evaluation mode.
        x: a batch of inputs, `[B, ...]`.
        seeds: by index of the site.
        configurations: K distinct tuples of S influences; one must be 0 where there is no seed.

    Returns:
        Outputs `[K, B, ...]`, in the order of the configurations.
    """
    rows = len(x)
    prefix = [0] * len(configurations)
    at = sites_by_segment(host)
    for index, segment in enumerate(host.segments):
        before, x = x, segment(x)
        if index not in at:
            continue
        site = at[index]
        branches, prefix = _branches(prefix, [c[site] for c in configurations])
        if any(influence > 0 for _, influence in branches):
            source = before if host.sites[site].across else x
            x = _branch(x, source, seeds[site], branches, rows)
    return x.view(-1, rows, *x.shape[1:])[prefix]


def _branches(prefix: list[int], influences: list[float]) -> tuple[list[tuple[int, float]], list[int]]:
    """The distinct (parent, influence) pairs at a site, and which one each configuration takes."""
    index: dict[tuple[int, float], int] = {}
    taken = [index.setdefault(pair, len(index)) for pair in zip(prefix, influences, strict=True)]
    return list(index), taken


def _branch(h: Tensor, source: Tensor, seed: Seed, branches: list[tuple[int, float]], rows: int) -> Tensor:
    """Features of every branch: the parent's own where the influence is 0, else with the seed's change."""
    parents = h.split(rows)
    sources = source.split(rows)
    blended = sorted({parent for parent, influence in branches if influence > 0})
    if len(blended) == len(parents):
        changes = seed(source, h).split(rows)
    else:
        changes = seed(
            torch.cat([sources[p] for p in blended]), torch.cat([parents[p] for p in blended])
        ).split(rows)
    change = dict(zip(blended, changes, strict=True))
    return torch.cat(
        [parents[p] + influence * change[p] if influence > 0 else parents[p] for p, influence in branches]
    )
