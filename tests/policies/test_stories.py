"""What every rule does in an episode, told epoch by epoch.

A life in these worlds: planted in epoch t, offered ADVANCE in t + 1, held from t + 2 on (the ramp takes two
epochs), its contribution known in t + 3.
"""

from typing import Any

import attrs
import numpy as np
import pytest
from views import LARGE, RULES, SMALL, context_of, evidence_of, held, play, rules_of, space_of, story, view_of

from esper_core.state.actions import Op
from esper_core.state.slots import SlotTable, Stage
from esper_plugins.policies import heuristic, lowest_rank, oracle, probe, scripted
from esper_plugins.policies.settings import Heuristic, LowestRank, Oracle, Probe, Scripted, ScriptStep

RANKS = np.asarray([0.9, 0.3, 0.5])
LIMITS, SPACE = rules_of(20), space_of()
CONTEXT = context_of(SPACE)
UNIFORMS = np.zeros((1, 7))


def measured(contributions: Any, since: int = 1) -> Any:
    """Ranks known after `since` epochs, and the contribution of every slot once its seed is held."""
    rank = lambda epoch: RANKS if epoch >= since else np.nan  # noqa: E731
    return lambda epoch, slots: {"rank": rank(epoch), **held(slots, contributions)}


def test_the_lowest_rank_is_planted_once_it_is_known_and_committed_once_it_contributes():
    policy = lowest_rank.build(CONTEXT, LowestRank())
    assert story(play(policy, SPACE, LIMITS, measured([1.0, 0.01, 1.0]))) == [
        (1, "GERMINATE", 1),
        (2, "ADVANCE", 1),
        (4, "FOSSILIZE", 1),
    ]


def test_the_lowest_rank_waits_for_a_contribution_and_never_prunes():
    policy = lowest_rank.build(CONTEXT, LowestRank())
    late = lambda epoch, slots: {"rank": RANKS, **held(slots, 0.0 if epoch < 9 else 0.1)}  # noqa: E731
    assert story(play(policy, SPACE, LIMITS, late))[-1] == (9, "FOSSILIZE", 1)
    assert [op for _, op, _ in story(play(policy, SPACE, LIMITS, measured(0.0)))] == ["GERMINATE", "ADVANCE"]


def test_as_many_of_the_lowest_ranks_are_planted_as_asked_for():
    policy = lowest_rank.build(CONTEXT, LowestRank(seeds=2))
    assert story(play(policy, SPACE, LIMITS, measured(0.1))) == [
        (1, "GERMINATE", 1),
        (2, "ADVANCE", 1),
        (4, "FOSSILIZE", 1),
        (5, "GERMINATE", 2),
        (6, "ADVANCE", 2),
        (8, "FOSSILIZE", 2),
    ]


def test_a_slot_that_may_not_grow_is_passed_over_and_equal_ranks_go_to_the_first():
    for enabled, ranks, slot in (
        ([True, False, True], RANKS, 2),
        ([True, True, True], [0.5, 0.2, 0.2], 1),
        ([True, True, True], [np.nan, 0.9, np.nan], 1),
    ):
        space = space_of(enabled=np.asarray(enabled))
        policy = lowest_rank.build(context_of(space), LowestRank())
        told = lambda epoch, slots, ranks=ranks: {"rank": ranks}  # noqa: E731
        assert story(play(policy, space, LIMITS, told))[0] == (0, "GERMINATE", slot)


def test_a_seed_that_was_lost_is_replaced():
    """The seed in slot 1 diverges in epoch 3; its slot cools down, and the next lowest rank gets the seed."""
    policy = lowest_rank.build(CONTEXT, LowestRank())

    def told(epoch, slots):
        return {"rank": RANKS, "nonfinite": [0, int(epoch == 3), 0], **held(slots, 0.1)}

    assert story(play(policy, SPACE, LIMITS, told)) == [
        (0, "GERMINATE", 1),
        (1, "ADVANCE", 1),
        (4, "GERMINATE", 2),
        (5, "ADVANCE", 2),
        (7, "FOSSILIZE", 2),
    ]


def test_a_probe_goes_from_slot_to_slot_until_one_contributes_enough():
    policy = probe.build(CONTEXT, Probe())
    assert story(play(policy, SPACE, LIMITS, measured([0.02, 0.019, -1.0]))) == [
        (1, "GERMINATE", 1),
        (2, "ADVANCE", 1),
        (4, "PRUNE", 1),
        (5, "GERMINATE", 2),
        (6, "ADVANCE", 2),
        (8, "PRUNE", 2),
        (9, "GERMINATE", 0),
        (10, "ADVANCE", 0),
        (12, "FOSSILIZE", 0),
    ]


def test_a_probe_tries_no_slot_twice_and_stops_when_it_has_tried_them_all():
    policy = probe.build(CONTEXT, Probe())
    done = story(play(policy, SPACE, rules_of(40), measured(0.0)))
    assert [slot for _, op, slot in done if op == "GERMINATE"] == [1, 2, 0]
    assert done[-1][1:] == ("PRUNE", 0)


def test_a_probe_stops_at_the_first_success():
    policy = probe.build(CONTEXT, Probe())
    done = story(play(policy, SPACE, LIMITS, measured(0.5)))
    assert [op for _, op, _ in done] == ["GERMINATE", "ADVANCE", "FOSSILIZE"]


def test_a_probe_waits_for_a_measurement():
    """Nothing is known of the held seed until epoch 9."""
    policy = probe.build(CONTEXT, Probe())
    told = lambda epoch, slots: {"rank": RANKS, **(held(slots, 0.0) if epoch >= 9 else {})}  # noqa: E731
    assert (9, "PRUNE", 1) in story(play(policy, SPACE, LIMITS, told))


def test_what_the_gate_never_lets_through_is_pruned_all_the_same():
    policy = probe.build(CONTEXT, Probe(threshold=0.02))
    done = story(play(policy, SPACE, rules_of(min_contribution=0.1), measured([1.0, 0.05, 1.0])))
    assert done[2:4] == [(4, "PRUNE", 1), (5, "GERMINATE", 2)]


def test_a_probe_that_runs_out_of_time_commits_what_is_better_than_nothing():
    policy = probe.build(context_of(SPACE, 5), Probe())
    rules = rules_of(5, training_dwell=0.2)
    assert story(play(policy, SPACE, rules, measured(0.01)))[-1] == (4, "FOSSILIZE", 1)
    assert story(play(policy, SPACE, rules, measured(-0.01)))[-1] == (4, "PRUNE", 1)


def test_where_a_segment_begins_everything_is_untried():
    """Of three environments that tried every slot the middle one begins anew."""
    policy = probe.build(CONTEXT, Probe())
    slots = SlotTable.empty(3, 3)
    begins = np.asarray([False, True, False])
    view = view_of(slots, evidence_of((3, 3), rank=RANKS), SPACE, LIMITS, begins=begins)
    choice = policy.decide(view, np.ones((3, 3), np.bool_), np.zeros((3, 7)))
    assert choice.decision.op.tolist() == [Op.WAIT, Op.GERMINATE, Op.WAIT]
    assert choice.memory.tolist() == [[True] * 3, [False, True, False], [True] * 3]


def test_the_heuristic_plants_on_a_plateau_slot_after_slot():
    policy = heuristic.build(CONTEXT, Heuristic(patience=2, min_epoch=3, hold_patience=2))
    assert story(play(policy, SPACE, LIMITS, measured([0.0, 0.1, 0.1]))) == [
        (3, "GERMINATE", 0),
        (4, "ADVANCE", 0),
        (7, "PRUNE", 0),
        (8, "GERMINATE", 1),
        (9, "ADVANCE", 1),
        (11, "FOSSILIZE", 1),
        (12, "GERMINATE", 2),
        (13, "ADVANCE", 2),
        (15, "FOSSILIZE", 2),
        (16, "GERMINATE", 0),
        (17, "ADVANCE", 0),
    ]


def test_the_heuristic_waits_while_the_score_rises():
    policy = heuristic.build(CONTEXT, Heuristic(patience=2))
    assert story(play(policy, SPACE, LIMITS, measured(0.1), plateau=1)) == []
    assert story(play(policy, SPACE, LIMITS, measured(0.1), plateau=2))[0] == (2, "GERMINATE", 0)
    both = play(policy, SPACE, LIMITS, measured(0.1), envs=(0, 1), plateau=[1, 2])
    assert [choice.decision.op.tolist() for _, choice in both][2] == [Op.WAIT, Op.GERMINATE]


@pytest.mark.parametrize("name", ["heuristic", "probe-and-switch"])
def test_one_seed_at_a_time_even_where_more_may_live(name):
    told = measured([0.1, 0.0, 0.0])
    one, two = (story(play(RULES[name](CONTEXT), SPACE, rules_of(20, max_live=n), told)) for n in (1, 2))
    assert {slot for _, op, slot in one if op == "GERMINATE"} == {0, 1, 2}
    assert one == two


def test_the_heuristic_commits_less_only_when_the_end_is_near():
    """The contribution stays below what the setting asks for."""
    policy = heuristic.build(CONTEXT, Heuristic(min_contribution=0.05, hold_patience=99))
    done = story(play(policy, SPACE, LIMITS, measured(0.01)))
    assert done[2:] == [(19, "FOSSILIZE", 0)]
    assert len(story(play(policy, SPACE, LIMITS, measured(0.0)))) == 2


def test_the_oracle_is_asked_by_number_and_round():
    """In round 1 the environments 0, 1 and 6 need help at the slots 1, 2 and 1."""
    policy = oracle.build(CONTEXT, Oracle())
    told = lambda epoch, slots: held(slots, 0.0)  # noqa: E731
    for env, slot in enumerate((1, 2, 1)):
        episode = play(policy, SPACE, LIMITS, told, envs=(0, 1, 6), round_index=1)
        assert story(episode, env) == [(0, "GERMINATE", slot), (1, "ADVANCE", slot), (3, "FOSSILIZE", slot)]


def test_an_environment_that_needs_no_help_gets_none():
    policy = oracle.build(context_of(SPACE, oracle=lambda envs, round_index: envs - 1), Oracle())
    view = view_of(SlotTable.empty(2, 3), evidence_of((2, 3)), SPACE, LIMITS)
    decision = policy.decide(view, policy.start(np.arange(2), 0), np.zeros((2, 7))).decision
    assert (decision.op.tolist(), decision.slot.tolist()) == ([Op.WAIT, Op.GERMINATE], [0, 0])


@pytest.mark.parametrize("build", [lowest_rank.build, probe.build, oracle.build])
def test_the_blueprint_is_a_setting(build):
    kind = {lowest_rank.build: LowestRank, probe.build: Probe, oracle.build: Oracle}[build]
    context = context_of(SPACE, oracle=lambda envs, round_index: np.ones_like(envs))
    view = view_of(SlotTable.empty(1, 3), evidence_of((1, 3), rank=RANKS), SPACE, LIMITS)
    for name, index in ((None, SMALL), ("blueprint1", LARGE)):
        policy = build(context, kind(blueprint=name))
        decision = policy.decide(view, policy.start(np.asarray([0]), 0), UNIFORMS).decision
        assert (decision.op.tolist(), decision.slot.tolist()) == ([Op.GERMINATE], [1])
        assert decision.blueprint.tolist() == [index]


def test_nobody_advances_by_hand_what_advances_by_itself():
    policy = lowest_rank.build(CONTEXT, LowestRank())
    done = story(play(policy, SPACE, rules_of(auto_advance=True), measured(0.1)))
    assert [op for _, op, _ in done] == ["GERMINATE", "FOSSILIZE"]


def test_a_script_is_followed_by_the_numbers_of_the_environments():
    steps = (ScriptStep(epoch=2, op="germinate", slot="slot1", blueprint="blueprint0", envs=(7, 9)),)
    policy = scripted.build(CONTEXT, Scripted(steps=steps))
    for env, number in enumerate((3, 9, 7)):
        done = story(play(policy, SPACE, LIMITS, measured(0.0), envs=(3, 9, 7)), env)
        assert done == ([] if number == 3 else [(2, "GERMINATE", 1)])


def test_a_script_begins_anew_where_a_segment_does():
    """A step that waits is due again; one that is past is past."""
    waits, once = (
        ScriptStep(epoch=1, op="germinate", slot="slot1", blueprint="blueprint0", wait=wait)
        for wait in (True, False)
    )
    for step, ops in ((waits, [Op.WAIT, Op.GERMINATE]), (once, [Op.WAIT, Op.WAIT])):
        policy = scripted.build(CONTEXT, Scripted(steps=(step,)))
        view = view_of(SlotTable.empty(2, 3), evidence_of((2, 3)), SPACE, LIMITS, epoch=1)
        tried = policy.decide(view, policy.start(np.arange(2), 0), np.zeros((2, 7)))
        assert tried.decision.op.tolist() == [Op.GERMINATE] * 2
        later = attrs.evolve(view, epoch=4, begins=np.asarray([False, True]))
        assert policy.decide(later, tried.memory, np.zeros((2, 7))).decision.op.tolist() == ops


def test_a_committed_seed_is_left_alone():
    """Fossils count as planted: neither the probe nor the lowest rank plants a second one."""
    slots = SlotTable.empty(1, 3)
    slots.stage[0, 0], slots.seed[0, 0], slots.blueprint[0, 0] = Stage.FOSSILIZED, 0, 0
    view = view_of(slots, evidence_of((1, 3), rank=RANKS), SPACE, LIMITS)
    for policy in (lowest_rank.build(CONTEXT, LowestRank()), probe.build(CONTEXT, Probe())):
        assert policy.decide(view, policy.start(np.asarray([0]), 0), UNIFORMS).decision.op.tolist() == [
            Op.WAIT
        ]
