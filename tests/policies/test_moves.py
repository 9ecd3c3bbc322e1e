"""The moves of the rules: where, what and how, when several choices are offered."""

import numpy as np
import pytest
from views import LARGE, SMALL, context_of, evidence_of, rules_of, space_of, view_of

from esper_core.errors import ConfigError
from esper_core.state.actions import Blend, Op
from esper_core.state.slots import SlotTable, Stage
from esper_plugins.policies import heuristic, lowest_rank, oracle, probe
from esper_plugins.policies.moves import Planter, commit_at_the_end, first, lowest, prune
from esper_plugins.policies.settings import Heuristic, LowestRank, Oracle, Probe

EVERYWHERE = np.ones((1, 3), np.bool_)


def empty_view(space, **growth):
    slots = SlotTable.empty(1, len(space.slots))
    return view_of(slots, evidence_of(slots.shape), space, rules_of(**growth))


def planted(space, blueprint=None, wanted=EVERYWHERE, price=None, **growth):
    decision = first(Planter(space, blueprint).plant(empty_view(space, **growth), wanted, price))
    heads = ("op", "slot", "blueprint", "blend", "curve", "target", "speed")
    return {head: int(getattr(decision, head)[0]) for head in heads}


def test_the_cheapest_is_planted_with_the_longest_ramp_to_the_highest_target():
    assert planted(space_of()) == {
        "op": Op.GERMINATE,
        "slot": 0,
        "blueprint": SMALL,
        "blend": 0,
        "curve": 0,
        "target": 1,
        "speed": 1,
    }


def test_a_blueprint_that_is_named_is_planted_where_it_fits():
    for name in ("blueprint1", "test/blueprint1"):
        chosen = planted(space_of(), name)
        assert (chosen["slot"], chosen["blueprint"]) == (1, LARGE)
    assert planted(space_of(), "blueprint1", budget=99)["op"] == Op.WAIT


def test_the_first_blend_that_is_offered_is_taken_and_its_cost_is_what_counts():
    cost = np.asarray([[[-1, 90], [40, 20]]])
    space = space_of(1, blends=(Blend.ADD, Blend.GATE), cost=cost)
    here = np.ones((1, 1), np.bool_)
    chosen = planted(space, wanted=here)
    assert (chosen["blueprint"], chosen["blend"]) == (1, 0)
    chosen = planted(space, wanted=here, budget=30)
    assert (chosen["blueprint"], chosen["blend"]) == (1, 1)
    chosen = planted(space, "blueprint0", wanted=here)
    assert (chosen["blueprint"], chosen["blend"]) == (0, 1)


def test_another_price_makes_another_choice():
    wanted = np.asarray([[False, True, True]])
    assert planted(space_of(), wanted=wanted, price=np.asarray([[1, 0]]))["blueprint"] == LARGE
    assert planted(space_of(), wanted=wanted, price=np.asarray([[1, 1]]))["blueprint"] == SMALL
    assert planted(space_of(), wanted=wanted, price=np.asarray([[1, 0]]), budget=50)["blueprint"] == SMALL


def test_the_lowest_of_the_known_values_is_found():
    nan = np.nan
    where = np.asarray([[1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]], np.bool_)
    value = np.asarray([[3, 1, 1], [0, 2, 1], [nan, 4, 3], [nan, nan, nan], [1, 2, 3]])
    expected = np.asarray([[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]], np.bool_)
    assert np.array_equal(lowest(where, value), expected)


def holding(contributions):
    """Held seeds, one per slot."""
    slots = SlotTable.empty(1, len(contributions))
    slots.stage[:] = Stage.HOLDING
    slots.seed[:] = np.arange(len(contributions))
    slots.blueprint[:] = 0
    slots.age[:] = 9
    return slots, evidence_of(slots.shape, contribution=[contributions], measured=0)


@pytest.mark.parametrize(("epoch", "slot"), [(17, None), (18, 2), (19, 2)])
def test_at_the_end_the_most_valuable_seed_is_committed_first(epoch, slot):
    """Two of three contribute, so that the last two epochs are needed."""
    slots, seen = holding([0.1, -0.1, 0.2])
    rules = rules_of(20, min_contribution=-1.0)
    decision = first(commit_at_the_end(view_of(slots, seen, space_of(), rules, epoch=epoch)))
    assert (int(decision.op[0]), int(decision.slot[0])) == (
        (Op.WAIT, 0) if slot is None else (Op.FOSSILIZE, slot)
    )


def test_a_prune_takes_the_shortest_way_and_only_held_seeds():
    space = space_of()
    slots, seen = holding([0.0, 0.0, 0.0])
    slots.stage[0, 0] = Stage.TRAINING
    decision = first(prune(view_of(slots, seen, space, rules_of()), EVERYWHERE, space))
    assert (int(decision.op[0]), int(decision.slot[0])) == (Op.PRUNE, 1)
    assert space.speeds[decision.speed[0]] == 0


def test_the_first_move_that_is_possible_is_made():
    space = space_of()
    slots, seen = holding([0.0, 0.0, 0.0])
    view = view_of(slots, seen, space, rules_of())
    both = first(Planter(space).plant(view, EVERYWHERE), prune(view, EVERYWHERE, space))
    assert int(both.op[0]) == Op.PRUNE


@pytest.mark.acceptance("HE-01")
@pytest.mark.parametrize(
    "build",
    [
        lambda context, name: lowest_rank.build(context, LowestRank(blueprint=name)),
        lambda context, name: probe.build(context, Probe(blueprint=name)),
        lambda context, name: oracle.build(context, Oracle(blueprint=name)),
    ],
)
def test_an_unknown_blueprint_is_refused_with_those_that_there_are(build):
    with pytest.raises(ConfigError) as caught:
        build(context_of(space_of()), "blueprimt1")
    assert str(caught.value) == (
        "policy.blueprint = 'blueprimt1' is not one of test/blueprint0, test/blueprint1; "
        "did you mean 'test/blueprint1'?"
    )


def test_without_an_oracle_there_is_no_oracle():
    with pytest.raises(ConfigError, match=r"'esper/oracle': the task knows no oracle.*choose a task"):
        oracle.build(context_of(space_of(), oracle=None), Oracle())


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (Heuristic, {"patience": -1}),
        (Heuristic, {"min_epoch": -1}),
        (Heuristic, {"hold_patience": 0}),
        (Heuristic, {"min_contribution": np.nan}),
        (LowestRank, {"seeds": 0}),
        (Probe, {"threshold": np.inf}),
    ],
)
def test_settings_out_of_range_are_refused(record, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        record(**fields)


def test_the_heuristic_gives_every_slot_every_blueprint_in_turn():
    """Two laps over three slots; LARGE does not fit the first, which gets SMALL again."""
    space, rules = space_of(), rules_of()
    policy = heuristic.build(context_of(space), Heuristic())
    chosen = []
    for born in range(6):
        slots = SlotTable.empty(1, 3)
        slots.born[:] = born
        decision = policy.decide(
            view_of(slots, evidence_of((1, 3)), space, rules), None, np.zeros((1, 7))
        ).decision
        chosen.append((int(decision.slot[0]), int(decision.blueprint[0])))
    assert chosen == [(0, SMALL), (1, LARGE), (2, SMALL), (0, SMALL), (1, SMALL), (2, LARGE)]
