"""The contracts around a network: hosts, sites, builders, keys, and the grown network as a plain module."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from worlds import builtin, digits, lively, pictures, program

from esper_core.model.hosts import Host, Site, as_host
from esper_core.model.network import GrownNetwork, Planted, features, fold
from esper_core.model.parts import Part
from esper_core.model.problem import Split
from esper_core.model.program import (
    BuildError,
    build_host,
    build_seed,
    count_parameters,
    is_sound,
    keyed_generator,
    seed_costs,
)
from esper_core.rules.lifecycle import plant
from esper_core.state.actions import Blend
from esper_plugins.devices import single
from esper_plugins.devices.settings import Single

SITE = Site(name="a", after=0, kind="vector", width=4)


class Any3(nn.Module):
    """A host with three segments and any sites."""

    def __init__(self, *sites: Site) -> None:
        super().__init__()
        self.segments = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.sites = sites


def site(name: str, after: int) -> Site:
    return Site(name=name, after=after, kind="vector", width=4)


def test_a_stranger_need_not_inherit() -> None:
    host = Any3(site("a", 0), site("b", 1))
    assert as_host(host) is host
    assert not isinstance(host, Host)


@pytest.mark.parametrize(
    ("host", "error", "message"),
    [
        ({}, TypeError, "a host must be an nn.Module, not dict"),
        (nn.Linear(1, 1), TypeError, "host Linear must have the attributes 'segments' and 'sites'"),
        (Any3(), ValueError, "host Any3 has no site, so nothing could grow there"),
        (Any3(site("a", 0), site("a", 1)), ValueError, "names the site a more than once"),
        (Any3(site("a", 1), site("b", 0)), ValueError, r"the segments \[1, 0\] of 3; expected ascending"),
        (Any3(site("a", 0), site("b", 0)), ValueError, r"the segments \[0, 0\] of 3; .*, distinct"),
        (Any3(site("a", 2)), ValueError, r"the segments \[2\] of 3; .* none behind the last"),
    ],
)
def test_a_host_that_breaks_the_contract_is_refused(host: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_host(host)
    with pytest.raises(BuildError, match=f"host acme/host: .*{message}"):
        build_host(Part(name="acme/host", build="", call=lambda: host))


@pytest.mark.parametrize(
    ("field", "value"), [("after", -1), ("kind", "picture"), ("width", 0)], ids=["after", "kind", "width"]
)
def test_a_site_refuses_what_cannot_be(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Site(**{"name": "a", "after": 0, "kind": "map", "width": 4, field: value})


def test_data_that_does_not_match_is_refused() -> None:
    with pytest.raises(ValueError, match="3 inputs and 2 targets do not match"):
        Split(torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(ValueError, match="a part of the data is empty"):
        Split(torch.zeros(0, 1), torch.zeros(0))
    with pytest.raises(
        ValueError, match="no part 'test' of the data; expected one of fit, validation, report"
    ):
        digits().split("test")


def test_a_blueprint_that_builds_no_module_is_named() -> None:
    part = Part(name="acme/broken", build="", call=lambda site: "nothing")
    with pytest.raises(
        BuildError, match=r"blueprint acme/broken at 'a': built a str, expected an nn\.Module"
    ):
        build_seed(part, SITE, Blend.ADD)


def test_initial_weights_are_functions_of_their_keys() -> None:
    world, again, other = program(digits()), program(digits()), program(digits(), root=1)
    draws = {}
    for round_index in range(2):
        for env in range(3):
            draws[round_index, env] = flat(world.host(round_index, env))
            assert torch.equal(draws[round_index, env], flat(again.host(round_index, env)))
            assert not torch.equal(draws[round_index, env], flat(other.host(round_index, env)))
    assert len({tuple(d.tolist()) for d in draws.values()}) == 6
    lowrank = [name.split("/")[1] for name in world.space.blueprints].index("lowrank")
    seeds = [
        flat(world.seed(s, lowrank, 0, (r, e, n)))
        for s in (0, 1)
        for r in (0, 1)
        for e in (0, 1)
        for n in (0, 1)
    ]
    assert len({tuple(s.tolist()) for s in seeds}) == 16
    assert torch.equal(seeds[0], flat(again.seed(0, lowrank, 0, (0, 0, 0))))


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_the_global_generator_is_restored_even_after_an_error() -> None:
    before = torch.get_rng_state()
    with keyed_generator(3):
        one = torch.rand(4)
    with keyed_generator(3):
        assert torch.equal(one, torch.rand(4))

    def fail() -> None:
        with keyed_generator(3):
            torch.rand(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    program(digits()).host(0, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_costs_are_exact_for_every_site_blueprint_and_blend() -> None:
    host = build_host(pictures().host)
    parts, fits = builtin()
    cost = seed_costs(parts, fits, host.sites, tuple(Blend))
    for s in range(2):
        for p, part in enumerate(parts):
            for b, blend in enumerate(Blend):
                fitting = "map" in fits[p]
                real = count_parameters(build_seed(part, host.sites[s], blend)) if fitting else -1
                assert cost[s, p, b] == real
    gate = cost[..., Blend.GATE] - cost[..., Blend.ADD]
    assert set(gate[cost[..., 0] >= 0].tolist()) == {4 + 1}


def test_parameter_names_are_those_of_the_module_in_order() -> None:
    world = program(digits())
    assert world.parameter_names(None) == tuple(dict(world.host(0, 0).named_parameters()))
    found = world.parameter_names((1, 0, 2))
    assert found == tuple(dict(world.seed(1, 0, 2, (0, 0, 0)).named_parameters()))
    assert found[-2:] == ("gate.weight", "gate.bias")


class Odd(nn.Module):
    """A branch that does something to its input."""

    def __init__(self, call: Any, value: float = 0.0) -> None:
        super().__init__()
        self.call = call
        self.weight = nn.Parameter(torch.full((1,), value))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x) + 0.0 * self.weight.nan_to_num()


@pytest.mark.parametrize(
    ("branch", "sound"),
    [
        (Odd(lambda x: 0 * x), True),
        (Odd(lambda x: 0 * x, float("nan")), False),
        (Odd(lambda x: 0 * x, float("inf")), False),
        (Odd(lambda x: x / 0), False),
        (Odd(lambda x: 0 * x[:, :1]), False),
    ],
    ids=["sound", "nan-parameter", "infinite-parameter", "infinite-change", "other-shape"],
)
def test_a_seed_is_sound_if_it_is_finite_and_keeps_the_shape(branch: nn.Module, sound: bool) -> None:
    from_host = torch.ones(2, 4)
    assert (
        is_sound(
            build_seed(Part(name="t/t", build="", call=lambda site: branch), SITE, Blend.ADD),
            from_host,
            from_host,
        )
        is sound
    )


@pytest.mark.parametrize("make", [digits, pictures])
def test_features_are_what_a_seed_would_read_and_change(make: Any) -> None:
    problem = make()
    with keyed_generator(0):
        host = build_host(problem.host).eval()
    x = problem.fit.inputs[:5]
    found = features(host, x)
    seen: list[Tensor] = []
    for index, (source, h) in enumerate(found):

        def spy(x: Tensor, h_: Tensor) -> Tensor:
            seen[:] = [x, h_]
            return torch.zeros_like(h_)

        fold(host, x, {index: Planted(spy, 1.0, 1.0, 1.0, 1.0)})  # type: ignore[arg-type]
        assert torch.equal(seen[0], source)
        assert torch.equal(seen[1], h)
    assert len(found) == len(host.sites)


@pytest.mark.parametrize("make", [digits, pictures])
def test_a_grown_network_is_a_plain_module_with_the_same_outputs(make: Any) -> None:
    world = program(make())
    table = plant(world.space, 1, np.asarray([0, -1]), np.asarray([2, -1]), np.asarray([0.5, 0.0]))
    tensors = lively(single.build(world, Single(dtype="float64")), table)
    host, seeds = tensors.host(0).eval(), tensors.seeds(0)
    name = world.sites[0].name
    grown = GrownNetwork(host, {name: seeds[0]}, {name: 0.5}).eval()
    x = world.problem.validation.inputs.double()
    with torch.no_grad():
        expected = fold(host, x, {0: Planted(seeds[0].eval(), 0.5, 1.0, 1.0, 1.0)})
        assert torch.equal(grown(x), expected)
        assert not torch.allclose(grown(x), fold(host, x, {}))
    assert {n.split(".")[0] for n, _ in grown.named_parameters()} == {"host", "seeds"}
    grown(x).sum().backward()
    assert all(p.grad is not None for p in grown.parameters())


def test_a_grown_network_refuses_a_seed_without_a_site() -> None:
    host = program(digits()).host(0, 0)
    seed = build_seed(builtin()[0][0], host.sites[0], Blend.ADD)
    with pytest.raises(ValueError, match="seed at 'nowhere': the host's sites are block0, block1"):
        GrownNetwork(host, {"nowhere": seed}, {"nowhere": 1.0})
    with pytest.raises(ValueError, match="seed at 'block0'"):
        GrownNetwork(host, {"block0": seed}, {})
