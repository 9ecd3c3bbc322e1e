"""Who feels whom: a seed in TRAINING is invisible to its host; a blended one never closes the host's path."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from worlds import builtin, digits, pictures

from esper_core.model.hosts import Host
from esper_core.model.network import Planted, fold
from esper_core.model.parts import Part
from esper_core.model.problem import Problem
from esper_core.model.program import build_host, build_seed, keyed_generator
from esper_core.model.seeds import Seed
from esper_core.state.actions import Blend

PROBLEMS = {"mlp": digits, "conv": pictures}
CAP = 1.0


def lively(part: Part, host: Host, site: int, blend: Blend) -> Seed:
    """A seed that is far from an identity."""
    with keyed_generator(1):
        seed = build_seed(part, host.sites[site], blend)
        with torch.no_grad():
            for parameter in seed.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
    return seed


def gradients(
    host: Host, problem: Problem, planted: Mapping[int, Planted], seed: Seed | None = None
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Output of a batch, and the gradients of host and seed."""
    x, y = problem.fit.inputs[:16], problem.fit.targets[:16]
    with keyed_generator(0):
        output = fold(host, x, planted)
    of_host = list(host.parameters())
    of_seed = [] if seed is None else list(seed.parameters())
    found = torch.autograd.grad(problem.loss(output, y).mean(), [*of_host, *of_seed], allow_unused=True)
    filled = [
        torch.zeros_like(p) if g is None else g for g, p in zip(found, [*of_host, *of_seed], strict=True)
    ]
    return output.detach(), filled[: len(of_host)], filled[len(of_host) :]


def cases() -> list[Any]:
    found = []
    for name, make in PROBLEMS.items():
        host = build_host(make().host)
        for part, kinds in zip(*builtin(), strict=True):
            for site in range(len(host.sites)):
                if host.sites[site].kind in kinds:
                    found.append(pytest.param(make, part, site, id=f"{name}-{site}-{part.name}"))
    return found


@pytest.mark.acceptance("GR-01")
@pytest.mark.parametrize("blend", list(Blend))
@pytest.mark.parametrize(("make", "part", "site"), cases())
def test_a_training_seed_is_invisible_and_learns(make: Any, part: Part, site: int, blend: Blend) -> None:
    """Output, gradients and batch statistics of the host equal, bit for bit, those of the host alone."""
    problem = make()
    with keyed_generator(0):
        alone, host = build_host(problem.host), build_host(problem.host)
    host.load_state_dict(alone.state_dict())
    seed = lively(part, host, site, blend)
    without, host_without, _ = gradients(alone, problem, {})
    incubating = {site: Planted(seed, 0.0, 1.0, 0.0, CAP)}
    with_seed, host_with, of_seed = gradients(host, problem, incubating, seed)
    assert torch.equal(without, with_seed)
    assert any(bool(g.any()) for g in host_without)
    for one, other in zip(host_without, host_with, strict=True):
        assert torch.equal(one, other)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, host.state_dict()[name]), name
    for name, gradient in zip(dict(seed.named_parameters()), of_seed, strict=True):
        assert bool((gradient != 0).any()), name
        assert bool(torch.isfinite(gradient).all()), name


@pytest.mark.acceptance("GR-01")
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
def test_a_broken_training_seed_is_invisible(make: Any, poison: float) -> None:
    problem = make()
    with keyed_generator(0):
        alone, host = build_host(problem.host), build_host(problem.host)
    host.load_state_dict(alone.state_dict())
    part = next(p for p, kinds in zip(*builtin(), strict=True) if host.sites[0].kind in kinds)
    seed = lively(part, host, 0, Blend.ADD)
    with torch.no_grad():
        next(seed.parameters()).fill_(poison)
    without, host_without, _ = gradients(alone, problem, {})
    with_seed, host_with, of_seed = gradients(host, problem, {0: Planted(seed, 0.0, 1.0, 0.0, CAP)}, seed)
    assert torch.equal(without, with_seed)
    assert all(torch.equal(one, other) for one, other in zip(host_without, host_with, strict=True))
    assert not any(bool(torch.isfinite(g).all()) for g in of_seed), "its gradient must give it away"


@pytest.mark.parametrize("blend", list(Blend))
@pytest.mark.parametrize("influence", [0.5, 1.0])
@pytest.mark.parametrize(("make", "part", "site"), cases())
def test_the_path_of_the_host_stays_open(
    make: Any, part: Part, site: int, influence: float, blend: Blend
) -> None:
    """At full influence, and even if nothing flows back through the seed, what lies upstream learns on."""
    problem = make()
    with keyed_generator(0):
        host = build_host(problem.host)
    seed = lively(part, host, site, blend)
    upstream = len(list(host.segments[: host.sites[site].after + 1].parameters()))
    _, closed, of_seed = gradients(host, problem, {site: Planted(seed, influence, 1.0, 0.0, CAP)}, seed)
    _, open_, _ = gradients(host, problem, {site: Planted(seed, influence, 1.0, 1.0, CAP)}, seed)
    assert all(bool(g.any()) for g in closed[:upstream])
    assert all(bool(g.any()) for g in of_seed)
    assert any(not torch.equal(one, other) for one, other in zip(closed, open_, strict=True))


def test_a_share_of_the_seeds_gradient_reaches_the_host() -> None:
    """The gradient upstream is linear in the input gain."""
    problem = digits()
    with keyed_generator(0):
        host = build_host(problem.host).double()
    problem = _double(problem)
    part = builtin()[0][0]
    seed = lively(part, host, 1, Blend.ADD).double()
    none, half, all_ = (
        gradients(host, problem, {1: Planted(seed, 1.0, 1.0, gain, CAP)}, seed)[1] for gain in (0.0, 0.5, 1.0)
    )
    for zero, middle, one in zip(none, half, all_, strict=True):
        torch.testing.assert_close(middle, (zero + one) / 2, rtol=1e-12, atol=1e-15)


def _double(problem: Problem) -> Problem:
    problem.fit.inputs.data = problem.fit.inputs.double()
    return problem
