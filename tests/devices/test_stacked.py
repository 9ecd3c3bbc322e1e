"""The `stacked` executor against the `loop` executor: float64, 1e-12, on states that visibly differ."""

from typing import Any

import attrs
import numpy as np
import pytest
import torch
from attrs import evolve
from hand_made import SEEDS, World, batches, spoiled, train_of
from torch import Tensor, nn
from worlds import (
    EVERYTHING,
    Played,
    assert_same,
    cast_of,
    digits,
    lively,
    pictures,
    plan_of,
    play,
    program,
    spirals,
    table_of,
)

from esper_core.model.hosts import Site
from esper_core.model.parts import Part
from esper_core.model.problem import Problem, Split
from esper_core.model.program import Program
from esper_core.plugin import MEASURES, EvalPlan
from esper_core.state.settings import GrowthSettings, OptimizerSettings, TrainSettings
from esper_core.state.slots import BLENDED, Stage
from esper_plugins.devices import branches, single
from esper_plugins.devices.settings import Single
from esper_plugins.policies import random

BOTH: Any = ("loop", "stacked")
EXACT = 1e-12
ADAMW = OptimizerSettings(name="adamw", lr=0.02, weight_decay=0.1)
TIGHT = evolve(ADAMW, clip=0.05)
SGD = OptimizerSettings(lr=0.02, weight_decay=0.1)
TRAIN = TrainSettings(epochs=14, batch_size=8, train_batches=2)


def assert_close(one: Any, other: Any, where: str) -> None:
    """Numbers that are equal to 1e-12 of the largest; what is not finite is so in both."""
    one, other = np.asarray(one), np.asarray(other)
    assert one.dtype == other.dtype, where
    if one.dtype.kind != "f":
        np.testing.assert_array_equal(one, other, where)
        return
    finite = np.abs(one[np.isfinite(one)])
    scale = max(1.0, float(finite.max(initial=0.0)))
    np.testing.assert_allclose(one, other, rtol=0.0, atol=EXACT * scale, err_msg=where)


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Records and mappings, field by field."""
    if attrs.has(type(one)):
        one, other = (attrs.asdict(record, recurse=False) for record in (one, other))
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if not name.endswith("_ms"):
                assert_equal(value, other[name], f"{where}/{name}")
    elif isinstance(one, np.ndarray | np.generic | Tensor | float | int):
        assert_close(one, other, where)


def assert_same_story(one: Played, other: Played) -> None:
    """Everything that was decided, counted and learned in every epoch, and what came of it."""
    assert_equal(one.tensors, other.tensors)
    assert_equal(one.episode.slots, other.episode.slots)
    for mine, theirs in zip(one.reports, other.reports, strict=True):
        assert_equal(mine, theirs)


# ------------------------------------------------------------------ whole episodes


def growth_of(**changes: Any) -> GrowthSettings:
    return GrowthSettings(**{**EVERYTHING, **changes})


EPISODES: dict[str, Program] = {
    "spirals-sgd": program(spirals(), train=TRAIN, growth=growth_of(input_gain=0.5)),
    "spirals-adamw-joint": program(
        spirals(),
        train=evolve(TRAIN, host=TIGHT, seed=TIGHT, clip_scope="joint"),
        growth=growth_of(freeze_fossils=True, max_live=1, incubation_cap=0.01),
    ),
    "digits-strides": program(
        digits(blocks=3, narrow="random"),
        train=evolve(TRAIN, host=ADAMW, statistics_stride=2, train_batches=3),
        growth=growth_of(input_gain=0.0, auto_advance=True),
    ),
    "pictures-sgd-joint": program(
        pictures(),
        train=evolve(TRAIN, host=evolve(SGD, clip=0.05), clip_scope="joint"),
        growth=growth_of(freeze_fossils=True),
    ),
    "pictures-unclipped": program(
        pictures(), train=evolve(TRAIN, host=evolve(SGD, clip=0.0), seed=evolve(SGD, clip=0.0))
    ),
}


@pytest.mark.parametrize("name", EPISODES)
def test_an_episode_of_everything_is_the_same(name: str) -> None:
    """Random play in six environments: pools of several sizes, all stages, blends and curves."""
    loop, stacked = (play(cast_of(EPISODES[name], random.build, executor=e), range(6)) for e in BOTH)
    stages = np.stack([report.after.stage for report in loop.reports])
    assert {int(s) for s in np.unique(stages)} >= {Stage.TRAINING, *BLENDED}
    keys = {path.split("/")[1] for path in loop.tensors if path.startswith("pool/")}
    assert len({key.split(".")[0] for key in keys}) > 1
    losses = np.stack([report.counts.loss_sum for report in loop.reports])
    assert len(np.unique(losses.round(6))) == losses.size
    assert_same_story(loop, stacked)


@pytest.mark.parametrize("name", ["spirals-adamw-joint", "pictures-sgd-joint"])
def test_an_episode_with_poisoned_batches_is_the_same(name: str) -> None:
    """A sample that is not finite comes up now and then, in one environment or another."""
    whole = EPISODES[name]
    world = evolve(whole, problem=spoiled(whole.problem, 5, float("nan")))
    loop, stacked = (play(cast_of(world, random.build, executor=e), range(5)) for e in BOTH)
    bad = np.stack([report.counts.bad_losses for report in loop.reports])
    assert 0 < (bad > 0).sum() < bad.size
    assert_same_story(loop, stacked)


def test_a_rerun_is_the_same_bit_for_bit() -> None:
    world = EPISODES["pictures-sgd-joint"]
    one, other = (play(cast_of(world, random.build, "float32", executor="stacked"), range(4)) for _ in "ab")
    assert_same(one.tensors, other.tensors)
    np.testing.assert_array_equal(one.episode.rollout.reward, other.episode.rollout.reward)


@pytest.mark.acceptance("X-02")
@pytest.mark.parametrize("name", ["spirals-sgd", "pictures-unclipped"])
@pytest.mark.parametrize("envs", [(0, 3), (9, 8, 3, 2, 1)])
def test_an_environment_is_the_same_alone_and_among_others(name: str, envs: tuple[int, ...]) -> None:
    """To rounding: the shape of a batched product may decide its order of summation."""
    alone = play(cast_of(EPISODES[name], random.build, executor="stacked"), (3,))
    among = play(cast_of(EPISODES[name], random.build, executor="stacked"), envs)
    mine, theirs = alone.alone(0), among.alone(envs.index(3))
    assert any(path.startswith("pool/") for path in mine)
    assert_equal(mine, theirs)
    for field in ("heads", "refused", "reward", "score"):
        here, there = (getattr(p.episode.rollout, field) for p in (alone, among))
        assert_close(here[:, 0], there[:, envs.index(3)], field)


# ------------------------------------------------------------------ single epochs


@pytest.mark.parametrize("scope", ["group", "joint"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", SEEDS)
def test_what_breaks_next_door_changes_nothing(name: str, optimizer: Any, scope: Any) -> None:
    """Environment 0 meets a poisoned batch; environment 1 is what it would be, bit for bit."""
    make, seeds = SEEDS[name]
    settings = OptimizerSettings(name=optimizer, lr=0.05, weight_decay=0.1)
    train = train_of(host=settings, seed=settings, clip_scope=scope)
    world = program(spoiled(make(), 29, float("nan")), train=train)
    clean = batches(2, 3, samples=29)
    poisoned = clean.copy()
    poisoned[0, 1, 2] = 29
    hit, spared, skipped = (World(world, 2, *seeds, executor="stacked") for _ in range(3))
    counts, calm = hit.train(poisoned), spared.train(clean)
    skipped.train(clean[:, [0, 2]])
    assert counts.bad_losses.tolist() == [1, 0]
    np.testing.assert_array_equal(counts.loss_sum[1], calm.loss_sum[1])
    assert_same(hit.rows(1), spared.rows(1))
    assert_same(hit.rows(0), skipped.rows(0))


class Normalised(nn.Module):
    """A branch with batch statistics, which a row that does not train must keep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.last(self.norm(x))
        return change


NORMALISED = Part(name="test/normalised", build="", call=lambda site: Normalised(site.width))
CASES = [(t, i, a) for t in (True, False) for i, a in ((True, 0.0), (False, 0.7), (False, 0.0))]
"""Trains, incubates, influence: every way to treat a row of a pool."""


@pytest.mark.parametrize("scope", ["group", "joint"])
def test_rows_of_one_pool_that_are_treated_differently(scope: Any) -> None:
    """Frozen, unheard and incubating rows beside blended ones; gradients pass a frozen seed to its host."""
    tight = evolve(SGD, clip=0.05)
    world = program(spirals(), train=train_of(host=tight, seed=tight, clip_scope=scope), parts=[NORMALISED])
    trains, incubates, influence = (np.asarray(column)[:, None] for column in zip(*CASES, strict=True))
    gains = {"training": trains, "incubating": incubates, "influence": influence}
    plan = {name: np.concatenate([values, np.zeros_like(values)], axis=1) for name, values in gains.items()}
    states = []
    for executor in BOTH:
        made = World(world, len(CASES), (0, "normalised", Stage.HOLDING, 0.7), executor=executor)
        born = [made.rows(env) for env in range(len(CASES))]
        counts = made.train(batches(len(CASES), 3), **plan)
        states.append((counts, dict(made.device.export(made.tensors))))
        after = [made.rows(env) for env in range(len(CASES))]
        statistics = "pool/0.0.0/buffers/branch.norm.running_mean"
        moved = [
            not torch.equal(now[statistics], then[statistics]) for now, then in zip(after, born, strict=True)
        ]
        assert moved == trains[:, 0].tolist()
    assert_equal(states[0], states[1])
    for one, other in zip(*states, strict=True):
        assert_equal(one, other)


def test_a_seed_that_is_not_heard_may_be_broken() -> None:
    """Influence 0, and it does not incubate: no number of it reaches its host, and it gets no gradient."""
    make, _ = SEEDS["mlp"]
    found = []
    for executor in BOTH:
        world = World(
            program(make(), train=train_of()), 2, (0, "linear", Stage.HOLDING, 0.5), executor=executor
        )
        arrays = dict(world.device.export(world.tensors))
        arrays["pool/0.0.0/parameters/branch.weight"][0] = float("nan")
        world.tensors = world.device.adopt(arrays, world.table, np.arange(2), 0)
        counts = world.train(batches(2, 2), influence=np.asarray([[0.0, 0.0], [0.5, 0.0]]))
        assert counts.bad_losses.tolist() == [0, 0]
        assert counts.seeds.nonfinite.tolist() == [[0, 0], [0, 0]]
        found.append((counts, dict(world.device.export(world.tensors))))
    for one, other in zip(*found, strict=True):
        assert_equal(one, other)


class Shared(nn.Module):
    """Two segments that are one module, a parameter under two names, and one that does not train."""

    def __init__(self) -> None:
        super().__init__()
        middle = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        last = nn.Linear(4, 4)
        last.weight = middle[0].weight
        middle[0].bias.requires_grad_(False)
        self.segments = nn.ModuleList([nn.Linear(2, 4), middle, middle, nn.Sequential(last, nn.Linear(4, 2))])
        self.sites = (
            Site(name="here", after=1, kind="vector", width=4),
            Site(name="there", after=2, kind="vector", width=4, across=True),
        )


def sequences() -> Problem:
    """Three classes of noisy sequences `[6, 5]` of vectors."""
    draw = np.random.default_rng(0)
    labels = np.arange(36) % 3
    inputs = draw.normal(size=(3, 6, 5))[labels] + draw.normal(size=(36, 6, 5))
    part = Split(torch.from_numpy(inputs).float(), torch.from_numpy(labels))
    host = Part(name="test/recurrent", build="", call=Sequential)
    return evolve(spirals(), fit=part, validation=part, report=part, host=host)


class Sequential(nn.Module):
    """Features of kind `sequence`, through a layer normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8)),
                nn.Sequential(nn.Linear(8, 8), nn.GELU()),
                nn.Sequential(nn.Flatten(), nn.Linear(48, 3)),
            ]
        )
        self.sites = tuple(
            Site(name=f"s{i}", after=i, kind="sequence", width=8, across=bool(i)) for i in range(2)
        )


LINEAR = Part(name="test/affine", build="", call=lambda site: nn.Linear(site.width, site.width))


@pytest.mark.parametrize("problem", ["shared", "sequences"])
def test_hosts_of_other_kinds(problem: str) -> None:
    made = (
        sequences()
        if problem == "sequences"
        else evolve(spirals(), host=Part(name="test/shared", build="", call=Shared))
    )
    world = program(made, train=TRAIN, parts=[LINEAR])
    loop, stacked = (play(cast_of(world, random.build, executor=e), range(4)) for e in BOTH)
    assert any(path.startswith("pool/") for path in loop.tensors)
    assert_same_story(loop, stacked)


# ------------------------------------------------------------------ evaluation


def worlds_of(name: str, envs: int) -> list[World]:
    make, seeds = SEEDS[name]
    return [World(program(make(), train=train_of()), envs, *seeds, executor=e) for e in BOTH]


def configurations(envs: int, count: int) -> Any:
    """`[N, K, 2]` influences with repeats, zeros, and several values for one slot."""
    return np.random.default_rng(0).choice([0.0, 0.0, 0.3, 1.0], size=(envs, count, 2))


@pytest.mark.acceptance("ME-07")
@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("limit", [None, 1, 7])
@pytest.mark.parametrize("mib", [1, 64])
def test_every_configuration_is_counted_the_same(
    name: str, limit: int | None, mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is held at once; every environment has configurations of its own, and repeats."""
    monkeypatch.setattr(single, "MIB", 2**20 if mib > 1 else 2**11)
    question = EvalPlan(split="validation", limit=limit, influence=configurations(5, 11), measures=MEASURES)
    loop, stacked = (world.device.evaluate(world.tensors, question) for world in worlds_of(name, 5))
    assert len(np.unique(loop.loss_sum[0].round(9))) > 3
    assert_equal(loop, stacked)


@pytest.mark.parametrize("name", SEEDS)
def test_a_broken_seed_spoils_the_configurations_that_have_it(name: str) -> None:
    """In its own environment; where its influence is 0, its parent's features go on."""
    influence = np.asarray([[[0.0, 0.5], [0.7, 0.5], [0.0, 0.0], [0.7, 0.0]]] * 2)
    question = EvalPlan(split="validation", limit=None, influence=influence)
    found = []
    for world in worlds_of(name, 2):
        arrays = dict(world.device.export(world.tensors))
        (path,) = (p for p in arrays if p.startswith("pool/0.") and "/parameters/" in p and "weight" in p)
        arrays[path][1] = float("nan")
        world.tensors = world.device.adopt(arrays, world.table, np.arange(2), 0)
        found.append(world.device.evaluate(world.tensors, question))
        assert np.isnan(found[-1].loss_sum).tolist() == [[False] * 4, [False, True, False, True]]
    assert_equal(found[0], found[1])


def test_evaluation_changes_nothing() -> None:
    _, world = worlds_of("conv", 3)
    before = world.device.export(world.tensors)
    plan = EvalPlan(split="report", limit=None, influence=configurations(3, 5), measures=MEASURES)
    one, other = (world.device.evaluate(world.tensors, plan) for _ in "ab")
    assert_same(before, world.device.export(world.tensors))
    np.testing.assert_array_equal(one.loss_sum, other.loss_sum)


def test_equal_prefixes_are_one_row() -> None:
    """By hand: two environments, four configurations, two slots."""
    influence = np.asarray([[[0, 0], [0, 1], [1, 0], [0, 1]], [[0, 0], [0, 0], [0, 0], [0, 0.5]]], float)
    first, second = branches.Trie.of(influence).forks
    assert first is not None
    assert second is not None
    assert (first.parent.tolist(), first.influence.tolist()) == ([0, 0, 1], [0, 1, 0])
    assert (second.parent.tolist(), second.influence.tolist()) == ([0, 0, 1, 2, 2], [0, 1, 0, 0, 0.5])
    assert branches.Trie.of(influence).leaf.tolist() == [[0, 1, 2, 1], [3, 3, 3, 4]]
    assert branches.Trie.of(np.zeros((2, 3, 2))).forks == [None, None]


# ------------------------------------------------------------------ the setting


def test_the_executor_is_part_of_the_fingerprint() -> None:
    world = program(spirals())
    found = [single.build(world, Single(executor=e)).fingerprint for e in BOTH]
    assert [f["executor"] for f in found] == ["loop", "stacked"]
    rest = [{key: value for key, value in f.items() if key != "executor"} for f in found]
    assert rest[0] == rest[1]


def test_an_export_of_one_executor_goes_on_under_the_other() -> None:
    """The layout is the same, so that nothing is bound to how it was computed."""
    world = EPISODES["pictures-sgd-joint"]
    table = table_of(world, 3, (0, "norm", Stage.HOLDING, 0.5), (1, "depthwise", Stage.TRAINING, 1.0))
    devices = [single.build(world, Single(dtype="float64", executor=e)) for e in BOTH]
    arrays = devices[0].export(lively(devices[0], table, range(3)))
    ends = []
    for first, then in (devices, devices[::-1]):
        tensors = first.adopt(arrays, table, np.arange(3), 0)
        tensors, _ = first.train(tensors, plan_of(world, table, batches(3, 2)))
        tensors = then.adopt(first.export(tensors), table, np.arange(3), 0)
        tensors, _ = then.train(tensors, plan_of(world, table, batches(3, 2, offset=5)))
        ends.append(dict(then.export(tensors)))
    assert_equal(ends[0], ends[1])
