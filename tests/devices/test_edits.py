"""Edits of structure: optimizer state is born and dies with its seed; an edit happens as a whole or not."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import (
    EVERYTHING,
    assert_same,
    cast_of,
    epochs,
    pictures,
    plan_of,
    play,
    program,
    rows_of,
    script,
    spirals,
    step,
    table_of,
)

from esper_core.model.hosts import Site
from esper_core.model.parts import Part
from esper_core.model.program import BuildError
from esper_core.phases.collect import Cast, Episode, EpochReport
from esper_core.plugin import PluginError
from esper_core.rules import lifecycle
from esper_core.state.settings import GrowthSettings, OptimizerSettings, TrainSettings
from esper_core.state.slots import PLANTED, SlotTable, Stage
from esper_plugins.devices import single
from esper_plugins.devices.settings import Single
from esper_plugins.policies import random

STEPS = 2
TRAIN = TrainSettings(epochs=14, batch_size=8, train_batches=STEPS)
ADAMW = evolve(
    TRAIN, host=OptimizerSettings(name="adamw", lr=0.01), seed=OptimizerSettings(name="adamw", lr=0.01)
)

Export = Mapping[str, Tensor]


def watched(cast: Cast, envs: Any) -> Iterator[tuple[Episode, EpochReport, Export, Export]]:
    """An episode with exports from before and after every edit."""
    exports: list[Export] = []
    real = cast.device.edit

    def edit(tensors: Any, edits: Any) -> Any:
        before = cast.device.export(tensors)
        tensors, built = real(tensors, edits)
        exports[:] = [before, cast.device.export(tensors)]
        return tensors, built

    cast.device.edit = edit  # type: ignore[method-assign]
    for episode, report in epochs(cast, envs):
        yield episode, report, exports[0], exports[1]


def seeds_in(table: SlotTable) -> set[str]:
    """Pools that a table asks for, with their number of rows."""
    envs, sites = np.nonzero(table.within(PLANTED))
    keys = [f"{s}.{table.blueprint[e, s]}.{table.blend[e, s]}" for e, s in zip(envs, sites, strict=True)]
    return {f"pool/{key} x {keys.count(key)}" for key in keys}


def seeds_of(exported: Export, kind: str) -> set[str]:
    """Pools that have tensors of a kind, with their number of rows."""
    pools = {tuple(name.split("/")[:2]): len(t) for name, t in exported.items() if name.startswith("pool/")}
    having = {tuple(name.split("/")[:2]) for name in exported if f"/{kind}" in name}
    return {f"{'/'.join(pool)} x {rows}" for pool, rows in pools.items() if pool in having}


@pytest.mark.acceptance("GR-11", "GR-12")
@pytest.mark.property
@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    root=st.integers(0, 10**6),
    make=st.sampled_from([spirals, pictures]),
    train=st.sampled_from([TRAIN, ADAMW]),
    growth=st.fixed_dictionaries(
        {"max_live": st.integers(1, 2), "freeze_fossils": st.booleans(), "auto_advance": st.booleans()}
    ),
)
def test_optimizer_state_belongs_to_live_seeds_and_survives_everything_else(
    root: int, make: Any, train: TrainSettings, growth: dict[str, Any]
) -> None:
    """Random legal play: after every edit its keys are those of the seeds that are there, and no others."""
    rules = GrowthSettings(**{**EVERYTHING, **growth})
    cast = cast_of(program(make(), train=train, growth=rules, root=root), random.build)
    kinds = {"sgd": ("momentum",), "adamw": ("first", "second")}[train.seed.name]
    for episode, report, before, after in watched(cast, range(3)):
        for kind in ("parameters", "steps", *kinds):
            assert seeds_of(after, kind) == seeds_in(report.after)
        assert_edited(cast, report, before, after, kinds)
        assert_steps(cast, episode, report, after)


def assert_edited(
    cast: Cast, report: EpochReport, before: Export, after: Export, kinds: tuple[str, ...]
) -> None:
    """Whoever stayed is bit-equal; whoever is new is what its key says, without momentum."""
    old, new = report.before.within(PLANTED), report.after.within(PLANTED)
    for env in range(len(old)):
        had, has = rows_of(before, report.before, env), rows_of(after, report.after, env)
        stayed = [f"pool/{s}." for s in np.flatnonzero(old[env] & new[env])]
        kept = {name: t for name, t in has.items() if name.startswith(("host/", *stayed))}
        assert_same(kept, {name: had[name] for name in kept})
        for site in np.flatnonzero(new[env] & ~old[env]).tolist():
            slots = report.after
            key = (site, int(slots.blueprint[env, site]), int(slots.blend[env, site]))
            path = "pool/" + ".".join(map(str, key))
            born = cast.program.seed(*key, (0, env, int(slots.seed[env, site])))
            for name, value in born.named_parameters():
                assert torch.equal(has[f"{path}/parameters/{name}"], value.double())
                assert not any(bool(has[f"{path}/{kind}/{name}"].any()) for kind in kinds)
            assert has[f"{path}/steps"] == 0


def assert_steps(cast: Cast, episode: Episode, report: EpochReport, after: Export) -> None:
    """Every group that trains took all steps of the epoch, every other one none."""
    trained = cast.device.export(episode.tensors)
    still = (report.after.stage == Stage.FOSSILIZED) & cast.program.growth.freeze_fossils
    for env in range(len(still)):
        then, now = rows_of(after, report.after, env), rows_of(trained, report.after, env)
        assert int(now["host/steps"]) == int(then["host/steps"]) + STEPS
        for site in np.flatnonzero(report.after.within(PLANTED)[env]).tolist():
            mine = {name for name in now if name.startswith(f"pool/{site}.")}
            (steps,) = (name for name in mine if name.endswith("/steps"))
            assert int(now[steps]) == int(then[steps]) + STEPS * int(not still[env, site])
            if still[env, site]:
                assert_same({n: now[n] for n in mine}, {n: then[n] for n in mine})


TWO = (
    step(0, "germinate", "block0", blueprint="linear", target=1.0, speed=0),
    step(1, "germinate", "block1", blueprint="lowrank", target=1.0, speed=0),
    step(2, "advance", "block1"),
)


@pytest.mark.acceptance("GR-10")
@pytest.mark.parametrize("train", [TRAIN, ADAMW], ids=["sgd", "adamw"])
def test_the_momentum_of_a_survivor_is_untouched_when_another_seed_is_pruned(train: TrainSettings) -> None:
    """Bit for bit across the edit, in the same environment and in one that shares the pool; the host too."""
    steps = (*TWO, step(4, "prune", "block0", speed=0, envs=(0,)))
    train = evolve(train, epochs=6)
    cast = cast_of(program(spirals(), train=train), script(*steps))
    report, before, after = next(
        epoch for _, *epoch in watched(cast, (0, 1)) if epoch[0].after.stage[0, 0] == Stage.PRUNED
    )
    assert report.after.stage[:, 0].tolist() == [Stage.PRUNED, Stage.TRAINING]
    for env in range(2):
        had, has = rows_of(before, report.before, env), rows_of(after, report.after, env)
        assert_same(has, {name: had[name] for name in has})
        moved = [name for name in has if name.split("/")[-2] in ("momentum", "first", "second")]
        assert all(bool(has[name].any()) for name in moved if "bias" in name)
    assert not any(name.startswith("pool/0.") for name in rows_of(after, report.after, 0))


@pytest.mark.acceptance("GR-10")
def test_a_survivor_goes_on_as_if_its_neighbour_had_never_been_there() -> None:
    """A TRAINING seed is invisible and its prune leaves no trace: the run equals one without it."""
    train = evolve(TRAIN, epochs=8)
    alone = (
        step(1, "germinate", "block1", blueprint="lowrank", target=1.0, speed=0),
        step(2, "advance", "block1"),
        step(5, "fossilize", "block1"),
    )
    beside = (
        *alone[:2],
        step(3, "germinate", "block0", blueprint="linear", target=1.0),
        step(6, "prune", "block0", speed=0),
        alone[2],
    )
    one, other = (play(cast_of(program(spirals(), train=train), script(*s))) for s in (alone, beside))
    assert not other.episode.rollout.refused.any()
    assert_same(one.tensors, other.tensors)


@pytest.mark.acceptance("GR-11")
def test_nothing_changes_a_seed_that_is_gone() -> None:
    """The parameters of a pruned seed are held from outside: no later epoch moves them."""
    steps = (*TWO, step(3, "prune", "block1", speed=0), step(5, "fossilize", "block0"))
    cast = cast_of(program(spirals(), train=evolve(TRAIN, epochs=8)), script(*steps))
    held: list[Tensor] = []
    copies: list[Tensor] = []
    for episode, report in epochs(cast, (0, 1)):
        if episode.epoch == 3:
            held = [p for env in range(2) for p in episode.tensors.seeds(env)[1].parameters()]
            copies = [p.detach().clone() for p in held]
        if episode.epoch > 3:
            assert report.after.stage[0, 1] not in PLANTED
            assert all(torch.equal(p, copy) for p, copy in zip(held, copies, strict=True))
    assert held


def broken(site: Site) -> nn.Module:
    layer = nn.Linear(site.width, site.width)
    nn.init.constant_(layer.weight, float("nan"))
    return layer


def good(site: Site) -> nn.Module:
    layer = nn.Linear(site.width, site.width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


GOOD, BROKEN = (Part(name=f"test/{f.__name__}", build="", call=f) for f in (good, broken))


@pytest.mark.acceptance("GR-11")
def test_a_seed_that_cannot_be_built_leaves_nothing_behind() -> None:
    """G1 fails in environment 0: its slot is empty at once, and all else is as if it had never been asked."""
    parts = [GOOD, BROKEN]
    steps = (
        step(1, "germinate", "block0", blueprint="broken", target=1.0, envs=(0,)),
        step(1, "germinate", "block0", blueprint="good", target=1.0, envs=(1,)),
        step(2, "germinate", "block0", blueprint="good", target=1.0, envs=(0,)),
    )
    cast = cast_of(program(spirals(), train=evolve(TRAIN, epochs=4), parts=parts), script(*steps))
    stages = []
    for _, report, _, after in watched(cast, (0, 1)):
        stages.append(report.after.stage[:, 0].tolist())
        assert seeds_of(after, "momentum") == seeds_in(report.after)
    assert stages == [[0, 0], [0, 2], [2, 2], [2, 2]]


@pytest.mark.acceptance("X-10")
@pytest.mark.parametrize("frozen", [False, True])
def test_fossils_train_on_with_their_momentum_or_freeze_as_the_setting_says(frozen: bool) -> None:
    growth = GrowthSettings(**{**EVERYTHING, "freeze_fossils": frozen})
    steps = (*TWO[1:], step(4, "fossilize", "block1"))
    cast = cast_of(program(spirals(), train=evolve(TRAIN, epochs=7), growth=growth), script(*steps))
    states = []
    for episode, report, before, after in watched(cast, (0,)):
        if report.before.stage[0, 1] == Stage.HOLDING and report.after.stage[0, 1] == Stage.FOSSILIZED:
            assert_same(before, after)
            assert bool(after["pool/1.1.0/momentum/branch.bias"].any())
            states.append(after)
        if report.after.stage[0, 1] == Stage.FOSSILIZED:
            states.append(cast.device.export(episode.tensors))
    assert len(states) == 4
    for one, other in pairwise(states):
        for kind in ("parameters", "momentum"):
            name = f"pool/1.1.0/{kind}/branch.bias"
            assert torch.equal(one[name], other[name]) == frozen
        assert not torch.equal(
            one["host/parameters/segments.0.0.bias"], other["host/parameters/segments.0.0.bias"]
        )
    assert int(states[-1]["pool/1.1.0/steps"][0]) == int(states[0]["pool/1.1.0/steps"][0]) + STEPS * 3 * (
        not frozen
    )


# ------------------------------------------------------------------ all or nothing


def moody(site: Site) -> nn.Module:
    """Fails, or is built with another shape, whenever the test says so."""
    mood = _MOODS.pop(0) if _MOODS else "fine"
    if mood == "fails":
        raise RuntimeError("out of memory")
    layer = good(site)
    if mood == "odd":
        layer.extra = nn.Parameter(torch.zeros(3))
    return layer


_MOODS: list[str] = []
MOODY = Part(name="test/moody", build="", call=moody)


@pytest.mark.acceptance("GR-12")
@pytest.mark.parametrize(
    ("moods", "error"), [(["fine", "fails"], BuildError), (["fine", "odd"], PluginError)]
)
def test_a_failure_in_the_middle_of_an_edit_leaves_the_old_tensors_whole(
    moods: list[str], error: type[Exception]
) -> None:
    """Environment 0 has a seed at the first site; adding one to environment 1 re-stacks that pool, then the
    second site fails. What was there trains on, bit for bit as if nobody had tried."""
    world = program(spirals(), train=TRAIN, parts=[GOOD, MOODY])
    none = SlotTable.empty(3, 2)
    first, wanted = (
        table_of(world, 3, (0, "good", Stage.HOLDING, 1.0)),
        table_of(world, 3, (0, "good", Stage.HOLDING, 1.0), (1, "moody", Stage.TRAINING, 1.0)),
    )
    first.blueprint[1:], first.stage[1:], first.seed[1:], first.blend[1:] = -1, Stage.DORMANT, -1, -1
    indices = np.arange(3 * 2 * 8).reshape(3, 2, 8) % 30
    results = []
    for attempt in (False, True):
        device = single.build(world, Single(dtype="float64"))
        tensors, _ = device.edit(device.start(np.arange(3), 0), lifecycle.edits(none, first))
        tensors, _ = device.train(tensors, plan_of(world, first, indices))
        if attempt:
            _MOODS[:] = moods
            before = device.export(tensors)
            with pytest.raises(error, match=r"out of memory|two modules .* differ in 'branch\.extra'"):
                device.edit(tensors, lifecycle.edits(first, wanted))
            _MOODS.clear()
            assert_same(before, device.export(tensors))
        tensors, counts = device.train(tensors, plan_of(world, first, indices))
        results.append((device.export(tensors), counts))
    assert_same(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1].seeds.square, results[1][1].seeds.square)


def test_an_edit_that_changes_nothing_returns_the_same_rows() -> None:
    world = program(spirals(), train=TRAIN)
    table = table_of(world, 2, (0, "linear", Stage.TRAINING, 1.0))
    device = single.build(world, Single())
    tensors, _ = device.edit(device.start(np.arange(2), 0), lifecycle.edits(SlotTable.empty(2, 2), table))
    again, built = device.edit(tensors, lifecycle.edits(table, table))
    assert not built.any()
    assert again.pools == tensors.pools
