"""Measurements at sites: effective rank of features, orthogonality of gradients, against independent sums."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hand_made import SEEDS, World
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor, nn
from worlds import assert_same, digits, program, spirals

from esper_core.model.hosts import Host, Site
from esper_core.model.parts import Part
from esper_core.model.seeds import Seed
from esper_core.plugin import MEASURES, EvalCounts, EvalPlan
from esper_core.rules import ramps
from esper_core.state.slots import Stage
from esper_plugins.devices import sites
from esper_plugins.devices.sites import SAMPLES, measure, orthogonality_of, rank_of

NOTHING: frozenset[str] = frozenset()
RANK, ORTHOGONALITY = frozenset({"rank"}), frozenset({"orthogonality"})
BOTH = RANK | ORTHOGONALITY


def tensor(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def axes(*lengths: float) -> list[list[float]]:
    """Features whose covariance has the squares of the lengths on its diagonal, up to a factor."""
    arrows = np.diag(lengths)
    return np.concatenate([arrows, -arrows]).tolist()


# ------------------------------------------------------------------ rank


@pytest.mark.parametrize(
    ("features", "share"),
    [
        (axes(1, 1, 1, 1), 1.0),
        (axes(2, 0, 0, 0), 1 / 4),
        (axes(5, 5, 0, 0), 2 / 4),
        (axes(3**0.5, 1), (3 + 1) ** 2 / (9 + 1) / 2),
        ([[1, 2, 3], [2, 4, 6], [-1, -2, -3]], 1 / 3),
        ([[1, 0], [0, 1], [0, 0]], (1 + 1 / 3) ** 2 / (1 + 1 / 9) / 2),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_ranks_by_hand(features: list[list[float]], share: float, scale: float) -> None:
    rows = tensor([features]) * scale
    assert_allclose(rank_of(rows, "vector"), share, rtol=1e-12)
    assert_allclose(rank_of(rows + 3 * scale, "vector"), share, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 3, 127])
def test_features_that_do_not_vary_have_rank_0(samples: int, dtype: torch.dtype) -> None:
    """Exactly, although the mean of equal numbers may round."""
    constant = torch.tensor([0.1, 0.7, 1e7], dtype=dtype).expand(2, samples, 3)
    found = rank_of(constant, "vector")
    assert found.dtype == torch.float64
    assert found.tolist() == [0.0, 0.0]


def rank_by_spectrum(rows: Any) -> float:
    """From the eigenvalues of numpy's covariance of `[M, C]`."""
    spectrum = np.linalg.eigvalsh(np.atleast_2d(np.cov(rows.T, bias=True)))
    share: float = spectrum.sum() ** 2 / (spectrum**2).sum() / rows.shape[1]
    return share


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["vector", "map", "sequence"]),
    samples=st.integers(2, 20),
    width=st.integers(1, 12),
    envs=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_ranks_against_eigenvalues(kind: str, samples: int, width: int, envs: int, seed: int) -> None:
    """More samples than units and fewer; positions of maps and sequences are samples."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(envs, samples, 6, width)) * draw.uniform(size=width) + draw.normal(size=width)
    features = {
        "vector": rows[:, :, 0],
        "sequence": rows,
        "map": np.moveaxis(rows.reshape(envs, samples, 3, 2, width), -1, 2),
    }[kind]
    expected = [
        rank_by_spectrum(r.reshape(-1, width)) for r in (rows[:, :, :1] if kind == "vector" else rows)
    ]
    assert_allclose(rank_of(torch.from_numpy(features.copy()), kind), expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [0, 5])
def test_what_is_not_finite_is_unknown_in_its_environment_only(bad: float, where: int) -> None:
    rows = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    broken = rows.clone()
    broken[1, where, 2] = bad
    for found, sound in (
        (rank_of(broken, "vector"), rank_of(rows, "vector")),
        (orthogonality_of(broken), orthogonality_of(rows)),
    ):
        assert torch.isnan(found).tolist() == [False, True, False]
        assert torch.equal(found[[0, 2]], sound[[0, 2]])


# ------------------------------------------------------------------ orthogonality


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1, 2], [1, 2], [2, 4]], 0.0),
        ([[1, 2], [-3, -6]], 0.0),
        ([[1, 0, 0], [0, 5, 0], [0, 0, -1]], 1.0),
        ([[1, 0], [1, 1]], 0.5),
        ([[1, 0], [0, 0], [1, 1]], 0.5),
        ([[1, 0], [0, 1], [1, 1]], 1 - (0 + 0.5 + 0.5) / 3),
        ([[1, 0], [0, 0]], np.nan),
        ([[0, 0], [0, 0]], np.nan),
        ([[3, 4]], np.nan),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_orthogonality_by_hand(gradients: list[list[float]], expected: float, scale: float) -> None:
    found = orthogonality_of(tensor([gradients]) * scale)
    assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def orthogonality_by_pairs(gradients: Any) -> float:
    """A loop over pairs of `[B, D]`."""
    used = [g / np.linalg.norm(g) for g in gradients if g.any()]
    squares = [
        float(one @ other) ** 2 for i, one in enumerate(used) for j, other in enumerate(used) if i != j
    ]
    return 1 - sum(squares) / len(squares) if squares else np.nan


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(2,), (7,), (40,), (3, 2), (4, 3, 3)]),
    samples=st.integers(1, 14),
    zeros=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**31),
)
def test_orthogonality_against_a_loop_over_pairs(
    shape: tuple[int, ...], samples: int, zeros: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    gradients = draw.normal(size=(2, samples, *shape)) + draw.normal(size=shape)
    gradients *= 10.0 ** draw.integers(-12, 12, size=(2, samples, *[1] * len(shape)))
    gradients[draw.uniform(size=(2, samples)) < zeros] = 0.0
    found = orthogonality_of(torch.from_numpy(gradients))
    expected = [orthogonality_by_pairs(g.reshape(samples, -1)) for g in gradients]
    assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_rounding_does_not_leave_the_interval() -> None:
    """Hundreds of white and of parallel sets in random directions."""
    draw = torch.Generator().manual_seed(0)
    bases, _ = torch.linalg.qr(torch.randn(300, 5, 5, generator=draw, dtype=torch.float64))
    assert float(rank_of(torch.cat([bases, -bases], dim=1), "vector").max()) == 1.0
    assert float(orthogonality_of(bases).max()) == 1.0
    assert float(orthogonality_of(bases[:, :1].expand(-1, 3, -1)).min()) == 0.0


# ------------------------------------------------------------------ on a device


def world_of(name: str, envs: int = 2, **device: Any) -> World:
    """Three classes: with two, gradients in front of a linear read-out have one direction."""
    make, seeds = SEEDS[name]
    problem = make(arms=3) if make is spirals else make()
    return World(program(problem), envs, *seeds, **device)


def look(world: World, measures: frozenset[str] = BOTH, limit: int | None = None) -> EvalCounts:
    """As the network stands, and a second configuration that is another network."""
    influence = ramps.influence(world.table)
    both = np.stack([influence, np.zeros_like(influence)], axis=1)
    plan = EvalPlan(split="validation", limit=limit, influence=both, measures=measures)
    counts: EvalCounts = world.device.evaluate(world.tensors, plan)
    return counts


def onward(
    host: Host, seeds: dict[int, Seed], influence: Sequence[float], x: Tensor, first: int
) -> tuple[list[Tensor], Tensor]:
    """What leaves the sites from a segment on, and the output: the equation, written once more."""
    at = {site.after: index for index, site in enumerate(host.sites)}
    left = []
    for index in range(first, len(host.segments)):
        before, x = x, host.segments[index](x)
        if index in at:
            site = at[index]
            if influence[site] > 0:
                x = x + influence[site] * seeds[site](before if host.sites[site].across else x, x)
            left.append(x)
    return left, x


def by_hand(world: World, env: int, samples: int) -> tuple[list[float], list[float]]:
    """Rank and orthogonality at every site, one sample at a time from the site on."""
    problem = world.program.problem
    host, seeds = world.tensors.host(env).eval(), world.tensors.seeds(env)
    influence = ramps.influence(world.table)[env].tolist()
    x = problem.validation.inputs[:samples].double()
    y = problem.validation.targets[:samples]
    ranks, orthogonalities = [], []
    for site, left in zip(host.sites, onward(host, seeds, influence, x, 0)[0], strict=True):
        h = left.detach()
        ranks.append(rank_by_spectrum(h.movedim(1, -1).reshape(-1, site.width).numpy()))
        gradients = []
        for i in range(len(h)):
            alone = h[i : i + 1].clone().requires_grad_()
            output = onward(host, seeds, influence, alone, site.after + 1)[1]
            (gradient,) = torch.autograd.grad(problem.loss(output, y[i : i + 1]).sum(), alone)
            gradients.append(gradient.flatten().numpy())
        orthogonalities.append(orthogonality_by_pairs(np.stack(gradients)))
    return ranks, orthogonalities


@pytest.mark.parametrize("name", SEEDS)
def test_measurements_against_one_sample_at_a_time(name: str) -> None:
    """Blended seeds count with their influence, incubating ones do not."""
    world = world_of(name)
    counts = look(world)
    assert counts.rank.dtype == counts.orthogonality.dtype == np.float64
    expected = [by_hand(world, env, SAMPLES) for env in range(2)]
    assert_allclose(counts.rank, [ranks for ranks, _ in expected], rtol=1e-12)
    assert_allclose(counts.orthogonality, [values for _, values in expected], rtol=1e-12)
    assert len(np.unique(np.round(counts.rank, 6))) == counts.rank.size
    assert len(np.unique(np.round(counts.orthogonality, 6))) == counts.rank.size


def test_the_seed_is_in_what_leaves_the_slot() -> None:
    world = world_of("mlp")
    grown = look(world)
    world.table.ramp_target[:] = 0.1
    other = look(world)
    assert_array_equal(grown.rank[:, 0], other.rank[:, 0])
    assert (np.abs(grown.rank[:, 1] - other.rank[:, 1]) > 1e-6).all()
    assert (np.abs(grown.orthogonality[:, 0] - other.orthogonality[:, 0]) > 1e-6).all()


def test_a_seed_that_incubates_is_not_there() -> None:
    """Nor does its own gradient reach the features of the site before it."""
    held, incubated = (0, "linear", Stage.HOLDING, 0.5), (1, "lowrank", Stage.TRAINING, 1.0)
    one, other = (look(World(program(spirals(arms=3)), 2, *s)) for s in ([held], [held, incubated]))
    for name in MEASURES:
        assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("narrow", [0, 1, 2])
def test_the_narrow_block_has_the_lowest_rank(narrow: int, dtype: Any) -> None:
    """One unit lives, which leaves one direction at most: behind it may be as few, before it are more."""
    world = World(program(digits(blocks=3, narrow=narrow, narrow_width=1)), 6, dtype=dtype)
    ranks = look(world, RANK).rank
    assert_array_equal(ranks[:, narrow], np.where(ranks[:, narrow] > 0, 1 / 8, 0.0))
    assert (ranks[:, narrow] > 0).any()
    assert (ranks[:, narrow] <= ranks.min(axis=1) + 1e-15).all()
    assert (ranks[:, :narrow] > 1.05 / 8).all()


@pytest.mark.parametrize("measures", [NOTHING, RANK, ORTHOGONALITY, BOTH])
def test_only_what_is_asked_for_is_computed(
    measures: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not asked for is unknown; without orthogonality nothing runs backward,
    and without anything nothing runs."""
    world = world_of("mlp")
    everything = look(world)
    assert BOTH == MEASURES
    if "orthogonality" not in measures:
        monkeypatch.setattr(torch.autograd, "grad", None)
    if not measures:
        monkeypatch.setattr(sites, "fold", None)
    counts = look(world, measures)
    for name in MEASURES:
        expected = getattr(everything, name)
        assert np.isfinite(expected).all()
        assert_array_equal(
            getattr(counts, name), expected if name in measures else np.full_like(expected, np.nan)
        )
    for name in ("loss_sum", "score_sum", "co_score"):
        assert_array_equal(getattr(counts, name), getattr(everything, name))


@pytest.mark.parametrize("measures", [NOTHING, BOTH])
def test_one_transfer_brings_everything(measures: frozenset[str], monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of("conv")
    transfers = []
    for name in ("cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__"):
        plain = getattr(Tensor, name)
        counted = lambda t, *rest, name=name, plain=plain: (transfers.append(name), plain(t, *rest))[1]  # noqa: E731
        monkeypatch.setattr(Tensor, name, counted)
    look(world, measures)
    assert transfers == ["cpu", "numpy"]


@pytest.mark.parametrize("name", SEEDS)
def test_nothing_changes(name: str) -> None:
    world = world_of(name)
    before = world.device.export(world.tensors)
    state = torch.get_rng_state()
    look(world)
    assert_same(before, world.device.export(world.tensors))
    assert torch.equal(state, torch.get_rng_state())
    for env in range(2):
        modules = (world.tensors.host(env), *world.tensors.seeds(env).values())
        assert all(p.requires_grad and p.grad is None for module in modules for p in module.parameters())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SEEDS)
def test_neighbours_do_not_matter(name: str, dtype: Any) -> None:
    """Not how many there are, and not one whose parameters are not finite."""
    alone, among = world_of(name, 1, dtype=dtype), world_of(name, 3, dtype=dtype)
    arrays = dict(among.device.export(among.tensors))
    for key, value in alone.device.export(alone.tensors).items():
        arrays[key][:1] = value
        arrays[key][1] = float("nan") if value.is_floating_point() else value[0]
    among.tensors = among.device.adopt(arrays, among.table, np.arange(3), 0)
    one, other = look(alone), look(among)
    for measure_ in ("rank", "orthogonality"):
        assert_array_equal(getattr(one, measure_)[0], getattr(other, measure_)[0])
        assert np.isnan(getattr(other, measure_)[1]).all()
        assert np.isfinite(getattr(other, measure_)[2]).all()


def test_only_the_first_samples_are_looked_at() -> None:
    """A limit of the plan may make them fewer."""
    problem = digits(narrow_width=8)
    tail = problem.validation.inputs.clone()
    tail[SAMPLES:] = 7.0
    changed = evolve(problem, validation=evolve(problem.validation, inputs=tail))
    one, other = (World(program(p), 1) for p in (problem, changed))
    full, same, few = look(one), look(other), look(one, limit=40)
    assert full.samples > SAMPLES
    assert full.loss_sum[0, 0] != same.loss_sum[0, 0]
    for name in MEASURES:
        assert_array_equal(getattr(full, name), getattr(same, name))
        assert (getattr(full, name) != getattr(few, name)).all()
    assert_allclose(few.rank[0], by_hand(one, 0, 40)[0], rtol=1e-12)


@pytest.mark.parametrize("name", SEEDS)
def test_neither_the_budget_nor_the_mode_of_modules_matters(name: str) -> None:
    world = world_of(name, 3)
    data = world.program.problem.validation
    data = evolve(data, inputs=data.inputs.double())
    influence = ramps.influence(world.table)
    expected = look(world)
    before = world.device.export(world.tensors)
    for budget in (1, 150, 10**9):
        for env in range(3):
            for module in (world.tensors.host(env), *world.tensors.seeds(env).values()):
                module.train()
        found = measure(sites.look, world.program, world.tensors, data, influence, BOTH, budget)
        assert_array_equal(found[0], expected.rank)
        assert_array_equal(found[1], expected.orthogonality)
    assert_same(before, world.device.export(world.tensors))


class Deaf(nn.Linear):
    """A read-out that does not read: the same logits for everybody."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.zeros_like(x))


class Rude(nn.Module):
    """Segments that write over what they read, and a stem that does not train."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Linear(2, 5).requires_grad_(False)
        tail = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 2))
        self.segments = nn.ModuleList([stem, nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 5)), tail])
        self.sites = tuple(Site(name=f"s{i}", after=i, kind="vector", width=5) for i in range(2))


def test_segments_may_write_over_what_they_read_and_need_not_train() -> None:
    problem = evolve(spirals(), host=Part(name="test/rude", build="", call=Rude))
    world = World(program(problem), 1)
    counts = look(world)
    host = world.tensors.host(0)
    with torch.no_grad():
        first = host.segments[0](problem.validation.inputs.double())
        second = host.segments[1](first.clone())
    assert_allclose(counts.rank[0], [rank_by_spectrum(h.numpy()) for h in (first, second)], rtol=1e-12)
    gradients = []
    for h, rest in ((first, host.segments[1:]), (second, host.segments[2:])):
        leaf = h.clone().requires_grad_()
        loss = problem.loss(nn.Sequential(*rest)(leaf.clone()), problem.validation.targets).sum()
        gradients.append(torch.autograd.grad(loss, leaf)[0].numpy())
    assert_allclose(counts.orthogonality[0], [orthogonality_by_pairs(g) for g in gradients], rtol=1e-12)


def deaf() -> nn.Module:
    host = Rude()
    host.segments[2] = Deaf(5, 2)
    return host


def test_features_that_the_loss_does_not_read_have_no_orthogonality() -> None:
    world = World(program(evolve(spirals(), host=Part(name="test/deaf", build="", call=deaf))), 1)
    counts = look(world)
    assert np.isfinite(counts.rank).all()
    assert np.isnan(counts.orthogonality).all()
