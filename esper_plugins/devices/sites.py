"""Measurements at sites: the features that leave a slot, and what the loss wants of them.

Rank says how many directions the features use. Orthogonality says in how many directions the samples pull
them: 1 where every sample wants another change, 0 where one change serves all.

In float64, whatever the run's precision: behind a narrow layer the features of several sites have ranks close
to 1, and which one is the lowest is below the rounding of float32.

Role: `rank_of` and `orthogonality_of` work on features stacked over environments, whichever executor
computed them; `look` computes them one environment after the other.
Neighbours: `single` packs the result into the transfer of `evaluate`; `branches` looks at all at once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from esper_core.plugin import Floats, Ints, Planted, Program, Site, Split, fold
from esper_plugins.devices.tensors import Tensors

SAMPLES = 128
"""Samples of a part of the data that are measured on, from the first."""


class Passed(NamedTuple):
    """What left the S sites.

    Attributes:
        features: `[..., B, *shape]` of every site.
        gradients: of each sample's loss with respect to these, same shapes; empty unless asked for.
    """

    features: Sequence[Tensor]
    gradients: Sequence[Tensor]


def rank_of(features: Tensor, kind: str) -> Tensor:
    """Effective rank of features as a share of their width.

    (tr C)^2 / tr(C^2) / width with C the covariance of the features: the participation ratio of its spectrum,
    which is the exponential of its Renyi entropy of order 2 (Roy and Vetterli 2007 take order 1).

    Args:
        features: `[N, B, ...]`; positions of maps and sequences count as samples.
        kind: of the site, as in `Site`.

    Returns:
        `[N]` in (0, 1], float64; 0 where the features do not vary, NaN where one is not finite.
    """
    rows = features.movedim(2, -1) if kind == "map" else features
    rows = rows.flatten(1, -2)
    rows = rows - rows[:, :1].to(torch.float64)  # what is constant is exactly 0, whatever a mean rounds to
    gram = _gram(rows - rows.mean(dim=1, keepdim=True))
    trace = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
    rank = torch.where(trace == 0, 0.0, trace.square() / _square(gram))
    return (rank / rows.shape[2]).clamp(max=1.0)


def orthogonality_of(gradients: Tensor) -> Tensor:
    """How little the gradients of samples agree, up to their sign.

    1 - mean over pairs i != j of cos(g_i, g_j)^2; samples without a gradient are left out.

    Args:
        gradients: `[N, B, ...]`, of each sample's own loss.

    Returns:
        `[N]` in [0, 1], float64; NaN with fewer than 2 samples, or where a gradient is not finite.
    """
    flat = gradients.flatten(2).to(torch.float64)
    norm = torch.linalg.vector_norm(flat, dim=2, keepdim=True)
    unit = flat * torch.where(norm == 0, 0.0, 1 / norm)
    used = (norm != 0).sum(dim=(1, 2), dtype=torch.float64)
    pairs = torch.where(used > 1, used * (used - 1), torch.nan)
    agreement: Tensor = (_square(_gram(unit)) - used) / pairs
    return (1.0 - agreement).clamp(0.0, 1.0)


def measured(passed: Passed, sites: Sequence[Site], measures: frozenset[str]) -> Tensor:
    """Measurements of N environments.

    Args:
        passed: features `[N, B, ...]` of every site, and gradients if they are asked for.
        sites: of the host.
        measures: of `MEASURES`.

    Returns:
        `[2, N, S]` rank and orthogonality in float64; NaN where it was not asked for.
    """
    envs = len(passed.features[0])
    found = passed.features[0].new_full((2, envs, len(sites)), torch.nan, dtype=torch.float64)
    if "rank" in measures:
        ranks = [rank_of(h, site.kind) for h, site in zip(passed.features, sites, strict=True)]
        found[0] = torch.stack(ranks, dim=1)
    if "orthogonality" in measures:
        found[1] = torch.stack([orthogonality_of(g) for g in passed.gradients], dim=1)
    return found


Leave = Callable[[int, Tensor], Tensor]
"""`(index of a site, features) -> features` that go on, as `fold` takes it."""
Look = Callable[[Program, Tensors, Ints, Split, Floats, frozenset[str]], Passed]
"""How an executor passes data through environments; see `look`."""


def measure(
    look: Look,
    program: Program,
    tensors: Tensors,
    data: Split,
    influence: Floats,
    measures: frozenset[str],
    budget: int,
) -> Tensor:
    """Pass the first samples through every environment, and measure.

    Args:
        look: of the executor.
        program: gives loss and sites.
        tensors: hosts and seeds; unchanged.
        data: samples to look at.
        influence: `[N, S]` of the seeds.
        measures: of `MEASURES`; if there are none, nothing is computed.
        budget: samples that may be held at the same time.

    Returns:
        As `measured` does.
    """
    envs, sites = influence.shape
    if not measures:
        return data.inputs.new_full((2, envs, sites), torch.nan, dtype=torch.float64)
    few = Split(data.inputs[:SAMPLES], data.targets[:SAMPLES])
    at_once = max(1, budget // (len(few) * sites))
    groups = [np.arange(start, min(start + at_once, envs)) for start in range(0, envs, at_once)]
    parts = [look(program, tensors, group, few, influence[group], measures) for group in groups]
    return torch.cat([measured(part, program.sites, measures) for part in parts], dim=1)


def look(
    program: Program,
    tensors: Tensors,
    envs: Ints,
    data: Split,
    influence: Floats,
    measures: frozenset[str],
) -> Passed:
    """Pass data through environments, one after the other.

    Args:
        program: gives the loss.
        tensors: hosts and seeds.
        envs: `[n]` positions of the environments.
        data: samples, the same for all.
        influence: `[n, S]` of their seeds.
        measures: gradients are taken for "orthogonality".

    Returns:
        Features and gradients `[n, B, ...]`.
    """
    wanted = "orthogonality" in measures
    rows = zip(envs.tolist(), influence.tolist(), strict=True)
    alone = [passed(partial(_pass, program, tensors, env, data, row), wanted=wanted) for env, row in rows]
    return Passed(*([torch.stack(at) for at in zip(*kind, strict=True)] for kind in zip(*alone, strict=True)))


def passed(run: Callable[[Leave], Tensor], *, wanted: bool) -> Passed:
    """What a pass leaves at the sites.

    Args:
        run: hands the features of every site to a function, goes on with what it returns, and returns the
            sum of losses: in evaluation no sample depends on another.
        wanted: gradients are taken.
    """
    left: list[Tensor] = []

    def leave(_: int, h: Tensor) -> Tensor:
        """Keep what leaves; a copy goes on, which the next segment may overwrite."""
        left.append(h if h.requires_grad or not wanted else h.detach().requires_grad_())
        return left[-1].clone()

    with torch.set_grad_enabled(wanted):
        loss = run(leave)
        gradients = torch.autograd.grad(loss, left, materialize_grads=True) if wanted else ()
    return Passed([h.detach() for h in left], gradients)


def _pass(
    program: Program, tensors: Tensors, env: int, data: Split, influence: list[float], leave: Leave
) -> Tensor:
    """One environment; returns the sum of its losses."""
    host, seeds = tensors.host(env), tensors.seeds(env)
    for module in (host, *seeds.values()):
        module.eval()
    planted = {
        site: Planted(seed, influence[site], 1.0, 1.0, 1.0)
        for site, seed in seeds.items()
        if influence[site] > 0
    }
    return program.problem.loss(fold(host, data.inputs, planted, leave), data.targets).sum()


def _gram(rows: Tensor) -> Tensor:
    """Inner products of rows or of columns, whichever are fewer, from `[N, rows, columns]`.

    The two matrices share their eigenvalues other than 0, and so their trace and norm.
    """
    fewer = rows if rows.shape[1] <= rows.shape[2] else rows.mT
    return fewer @ fewer.mT


def _square(gram: Tensor) -> Tensor:
    """Squared Frobenius norm, `[N]`."""
    return gram.square().sum(dim=(1, 2))
