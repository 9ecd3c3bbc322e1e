"""One seed's life, epoch by epoch, at stated epochs; and each way out of it."""

from typing import Any

import numpy as np
import pytest
from small_worlds import SMALL, WIDE, changed, evidence_of, rules_of, say, space_of, table_of, take

from esper_core.rules import actions, lifecycle, ramps
from esper_core.state.actions import Op, name_of
from esper_core.state.slots import SlotTable, Stage
from esper_core.testing.strategies import Epoch, live

T, B, H, F = Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED
P, E, R, D = Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING, Stage.DORMANT
JUMP, SHORT, LONG = 0, 1, 2
"""Indices of the speeds: 0, 2 and 4 epochs."""
HALF, FULL = 0, 1
"""Indices of the targets."""


def play(
    epochs: int,
    script: dict[int, Any],
    slots: SlotTable | None = None,
    **growth: Any,
) -> list[Epoch]:
    """Live `epochs` epochs of an episode of 24 with open evidence; the script says what is decided when."""
    rules, space = rules_of(24, **growth), space_of(3)
    slots = SlotTable.empty(1, 3) if slots is None else slots
    lived = []
    for t in range(epochs):
        lived.append(live(slots, evidence_of(1, 3), script.get(t, say(Op.WAIT)), space, rules))
        assert lived[-1].refused.tolist() == [0], t
        slots = lived[-1].after
    return lived


def trained(epochs: list[Epoch], slot: int) -> list[tuple[Stage, float]]:
    """Stage and influence with which every epoch is trained."""
    return [
        (Stage(int(e.settled.stage[0, slot])), float(ramps.influence(e.settled)[0, slot])) for e in epochs
    ]


@pytest.mark.acceptance("HE-02", "ME-05")
def test_a_life_from_germinate_to_fossilize_in_slot_2():
    """Three epochs alone (10% of 24, rounded up), a ramp of four, then the commitment."""
    script = {
        0: say(Op.GERMINATE, slot=2, blueprint=WIDE, target=FULL, speed=LONG),
        3: say(Op.ADVANCE, slot=2),
        7: say(Op.FOSSILIZE, slot=2),
    }
    lived = play(9, script)
    assert trained(lived, 2) == [
        *[(T, 0.0)] * 3,
        (B, 0.25),
        (B, 0.5),
        (B, 0.75),
        (H, 1.0),
        (F, 1.0),
        (F, 1.0),
    ]
    assert [int(e.before.age[0, 2]) for e in lived] == list(range(9))
    assert [int(e.before.dwell[0, 2]) for e in lived] == [0, 1, 2, 3, 1, 2, 3, 1, 1]
    offered = [
        [Op(o) for o in np.flatnonzero(m.op[0])]
        for m in (actions.masks(e.before, e.evidence, space_of(3), rules_of(24)) for e in lived)
    ]
    alive, again = [Op.WAIT, Op.PRUNE], [Op.WAIT, Op.GERMINATE]
    held = [Op.WAIT, Op.SET_ALPHA_TARGET, Op.FOSSILIZE, Op.PRUNE]
    ripe = [Op.WAIT, Op.ADVANCE, Op.PRUNE]
    assert offered == [again, alive, alive, ripe, alive, alive, alive, held, again]
    for e in lived:
        assert e.settled.stage[0, :2].tolist() == [D, D]
    assert lived[-1].after.blueprint[0].tolist() == [-1, -1, WIDE]
    assert lived[-1].after.parameters[0].tolist() == [0, 0, 100]


def test_prune_then_cooldown_then_germinate_again():
    """Pruned at 2; two epochs of embargo (5% of 24, rounded up); the slot takes a seed again at 7."""
    script = {0: say(Op.GERMINATE), 2: say(Op.PRUNE), 7: say(Op.GERMINATE, target=HALF)}
    lived = play(9, script)
    assert [stage for stage, _ in trained(lived, 0)] == [T, T, P, E, E, R, D, T, T]
    masks = [actions.masks(e.before, e.evidence, space_of(3), rules_of(24)) for e in lived]
    assert [bool(m.slot[0, Op.GERMINATE, 0]) for m in masks] == [t in (0, 7) for t in range(9)]
    assert [e.edits.remove[0, 0] for e in lived] == [t == 2 for t in range(9)]
    assert [e.edits.germinate[0, 0] for e in lived] == [t in (0, 7) for t in range(9)]
    assert [int(e.settled.seed[0, 0]) for e in lived] == [0, 0, *[-1] * 5, 1, 1]
    assert lived[-1].after.age[0, 0] == 2


@pytest.mark.acceptance("HE-02")
@pytest.mark.parametrize("slot", range(3))
def test_a_decision_acts_on_the_slot_that_it_names(slot):
    full = table_of([{"stage": H, "ramp_target": 1.0}] * 3)
    space, rules = space_of(3), rules_of(24)
    for op in (Op.PRUNE, Op.FOSSILIZE, Op.SET_ALPHA_TARGET):
        after, why = lifecycle.apply(full, evidence_of(1, 3), say(op, slot=slot), space, rules)
        assert why.tolist() == [0]
        assert np.flatnonzero(after.stage[0] != H).tolist() == [slot]
    after, why = lifecycle.apply(SlotTable.empty(1, 3), evidence_of(1, 3), say(1, slot=slot), space, rules)
    assert (
        np.flatnonzero(after.stage[0] != D).tolist() == np.flatnonzero(after.seed[0] == 0).tolist() == [slot]
    )


def held(**fields: Any) -> SlotTable:
    return table_of([{"stage": H, "ramp_target": 1.0, "ramp_steps": 4, "ramp_done": 4, **fields}, {}, {}])


def test_a_prune_by_ramp_ends_at_exactly_zero_and_cannot_be_cancelled():
    lived = play(5, {0: say(Op.PRUNE, speed=LONG)}, held())
    assert trained(lived, 0) == [(B, 0.75), (B, 0.5), (B, 0.25), (P, 0.0), (E, 0.0)]
    assert [e.edits.remove[0, 0] for e in lived] == [False, False, False, True, False]
    for e in lived[1:4]:
        masks = actions.masks(e.before, e.evidence, space_of(3), rules_of(24))
        assert np.flatnonzero(masks.op[0]).tolist() == [Op.WAIT]
        for op in (Op.PRUNE, Op.SET_ALPHA_TARGET, Op.FOSSILIZE, Op.ADVANCE, Op.GERMINATE):
            after, why = lifecycle.apply(e.before, e.evidence, say(op), space_of(3), rules_of(24))
            assert why[0] != 0
            assert not changed(e.before, after).any()


def test_a_prune_by_ramp_starts_from_where_a_rising_ramp_stands():
    rising = held(stage=B, ramp_done=2)
    lived = play(3, {0: say(Op.PRUNE, speed=SHORT)}, rising)
    assert trained(lived, 0) == [(B, 0.25), (P, 0.0), (E, 0.0)]
    assert (lived[0].settled.age[0, 0], lived[0].settled.dwell[0, 0]) == (9, 9)


@pytest.mark.parametrize("stage", [T, B, H])
def test_a_prune_without_a_ramp_is_immediate(stage):
    lived = play(1, {0: say(Op.PRUNE, speed=JUMP)}, held(stage=stage, ramp_done=2))
    assert trained(lived, 0) == [(P, 0.0)]


@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize("steps", [0, 4])
def test_a_seed_without_influence_has_nothing_to_ramp_down(auto, steps):
    """Nor does the automatic advance let a seed blend in the epoch in which it is pruned."""
    lived = play(
        1, {0: say(Op.PRUNE, speed=LONG)}, held(stage=T, ramp_steps=steps, ramp_done=0), auto_advance=auto
    )
    assert trained(lived, 0) == [(P, 0.0)]


def test_retarget_down_and_up_again():
    script = {
        0: say(Op.SET_ALPHA_TARGET, target=HALF, speed=SHORT),
        2: say(Op.SET_ALPHA_TARGET, target=FULL, speed=LONG),
    }
    lived = play(7, script, held())
    assert trained(lived, 0) == [
        (B, 0.75),
        (H, 0.5),
        (B, 0.625),
        (B, 0.75),
        (B, 0.875),
        (H, 1.0),
        (H, 1.0),
    ]
    assert not any(e.edits.remove.any() or e.edits.germinate.any() for e in lived)


@pytest.mark.parametrize("speed", [JUMP, SHORT])
def test_retarget_by_a_jump_is_complete_within_the_epoch(speed):
    lived = play(1, {0: say(Op.SET_ALPHA_TARGET, target=HALF, speed=speed)}, held())
    assert trained(lived, 0) == [(H, 0.5) if speed == JUMP else (B, 0.75)]


def test_auto_advance_goes_as_soon_as_the_gate_opens_and_no_sooner():
    lived = play(5, {0: say(Op.GERMINATE, target=FULL, speed=SHORT)}, auto_advance=True)
    assert trained(lived, 0) == [*[(T, 0.0)] * 3, (B, 0.5), (H, 1.0)]
    closed = evidence_of(1, 3, health=np.nan)
    before, rules = lived[3].before, rules_of(24, auto_advance=True)
    assert live(before, closed, say(Op.WAIT), space_of(3), rules).settled.stage[0, 0] == T


@pytest.mark.parametrize("op", [Op.WAIT, Op.PRUNE, Op.GERMINATE])
@pytest.mark.parametrize("auto", [False, True])
def test_a_diverged_seed_is_pruned_on_its_own(op, auto):
    """All live stages at once, a fossil beside them, a healthy environment below.

    Only live seeds with a gradient that was not finite go, at once and whatever was decided.
    """
    stages = [{"stage": s, "ramp_target": 1.0, "ramp_steps": 4, "ramp_done": 2} for s in (T, B, H, F)]
    slots = table_of([*stages, {}], [*stages, {}])
    seen = evidence_of(2, 5, nonfinite=[[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    space, rules = space_of(5), rules_of(24, max_live=9, auto_advance=auto)
    decision = say(op, 2, slot=4 if op == Op.GERMINATE else 1, speed=LONG)
    after, why = lifecycle.apply(slots, seen, decision, space, rules)
    assert why.tolist() == [0, 0]
    assert after.stage[0, :4].tolist() == [P, P, P, F]
    assert after.seed[0, :4].tolist() == [-1, -1, -1, 3]
    alone, _ = lifecycle.apply(take(slots, [1]), take(seen, [1]), take(decision, [1]), space, rules)
    assert not changed(take(after, [1]), alone).any()
    assert after.stage[1, 2:4].tolist() == [H, F]
    assert after.stage[0, 4] == after.stage[1, 4] == (Stage.GERMINATED if op == Op.GERMINATE else D)


def test_auto_advance_takes_one_seed_of_an_environment_at_a_time():
    """First contacts are measured one by one, so that two at once would be a contact nobody measured."""
    ready = {"stage": T, "dwell": 9, "ramp_target": 1.0, "ramp_steps": 4}
    slots, space, rules = (
        table_of([ready, ready, ready]),
        space_of(3),
        rules_of(24, max_live=3, auto_advance=True),
    )
    seen = evidence_of(1, 3)
    for expected in ([B, T, T], [B, B, T], [B, B, B]):
        slots, _ = lifecycle.apply(slots, seen, say(Op.WAIT), space, rules)
        assert slots.stage.tolist() == [expected]


@pytest.mark.parametrize("op", [Op.ADVANCE, Op.SET_ALPHA_TARGET, Op.FOSSILIZE])
def test_nothing_that_keeps_a_diverged_seed_is_offered(op):
    slots = table_of([{"stage": T if op == Op.ADVANCE else H, "ramp_target": 1.0}])
    sick, space, rules = evidence_of(1, 1, nonfinite=2), space_of(1), rules_of(24)
    assert actions.masks(slots, evidence_of(1, 1), space, rules).op[0, op]
    assert not actions.masks(slots, sick, space, rules).op[0, op]
    after, why = lifecycle.apply(slots, sick, say(op), space, rules)
    assert why.tolist() == [lifecycle.Refusal.GATE_CLOSED]
    assert after.stage.tolist() == [[P]]


def test_a_seed_that_cannot_be_built_leaves_its_slot_empty_and_free():
    slots, space, rules = table_of([{"stage": T}, {}]), space_of(2), rules_of(24, max_live=2)
    epoch = live(
        slots, evidence_of(1, 2), say(Op.GERMINATE, slot=1), space, rules, np.asarray([[False, False]])
    )
    assert epoch.edits.germinate.tolist() == [[False, True]]
    blank = SlotTable.empty(1, 2)
    assert epoch.settled.stage.tolist() == [[T, D]]
    for name in ("seed", "blueprint", "blend", "parameters", "age", "ramp_target", "ramp_steps", "dwell"):
        assert getattr(epoch.settled, name)[0, 1] == getattr(blank, name)[0, 1], name
    again = live(epoch.after, evidence_of(1, 2), say(Op.GERMINATE, slot=1), space, rules)
    assert again.settled.stage.tolist() == [[T, T]]
    assert again.settled.seed[0, 1] == slots.born[0] + 1, "the number of a failed seed is not used again"


def test_what_is_planted_from_the_start_is_committed():
    space = space_of(3)
    slots = lifecycle.plant(
        space, 2, np.asarray([SMALL, -1, WIDE]), np.asarray([0, 0, 0]), np.asarray([1.0, 1.0, 0.5])
    )
    assert slots.stage.tolist() == [[F, D, F]] * 2
    assert slots.seed.tolist() == [[0, -1, 1]] * 2
    assert slots.born.tolist() == [2, 2]
    assert slots.blueprint.tolist() == [[SMALL, -1, WIDE]] * 2
    assert slots.blend.tolist() == [[0, -1, 0]] * 2
    assert slots.parameters.tolist() == [[10, 0, 100]] * 2
    assert ramps.influence(slots).tolist() == [[1.0, 0.0, 0.5]] * 2
    edits = lifecycle.edits(SlotTable.empty(2, 3), slots)
    assert edits.germinate.tolist() == [[True, False, True]] * 2
    assert not edits.remove.any()
    masks = actions.masks(slots, evidence_of(2, 3), space, rules_of(24))
    assert [name_of(Op(o)) for o in np.flatnonzero(masks.op[0])] == ["wait", "germinate"]
    assert masks.slot[0, Op.GERMINATE].tolist() == [False, True, False]


@pytest.mark.acceptance("HE-03")
def test_planting_a_blueprint_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="blueprint 'test/wide' does not fit slot 'slot0'"):
        lifecycle.plant(space_of(2), 1, np.asarray([WIDE, SMALL]), np.zeros(2, np.int64), np.ones(2))
