"""One epoch, one order, whichever policy decides; and what an episode remembers."""

from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from worlds import (
    EVERYTHING,
    assert_same,
    cast_of,
    epochs,
    pictures,
    play,
    program,
    script,
    spirals,
    step,
    table_of,
)

from esper_core.phases import collect, reward
from esper_core.plugin.protocols import View
from esper_core.plugin.rewards import Transition
from esper_core.rules import governor, lifecycle
from esper_core.rules.lifecycle import Refusal
from esper_core.state import rollout as rollout_module
from esper_core.state.actions import HEADS, Op
from esper_core.state.settings import GrowthSettings, TrainSettings
from esper_core.state.slots import PLANTED, SlotTable, Stage
from esper_plugins.policies import heuristic, lowest_rank, lstm, random, static
from esper_plugins.policies.settings import Heuristic, LowestRank, Lstm

TRAIN = TrainSettings(epochs=10, batch_size=8, train_batches=2)
POLICIES = {
    "static": static.build,
    "random": random.build,
    "heuristic": lambda context: heuristic.build(context, Heuristic(min_epoch=0, patience=0)),
    "plant-lowest-rank": lambda context: lowest_rank.build(context, LowestRank()),
    "lstm": lambda context: lstm.build(context, Lstm(hidden=8, slot_code=4)),
    "scripted": script(
        step(0, "germinate", "block0", blueprint="linear", target=1.0, speed=1),
        step(2, "advance", "block0"),
        step(4, "fossilize", "block0"),
        step(5, "prune", "block0"),
    ),
}


@pytest.mark.acceptance("X-23", "HE-04", "HE-05")
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_policy_lives_through_the_same_epoch(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decide, act, train, evaluate, judge, bless, pay: in every epoch, whatever was decided."""
    cast = cast_of(program(spirals(), train=TRAIN), policy)
    order: list[str] = []

    def spy(where: Any, name: str) -> None:
        real = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *a, **k: (order.append(name), real(*a, **k))[1])

    spy(cast.policy, "decide")
    for name in ("apply", "tick", "settle", "age"):
        spy(lifecycle, name)
    for name in ("edit", "train", "evaluate", "snapshot"):
        spy(cast.device, name)
    spy(governor, "judge")
    spy(reward, "pay")
    play(cast, (0, 1))
    epoch = [
        "decide",
        "apply",
        "tick",
        "edit",
        "settle",
        "train",
        "evaluate",
        "age",
        "judge",
        "snapshot",
        "pay",
    ]
    assert order == ["snapshot", *epoch * TRAIN.epochs]


def test_a_decision_sees_the_epoch_before_and_is_paid_for_the_epoch_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the policy saw is what the last epoch measured; what it is paid was measured after it acted."""
    cast = cast_of(program(spirals(), train=TRAIN), random.build)
    views: list[View] = []
    transitions: list[Transition] = []
    numbers: list[int] = []
    decide, pay = cast.policy.decide, reward.pay

    def paid(family: Any, ledger: Any, transition: Transition, *, epoch: int, **rest: Any) -> Any:
        transitions.append(transition)
        numbers.append(epoch)
        return pay(family, ledger, transition, epoch=epoch, **rest)

    cast.policy.decide = lambda view, *rest: (views.append(view), decide(view, *rest))[1]  # type: ignore[method-assign]
    monkeypatch.setattr(reward, "pay", paid)
    after = [episode for episode, _ in epochs(cast, (0, 1, 2))]
    assert [view.epoch for view in views] == numbers == list(range(TRAIN.epochs))
    assert [view.begins.all() for view in views] == [True] + [False] * 9
    assert np.isnan(views[0].signals.score).all()
    for view, transition, episode in zip(views, transitions, after, strict=True):
        for standing, seen in ((transition.before, view), (transition.after, episode)):
            assert standing.slots is seen.slots
            assert standing.signals is seen.signals
            assert standing.evidence is seen.evidence
    for view, episode in zip(views[1:], after, strict=False):
        assert view.slots is episode.slots
        assert view.evidence is episode.evidence
    assert [t.final for t in transitions] == [False] * 9 + [True]
    assert all((t.terminal == t.final).all() for t in transitions)


@pytest.mark.property
@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    root=st.integers(0, 10**6),
    make=st.sampled_from([spirals, pictures]),
    growth=st.fixed_dictionaries(
        {
            "max_live": st.integers(1, 2),
            "auto_advance": st.booleans(),
            "budget": st.sampled_from([None, 0, 25, 60]),
            "training_dwell": st.sampled_from([0.0, 0.3]),
            "prune_dwell": st.sampled_from([0.0, 0.3]),
            "min_health": st.sampled_from([0.0, 0.9]),
            "min_contribution": st.sampled_from([-1.0, 0.0]),
        }
    ),
)
def test_the_random_policy_only_takes_actions_that_succeed(
    root: int, make: Any, growth: dict[str, Any]
) -> None:
    """Nothing that it does is refused, heads that an action does not read stay in range, and limits hold."""
    rules = GrowthSettings(**{**EVERYTHING, **growth})
    cast = cast_of(program(make(), train=TRAIN, growth=rules, root=root), random.build)
    played = play(cast, range(4))
    assert not played.episode.rollout.refused.any()
    heads, sizes = played.episode.rollout.heads, np.asarray(cast.program.space.sizes)
    assert ((heads >= 0) & (heads < sizes)).all()
    for report in played.reports:
        assert (
            report.after.parameters.sum(axis=1) <= (np.inf if rules.budget is None else rules.budget)
        ).all()
        assert (report.after.within(PLANTED[:-1]).sum(axis=1) <= rules.max_live).all()


def test_over_many_environments_the_random_policy_tries_everything() -> None:
    cast = cast_of(
        program(spirals(), train=TrainSettings(epochs=16, batch_size=8, train_batches=1)), random.build
    )
    heads = play(cast, range(30)).episode.rollout.heads
    germinations = heads[heads[:, :, 0] == Op.GERMINATE]
    assert set(heads[:, :, 0].ravel().tolist()) == {int(op) for op in Op}
    for head, size in list(zip(HEADS, cast.program.space.sizes, strict=True))[1:]:
        assert set(germinations[:, HEADS.index(head)].tolist()) == set(range(size)), head


def test_first_contact_is_measured_while_a_seed_trains_and_at_no_other_time() -> None:
    cast = cast_of(program(spirals(), train=TRAIN), random.build)
    seen = set()
    for episode, report in epochs(cast, range(6)):
        training = report.after.stage == Stage.TRAINING
        np.testing.assert_array_equal(np.isfinite(episode.evidence.contact), training)
        seen |= set(report.after.stage.ravel().tolist())
    assert {Stage.TRAINING, Stage.BLENDING, Stage.DORMANT} <= seen


def test_a_refused_action_changes_nothing_and_is_recorded() -> None:
    steps = (step(1, "prune", "block0"), step(2, "advance", "block1"), step(3, "fossilize", "block1"))
    one = play(cast_of(program(spirals(), train=TRAIN), script(*steps)), (0, 1))
    other = play(cast_of(program(spirals(), train=TRAIN), static.build), (0, 1))
    assert_same(one.tensors, other.tensors)
    refused = one.episode.rollout.refused[:, 0].tolist()
    assert refused == [0, Refusal.NOT_PRUNABLE, Refusal.GATE_CLOSED, Refusal.GATE_CLOSED, *[0] * 6]
    np.testing.assert_array_equal(one.episode.rollout.reward, other.episode.rollout.reward)


# ------------------------------------------------------------------ counting actions


@pytest.mark.acceptance("ME-06")
def test_actions_are_counted_by_index_and_add_up_to_the_epochs() -> None:
    """A refused action was not carried out, so it counts as waiting."""
    played = play(cast_of(program(spirals(), train=TRAIN), POLICIES["scripted"]), (0, 1))
    rollout = played.episode.rollout
    counts = rollout.operations()
    assert counts.shape == (2, len(Op))
    assert (counts.sum(axis=1) == TRAIN.epochs).all()
    assert rollout.refused[5].tolist() == [Refusal.NOT_PRUNABLE] * 2
    expected = {
        Op.GERMINATE: 1,
        Op.ADVANCE: 1,
        Op.FOSSILIZE: 1,
        Op.PRUNE: 0,
        Op.SET_ALPHA_TARGET: 0,
        Op.WAIT: 7,
    }
    assert counts[0].tolist() == [expected[op] for op in Op]


@pytest.mark.acceptance("ME-06")
def test_renaming_an_operation_breaks_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(cast_of(program(spirals(), train=TRAIN), random.build), range(4))
    before = played.episode.rollout.operations()
    renamed = IntEnum("Op", {name: op.value for name, op in zip(("WAIT", *"ABCDE"), Op, strict=True)})
    monkeypatch.setattr(rollout_module, "Op", renamed)
    np.testing.assert_array_equal(played.episode.rollout.operations(), before)


# ------------------------------------------------------------------ seeds from the start


def test_planted_seeds_are_there_from_the_start_and_committed() -> None:
    """An arm of a comparison: the network with all its seeds from scratch, through the same loop."""
    world = program(spirals(), train=TRAIN)
    planted = table_of(world, 2, (0, "lowrank", Stage.FOSSILIZED, 1.0), (1, "linear", Stage.FOSSILIZED, 0.5))
    cast = cast_of(world, static.build)
    episode = collect.begin(cast, np.arange(2), 0, planted)
    assert sorted(episode.tensors.seeds(1)) == [0, 1]
    born = cast.device.export(episode.tensors)
    played = play(cast, (0, 1), planted=planted)
    assert not np.isnan(played.reports[0].attribution.shapley).any()
    np.testing.assert_array_equal(played.episode.rollout.committed, played.episode.rollout.score)
    moved = [name for name, t in played.tensors.items() if "/parameters/" in name and (t != born[name]).any()]
    assert any(name.startswith("pool/0.") for name in moved)
    assert any(name.startswith("pool/1.") for name in moved)


def test_the_record_of_an_epoch_has_its_times() -> None:
    played = play(cast_of(program(spirals(), train=TRAIN), static.build))
    for report in played.reports:
        assert report.device_ms > 0
        assert report.wait_ms >= 0
        assert report.host_ms > 0


def test_an_episode_of_one_epoch_one_slot_one_environment() -> None:
    """The smallest world there is."""
    train = TrainSettings(epochs=1, batch_size=1, train_batches=1)
    played = play(cast_of(program(spirals(blocks=1), train=train), random.build))
    assert played.episode.rollout.heads.shape == (1, 1, len(HEADS))
    assert played.episode.slots.shape == (1, 1)
    assert isinstance(played.episode.slots, SlotTable)
    assert evolve(played.episode).epoch == 1
