"""Many configurations in one pass: equal to separate passes, on networks where the difference shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import builtin, lively, pictures, plan_of, program

from esper_core.model.hosts import Host, Site
from esper_core.model.network import Planted, fold
from esper_core.model.problem import Split
from esper_core.model.program import Program, build_seed, keyed_generator
from esper_core.model.seeds import Seed
from esper_core.model.trie import distinct, fold_all
from esper_core.rules.lifecycle import plant
from esper_core.state.actions import Blend
from esper_core.state.plans import EvalPlan
from esper_core.state.slots import SlotTable
from esper_plugins.devices import loop, single
from esper_plugins.devices.settings import Single

VISIBLE = 1e-3
CLOSE = {"rtol": 0.0, "atol": 1e-12}
WIDTH, ROWS = 4, 7


class Chain(Host):
    """Segments of one width, so that every site may lie across its segment."""

    def __init__(self, kind: str, length: int, sites: Sequence[tuple[int, bool]]) -> None:
        super().__init__()
        self.segments = nn.ModuleList(_segment(kind) for _ in range(length))
        self.sites = tuple(
            Site(name=f"s{after}", after=after, kind=kind, width=WIDTH, across=across)
            for after, across in sites
        )


def _segment(kind: str) -> nn.Module:
    if kind == "vector":
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    return nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.Tanh())


@st.composite
def topologies(draw: st.DrawFn) -> tuple[Host, dict[int, Seed], Tensor]:
    """A host, lively seeds at some of its sites, and a batch."""
    kind = draw(st.sampled_from(["vector", "map"]))
    length = draw(st.integers(2, 5))
    behind = draw(st.lists(st.integers(0, length - 2), min_size=1, max_size=4, unique=True).map(sorted))
    sites = [(after, draw(st.booleans())) for after in behind]
    planted = draw(st.lists(st.integers(0, len(sites) - 1), min_size=1, unique=True))
    fitting = [part for part, kinds in zip(*builtin(), strict=True) if kind in kinds]
    with keyed_generator(draw(st.integers(0, 99))):
        host = Chain(kind, length, sites).double()
        seeds = {
            site: build_seed(
                draw(st.sampled_from(fitting)), host.sites[site], draw(st.sampled_from(list(Blend)))
            ).double()
            for site in sorted(planted)
        }
        with torch.no_grad():
            for seed in seeds.values():
                for parameter in seed.parameters():
                    parameter.add_(torch.randn_like(parameter))
        x = torch.randn(ROWS, WIDTH, *((3, 3) if kind == "map" else ()), dtype=torch.float64)
        for name, buffer in host.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    for module in (host, *seeds.values()):
        module.eval()
    return host, seeds, x


@st.composite
def cases(draw: st.DrawFn) -> tuple[Host, dict[int, Seed], Tensor, list[tuple[float, ...]]]:
    """A topology and K configurations, repeats included."""
    host, seeds, x = draw(topologies())
    levels = [[0.0, 0.4, 1.0] if site in seeds else [0.0] for site in range(len(host.sites))]
    configuration = st.tuples(*(st.sampled_from(level) for level in levels))
    return host, seeds, x, draw(st.lists(configuration, min_size=1, max_size=10))


def separately(
    host: Host, x: Tensor, seeds: Mapping[int, Seed], configurations: Sequence[tuple[float, ...]]
) -> Tensor:
    """One pass per configuration, through the forward pass of training."""
    return torch.stack(
        [
            fold(host, x, {s: Planted(seed, c[s], 1.0, 1.0, 1.0) for s, seed in seeds.items() if c[s] > 0})
            for c in configurations
        ]
    )


@pytest.mark.property
@settings(max_examples=80, deadline=None)
@given(cases())
def test_the_trie_equals_separate_passes(case: Any) -> None:
    host, seeds, x, configurations = case
    different, which = distinct(configurations)
    with torch.no_grad():
        together = fold_all(host, x, seeds, different)
        apart = separately(host, x, seeds, configurations)
    torch.testing.assert_close(together[which], apart, **CLOSE)
    # only states count in which configurations that differ give outputs that visibly differ; most do
    for one in range(len(different)):
        for other in range(one):
            assume(float((together[one] - together[other]).abs().max()) > VISIBLE)


def test_distinct_keeps_the_order_and_finds_every_repeat() -> None:
    given_ = [(1.0, 0.0), (0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (0.0, 0.0)]
    found, which = distinct(given_)
    assert found == [(1.0, 0.0), (0.0, 0.0), (0.5, 0.0)]
    assert which == [0, 1, 0, 2, 1]


def test_every_segment_and_seed_runs_once_per_distinct_prefix() -> None:
    """All subsets of three seeds: 1, 2, 4 and 8 copies of the four segments; 1, 2 and 4 of the seeds."""
    with keyed_generator(0):
        host = Chain("vector", 4, [(0, False), (1, True), (2, False)]).double().eval()
        linear = builtin()[0][0]
        seeds = {s: build_seed(linear, host.sites[s], Blend.ADD).double().eval() for s in range(3)}
    rows: dict[str, int] = {}
    for name, module in [(f"segment{i}", s) for i, s in enumerate(host.segments)] + [
        (f"seed{s}", seed) for s, seed in seeds.items()
    ]:
        module.register_forward_hook(
            lambda module, inputs, output, name=name: rows.__setitem__(name, rows.get(name, 0) + len(output))
        )
    subsets = [tuple(float(bit) for bit in np.unravel_index(k, (2, 2, 2))) for k in range(8)]
    fold_all(host, torch.randn(ROWS, WIDTH, dtype=torch.float64), seeds, subsets)
    copies = {name: count // ROWS for name, count in rows.items()}
    assert copies == {
        "segment0": 1, "seed0": 1, "segment1": 2, "seed1": 2, "segment2": 4, "seed2": 4, "segment3": 8
    }  # fmt: skip


def test_a_seed_that_no_configuration_uses_is_not_run() -> None:
    with keyed_generator(0):
        host = Chain("vector", 3, [(0, False), (1, False)]).double().eval()
        seeds = {s: build_seed(builtin()[0][0], host.sites[s], Blend.ADD).double().eval() for s in range(2)}
    calls = []
    seeds[0].register_forward_hook(lambda *_: calls.append(0))
    seeds[1].register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    fold_all(host, x, seeds, [(0.0, 0.0), (0.0, 1.0)])
    assert calls == [ROWS]


def planted_pictures(envs: int) -> tuple[Program, SlotTable]:
    """Convolutions and batch normalisation, and a table with two seeds per environment."""
    world = program(pictures(samples=23))
    names = [name.split("/")[1] for name in world.space.blueprints]
    blueprint = np.asarray([names.index("conv_light"), names.index("norm")])
    return world, plant(world.space, envs, blueprint, np.asarray([0, 1]), np.asarray([1.0, 0.5]))


def questions(envs: int, repeats: int) -> EvalPlan:
    """Different configurations in every environment, some of them repeated."""
    every = [(a, b) for a in (1.0, 0.5, 0.0) for b in (0.5, 1.0, 0.0)]
    rows = [[every[(env + k) % len(every)] for k in range(7)] * repeats for env in range(envs)]
    return EvalPlan(split="validation", limit=None, influence=np.asarray(rows))


@pytest.mark.parametrize("budget", [1, 3, 7 * 4, 7 * 23, 10**6])
def test_chunks_do_not_change_results(budget: int) -> None:
    """One sample at a time, uneven last chunks, everything at once: the same sums."""
    world, table = planted_pictures(2)
    device = single.build(world, Single(dtype="float64"))
    tensors = lively(device, table, (0, 1))
    plan = questions(2, 2)
    data = Split(world.problem.validation.inputs.double(), world.problem.validation.targets)
    expected = device.evaluate(tensors, plan)
    found = loop.evaluate(world, tensors, data, plan.influence, budget)
    reached = (expected.loss_sum, expected.score_sum, expected.co_score)
    for one, other in zip(found, reached, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=0.0, atol=1e-12 * len(data))
    assert len(np.unique(np.round(expected.loss_sum, 6))) == 2 * 7


def test_sums_and_products_are_those_of_the_samples() -> None:
    """Every configuration of every environment on its own, by the forward pass of training."""
    world, table = planted_pictures(2)
    device = single.build(world, Single(dtype="float64", chunk_mib=1))
    tensors = lively(device, table, (0, 1))
    plan = questions(2, 1)
    counts = device.evaluate(tensors, plan)
    inputs, targets = world.problem.validation.inputs.double(), world.problem.validation.targets
    for env in range(2):
        host, seeds = tensors.host(env), tensors.seeds(env)
        with torch.no_grad():
            outputs = separately(host, inputs, seeds, [tuple(c) for c in plan.influence[env]])
        losses = np.stack([world.problem.loss(o, targets).numpy() for o in outputs])
        hits = np.stack([world.problem.score(o, targets).numpy() for o in outputs])
        np.testing.assert_allclose(counts.loss_sum[env], losses.sum(axis=1), rtol=1e-12)
        np.testing.assert_array_equal(counts.score_sum[env], hits.sum(axis=1))
        np.testing.assert_array_equal(counts.co_score[env], hits @ hits.T)
    assert counts.samples == 23


@pytest.mark.acceptance("ME-08")
def test_an_evaluation_changes_nothing() -> None:
    """Batch statistics, parameters and state are bit-equal before and after, though training moves them."""
    world, table = planted_pictures(2)
    device = single.build(world, Single(dtype="float32"))
    tensors = lively(device, table, (0, 1))
    epoch = plan_of(world, table, np.arange(32).reshape(2, 2, 8) % 23)
    tensors, _ = device.train(tensors, epoch)
    before = device.export(tensors)
    device.evaluate(tensors, questions(2, 1))
    for name, value in device.export(tensors).items():
        assert torch.equal(value, before[name]), name
    tensors, _ = device.train(tensors, epoch)
    moved = {name for name, value in device.export(tensors).items() if not torch.equal(value, before[name])}
    assert {name for name in before if "running_mean" in name} <= moved
