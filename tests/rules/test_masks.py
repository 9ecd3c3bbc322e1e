"""What the masks offer is exactly what the executor carries out, and what it refuses changes nothing."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import SMALL, WIDE, changed, differs, evidence_of, rules_of, say, space_of, table_of, take

from esper_core.rules import actions, lifecycle
from esper_core.rules.gates import GrowthRules
from esper_core.rules.lifecycle import Refusal
from esper_core.state.actions import HEADS, HEADS_OF, ActionSpace, Blend, Curve, Decision, Masks, Op
from esper_core.state.evidence import Evidence
from esper_core.state.slots import SlotTable, Stage
from esper_core.testing.strategies import action_spaces, decisions, evidence, growth_rules, slot_tables

EPOCHS, TRAINING_DWELL, PRUNE_DWELL = 20, 2, 3
SHARES = {"training_dwell": TRAINING_DWELL / EPOCHS, "prune_dwell": PRUNE_DWELL / EPOCHS}
UP = {"ramp_target": 1.0, "ramp_steps": 3}

SLOTS: list[dict[str, Any]] = [
    {"stage": Stage.DORMANT},
    {"stage": Stage.GERMINATED, "age": 0, "dwell": 0, **UP},
    {"stage": Stage.TRAINING, "age": 1, "dwell": 1, **UP},
    {"stage": Stage.TRAINING, "age": 2, "dwell": 2, **UP},
    {"stage": Stage.TRAINING, "age": 3, "dwell": 3, **UP},
    {"stage": Stage.TRAINING, "age": 3, "dwell": 3, "ramp_target": 0.5},
    {"stage": Stage.BLENDING, "age": 2, "dwell": 1, "ramp_done": 1, **UP},
    {"stage": Stage.BLENDING, "age": 4, "dwell": 2, "ramp_done": 2, **UP},
    {"stage": Stage.BLENDING, "ramp_start": 1.0, "ramp_target": 0.5, "ramp_steps": 4, "ramp_done": 1},
    {"stage": Stage.BLENDING, "ramp_start": 1.0, "ramp_steps": 4, "ramp_done": 1, "withdrawing": True},
    {"stage": Stage.HOLDING, "age": 2, "dwell": 1, "ramp_done": 3, **UP},
    {"stage": Stage.HOLDING, "age": 3, "dwell": 1, "ramp_done": 3, **UP},
    {"stage": Stage.HOLDING, "age": 3, "dwell": 1, "ramp_target": 0.5},
    {"stage": Stage.FOSSILIZED, "ramp_done": 3, **UP},
    {"stage": Stage.PRUNED, "dwell": 1},
    {"stage": Stage.EMBARGOED, "dwell": 1},
    {"stage": Stage.EMBARGOED, "dwell": 2},
    {"stage": Stage.RESETTING, "dwell": 1},
]
MEASURED: list[dict[str, Any]] = [
    {},
    {"health": 0.69},
    {"health": np.nan},
    {"contact": 0.11},
    {"contact": np.nan},
    {"contribution": -0.01},
    {"contribution": np.nan},
    {"measured": -1},
    {"measured": 1},
    {"nonfinite": 1},
    {"health": np.nan, "contact": np.nan, "contribution": np.nan, "measured": -1},
]


def every_decision(space: ActionSpace) -> Decision:
    """Every combination of heads, legal or not, one per environment."""
    rows = np.asarray(list(product(*map(range, space.sizes))), np.int64)
    return Decision(**{head: rows[:, i] for i, head in enumerate(HEADS)})


def offers(masks: Masks, decision: Decision) -> Any:
    """`[N]`: the product of the masks as the record documents it."""
    n, d = np.arange(len(decision.op)), decision
    planted = masks.blueprint[n, d.slot, d.blueprint] & masks.blend[n, d.slot, d.blueprint, d.blend]
    return (
        masks.op[n, d.op]
        & masks.slot[n, d.op, d.slot]
        & ((d.op != Op.GERMINATE) | planted)
        & ((d.op != Op.SET_ALPHA_TARGET) | masks.target[n, d.slot, d.target])
    )


def assert_masks_equal_execution(
    slots: SlotTable, seen: Evidence, decision: Decision, space: ActionSpace, rules: GrowthRules
) -> Any:
    """Check every environment's decision; return `[N]`, which were carried out."""
    masks = actions.masks(slots, seen, space, rules)
    after, why = lifecycle.apply(slots, seen, decision, space, rules)
    offered, wait = offers(masks, decision), decision.op == Op.WAIT
    np.testing.assert_array_equal(offered, why == Refusal.NONE)
    assert (changed(slots, after) >= (offered & ~wait)).all(), "an offered action changed nothing"
    idle, _ = lifecycle.apply(slots, seen, Decision.wait(len(wait)), space, rules)
    assert not (changed(idle, after) & ~offered).any(), "a refused action changed something"
    return offered


def crossed(
    places: list[dict[str, Any]], measured: list[dict[str, Any]], count: int, decision: Decision
) -> tuple[SlotTable, Evidence, Decision]:
    """Every choice of `count` slots, each with every measurement, with every decision."""
    states = list(product(product(places, measured), repeat=count))
    slots = table_of(*[[place for place, _ in state] for state in states])
    columns = {k: v.copy() for k, v in vars_of(evidence_of(len(states), count)).items()}
    for n, state in enumerate(states):
        for s, (_, fields) in enumerate(state):
            for name, value in fields.items():
                columns[name][n, s] = value
    many = len(decision.op)
    rows = np.repeat(np.arange(len(states)), many)
    again = np.tile(np.arange(many), len(states))
    return take(slots, rows), take(Evidence(**columns), rows), take(decision, again)


def vars_of(record: Any) -> dict[str, Any]:
    return attrs.asdict(record, recurse=False)


def rule_book(budgets: tuple[int | None, ...], lives: tuple[int, ...]) -> Iterator[GrowthRules]:
    for budget, live, auto in product(budgets, lives, (False, True)):
        yield rules_of(EPOCHS, budget=budget, max_live=live, auto_advance=auto, **SHARES)


@pytest.mark.acceptance("RL-05")
@pytest.mark.parametrize("enabled", [True, False])
def test_one_slot_exhaustively(enabled):
    """All stages, ramps, ages and measurements, all limits, all decisions: and an answer by hand for each."""
    space = space_of(
        1,
        cost=np.asarray([[[10, 7], [-1, 10]]]),
        blends=(Blend.ADD, Blend.GATE),
        speeds=np.asarray([0, 3]),
        enabled=np.asarray([enabled]),
    )
    slots, seen, decision = crossed(SLOTS, MEASURED, 1, every_decision(space))
    stage, one = slots.stage[:, 0], {name: array[:, 0] for name, array in vars_of(seen).items()}
    sound, held = one["nonfinite"] == 0, stage == Stage.HOLDING
    for rules in rule_book((None, 0, 7, 9, 10), (1,)):
        budget = 99 if rules.growth.budget is None else rules.growth.budget
        cost = np.asarray([[10, 7], [99, 10]])[decision.blueprint, decision.blend]
        fits = (decision.blueprint == SMALL) | (decision.blend == 1)
        ripe = (stage == Stage.TRAINING) & (slots.dwell[:, 0] >= TRAINING_DWELL) & sound
        calm = (one["health"] >= 0.7) & (one["contact"] <= 0.1)
        aimed = space.targets[decision.target] != slots.ramp_target[:, 0]
        worth = (one["measured"] == 0) & (one["contribution"] >= 0)
        alive = np.isin(stage, (Stage.TRAINING, Stage.BLENDING, Stage.HOLDING)) & ~slots.withdrawing[:, 0]
        answer = {
            Op.WAIT: True,
            Op.GERMINATE: (stage == Stage.DORMANT) & enabled & fits & (cost <= budget),
            Op.ADVANCE: ripe & calm & (not rules.growth.auto_advance),
            Op.SET_ALPHA_TARGET: held & sound & aimed,
            Op.FOSSILIZE: held & sound & worth,
            Op.PRUNE: alive & (slots.age[:, 0] >= PRUNE_DWELL),
        }
        right = np.select([decision.op == op for op in Op], [answer[op] for op in Op])
        carried = assert_masks_equal_execution(slots, seen, decision, space, rules)
        np.testing.assert_array_equal(carried, right)


@pytest.mark.acceptance("RL-05")
def test_two_slots_exhaustively():
    """Every pair of slots, with limits that bind on both together."""
    space = space_of(2, curves=(Curve.LINEAR,), speeds=np.asarray([2]))
    places = [SLOTS[i] for i in (0, 2, 4, 7, 8, 9, 11, 12, 13, 14)]
    measured = [MEASURED[i] for i in (0, -2, -1)]
    slots, seen, decision = crossed(places, measured, 2, every_decision(space))
    for rules in rule_book((None, 0, 10, 19, 20, 110), (1, 2)):
        carried = assert_masks_equal_execution(slots, seen, decision, space, rules)
        germinated = carried & (decision.op == Op.GERMINATE)
        wide = germinated & (decision.blueprint == WIDE)
        assert not (wide & (decision.slot == 0)).any()
        if rules.growth.budget == 110 and rules.growth.max_live == 2:
            assert wide.any()


@pytest.mark.property
@pytest.mark.acceptance("RL-05")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_masks_equal_execution_in_any_world(data):
    space, rules = data.draw(action_spaces()), data.draw(growth_rules())
    slots, seen = data.draw(slot_tables(space, 1)), data.draw(evidence(1, len(space.slots), rules))
    decision = every_decision(space)
    every = np.zeros(len(decision.op), np.int64)
    if len(every) > 4000:
        kept = np.linspace(0, len(every) - 1, 4000).astype(np.int64)
        decision, every = take(decision, kept), every[:4000]
    assert_masks_equal_execution(take(slots, every), take(seen, every), decision, space, rules)


HELD = {"stage": Stage.HOLDING, "ramp_target": 1.0}
GROWN = {"stage": Stage.TRAINING, "ramp_target": 1.0}
REFUSED: list[tuple[Refusal, dict[str, Any], list[dict[str, Any]], dict[str, Any], dict[str, Any]]] = [
    # reason, the decision, the slots, evidence, changes of the growth settings
    (Refusal.OUT_OF_RANGE, {"op": 6}, [{}, {}], {}, {}),
    (Refusal.OUT_OF_RANGE, {"op": -1}, [{}, {}], {}, {}),
    (Refusal.SLOT_TAKEN, {"op": Op.GERMINATE, "slot": 1}, [{}, GROWN], {}, {"max_live": 2}),
    (Refusal.SLOT_TAKEN, {"op": Op.GERMINATE}, [{"stage": Stage.EMBARGOED}, {}], {}, {}),
    (Refusal.SLOT_TAKEN, {"op": Op.GERMINATE}, [{"stage": Stage.FOSSILIZED}, {}], {}, {}),
    (Refusal.DOES_NOT_FIT, {"op": Op.GERMINATE, "slot": 0, "blueprint": WIDE}, [{}, {}], {}, {}),
    (Refusal.TOO_MANY_LIVE, {"op": Op.GERMINATE, "slot": 1}, [GROWN, {}], {}, {"max_live": 1}),
    (
        Refusal.OVER_BUDGET,
        {"op": Op.GERMINATE, "slot": 1},
        [{"stage": Stage.FOSSILIZED}, {}],
        {},
        {"budget": 19},
    ),
    (Refusal.GATE_CLOSED, {"op": Op.ADVANCE}, [{}, {}], {}, {}),
    (Refusal.GATE_CLOSED, {"op": Op.ADVANCE}, [{**GROWN, "dwell": 1}, {}], {}, {}),
    (Refusal.GATE_CLOSED, {"op": Op.ADVANCE}, [GROWN, {}], {"health": np.nan}, {}),
    (Refusal.AUTOMATIC, {"op": Op.ADVANCE, "slot": 1}, [GROWN, {}], {}, {"auto_advance": True}),
    (Refusal.GATE_CLOSED, {"op": Op.FOSSILIZE}, [GROWN, {}], {}, {}),
    (Refusal.GATE_CLOSED, {"op": Op.FOSSILIZE}, [HELD, {}], {"measured": 1}, {}),
    (Refusal.GATE_CLOSED, {"op": Op.FOSSILIZE}, [{"stage": Stage.FOSSILIZED}, {}], {}, {}),
    (Refusal.GATE_CLOSED, {"op": Op.SET_ALPHA_TARGET}, [GROWN, {}], {}, {}),
    (Refusal.SAME_TARGET, {"op": Op.SET_ALPHA_TARGET, "target": 1}, [HELD, {}], {}, {}),
    (Refusal.NOT_PRUNABLE, {"op": Op.PRUNE}, [{}, {}], {}, {}),
    (Refusal.NOT_PRUNABLE, {"op": Op.PRUNE}, [{"stage": Stage.FOSSILIZED}, {}], {}, {}),
    (Refusal.NOT_PRUNABLE, {"op": Op.PRUNE}, [{**GROWN, "age": 1}, {}], {}, {"prune_dwell": 0.1}),
]


@pytest.mark.acceptance("RL-11", "HE-03")
@pytest.mark.parametrize(("reason", "heads", "slots", "measured", "growth"), REFUSED)
def test_the_executor_refuses_with_its_reason_and_changes_nothing_else(
    reason, heads, slots, measured, growth
):
    """Three equal environments: the middle one says something illegal, its neighbours prune and wait."""
    space = space_of(2)
    other = [{"stage": Stage.TRAINING, "ramp_target": 0.5}, {}]
    table = table_of(other, slots, other)
    seen = evidence_of(3, 2, **{name: [[0.0], [value], [0.0]] for name, value in measured.items()})
    ops = [Op.PRUNE, heads["op"], Op.WAIT]
    decision = say(ops, 3, **{head: [0, value, 0] for head, value in heads.items() if head != "op"})
    rules = rules_of(20, **growth)
    after, why = lifecycle.apply(table, seen, decision, space, rules)
    assert [Refusal(int(w)) for w in why] == [Refusal.NONE, reason, Refusal.NONE]
    if reason != Refusal.OUT_OF_RANGE:
        offered = offers(actions.masks(table, seen, space, rules), decision)
        assert offered.tolist() == [True, False, True]
    idle, _ = lifecycle.apply(table, seen, Decision.wait(3), space, rules)
    assert changed(idle, after).tolist() == [True, False, False]
    assert after.stage[0, 0] == Stage.PRUNED
    if not rules.growth.auto_advance:
        assert changed(table, after).tolist() == [True, False, False]


def test_every_reason_is_tested():
    assert {row[0] for row in REFUSED} | {Refusal.NONE, Refusal.SLOT_DISABLED} == set(Refusal)


@pytest.mark.acceptance("RL-11")
def test_a_disabled_slot_is_refused():
    space = space_of(2, enabled=np.asarray([True, False]))
    slots, seen = SlotTable.empty(1, 2), evidence_of(1, 2)
    after, why = lifecycle.apply(slots, seen, say(Op.GERMINATE, slot=1), space, rules_of())
    assert why.tolist() == [Refusal.SLOT_DISABLED]
    assert not differs(after, slots)
    assert actions.masks(slots, seen, space, rules_of()).slot[0, Op.GERMINATE].tolist() == [True, False]


@pytest.mark.acceptance("RL-11")
@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize("head", HEADS[1:])
@pytest.mark.parametrize("value", [-1, 99])
def test_a_head_out_of_range_is_refused_where_it_is_used_and_ignored_where_it_is_not(op, head, value):
    stage = {
        Op.GERMINATE: {},
        Op.ADVANCE: GROWN,
        Op.SET_ALPHA_TARGET: HELD,
        Op.FOSSILIZE: HELD,
    }.get(op, GROWN)
    slots, seen, space, rules = table_of([stage, {}]), evidence_of(1, 2), space_of(2), rules_of()
    plain, fine = lifecycle.apply(slots, seen, say(op), space, rules)
    after, why = lifecycle.apply(slots, seen, say(op, **{head: value}), space, rules)
    assert fine.tolist() == [Refusal.NONE]
    if head in HEADS_OF[op]:
        assert why.tolist() == [Refusal.OUT_OF_RANGE]
        assert not differs(after, slots)
    else:
        assert why.tolist() == [Refusal.NONE]
        assert not differs(after, plain)


@pytest.mark.property
@pytest.mark.acceptance("RL-11")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_arbitrary_decisions_never_fail_and_refused_ones_are_as_waiting(data):
    space, rules = data.draw(action_spaces()), data.draw(growth_rules())
    slots, seen = data.draw(slot_tables(space, 1)), data.draw(evidence(1, len(space.slots), rules))
    after, why = lifecycle.apply(slots, seen, data.draw(decisions(space, 1)), space, rules)
    idle, _ = lifecycle.apply(slots, seen, Decision.wait(1), space, rules)
    assert not (changed(after, idle) & (why != Refusal.NONE)).any()


def test_a_decision_or_evidence_for_another_number_of_environments_is_refused():
    slots, space, rules = SlotTable.empty(3, 2), space_of(2), rules_of()
    with pytest.raises(ValueError, match=r"Decision.op has shape \(1,\), expected \(3,\)"):
        lifecycle.apply(slots, evidence_of(3, 2), say(Op.GERMINATE), space, rules)
    with pytest.raises(ValueError, match=r"Evidence.contribution has shape \(1, 2\), expected \(3, 2\)"):
        lifecycle.apply(slots, evidence_of(1, 2), Decision.wait(3), space, rules)
