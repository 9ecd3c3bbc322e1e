"""The life of a seed: the only functions that move a slot from one stage to another.

Role: one order for every policy. Per epoch: `apply` (the decision, the automatic advance, the prune of what
diverged), `tick` (ramps, automatic transitions, cooldown), `settle` (G1, once the seed is built), and, after
the epoch was trained and measured, `age`; `rollback` where the governor panics.
Neighbours: `rules.gates` decides, `state.slots` holds, `phases.collect` calls; `edits` tells the device
strategy what changed in structure.
"""

from enum import IntEnum

import attrs
import numpy as np

from esper_core.rules import gates, ramps
from esper_core.rules.gates import GrowthRules
from esper_core.state.actions import HEADS, HEADS_OF, ActionSpace, Decision, Op
from esper_core.state.arrays import Bools, Floats, Ints, expect_shape, expect_table
from esper_core.state.evidence import Evidence
from esper_core.state.slots import LIVE, PLANTED, SlotTable, Stage


class Refusal(IntEnum):
    """Why the executor did not carry out a decision."""

    NONE = 0
    OUT_OF_RANGE = 1
    SLOT_TAKEN = 2
    SLOT_DISABLED = 3
    DOES_NOT_FIT = 4
    TOO_MANY_LIVE = 5
    OVER_BUDGET = 6
    GATE_CLOSED = 7
    AUTOMATIC = 8
    SAME_TARGET = 9
    NOT_PRUNABLE = 10


@attrs.frozen(kw_only=True, eq=False)
class Edits:
    """Changes of structure that a device strategy has to carry out; every array is `[N, S]`.

    Attributes:
        germinate: a seed is new here.
        remove: the seed that was here is gone, and its optimizer state with it.
        seed: number of the new seed.
        blueprint: index of the new seed's blueprint.
        blend: index of the new seed's blend.
    """

    germinate: Bools
    remove: Bools
    seed: Ints
    blueprint: Ints
    blend: Ints


def refusals(
    slots: SlotTable, evidence: Evidence, decision: Decision, space: ActionSpace, rules: GrowthRules
) -> Ints:
    """`[N]` of `Refusal`: the executor's own guard, which does not look at the masks.

    It evaluates the chosen operation at the chosen slot only, so that a policy that ignores or miscomputes
    its masks changes nothing.
    """
    expect_shape(decision, "op", decision.op, slots.shape[:1])
    expect_table(evidence, slots.shape)
    outside = _outside(decision, space)
    decision = _within(decision, space)
    env, op, slot, target = np.arange(len(outside)), decision.op, decision.slot, decision.target
    planting, moving = op == Op.GERMINATE, op == Op.SET_ALPHA_TARGET
    cost = space.cost[slot, decision.blueprint, decision.blend]
    full = slots.within(LIVE).sum(axis=1) >= rules.growth.max_live
    added = slots.parameters.sum(axis=1) + cost
    limit = np.inf if rules.growth.budget is None else rules.growth.budget
    advances = gates.advance(slots, evidence, rules)[env, slot]
    commits = gates.fossilize(slots, evidence, rules)[env, slot]
    prunable = gates.prune(slots, rules)[env, slot]
    held = (slots.stage[env, slot] == Stage.HOLDING) & (evidence.nonfinite[env, slot] == 0)
    checks: list[tuple[Bools, Refusal]] = [
        (outside, Refusal.OUT_OF_RANGE),
        (planting & ~space.enabled[slot], Refusal.SLOT_DISABLED),
        (planting & (slots.stage[env, slot] != Stage.DORMANT), Refusal.SLOT_TAKEN),
        (planting & (cost < 0), Refusal.DOES_NOT_FIT),
        (planting & full, Refusal.TOO_MANY_LIVE),
        (planting & (added > limit), Refusal.OVER_BUDGET),
        ((op == Op.ADVANCE) & rules.growth.auto_advance, Refusal.AUTOMATIC),
        ((op == Op.ADVANCE) & ~advances, Refusal.GATE_CLOSED),
        (moving & ~held, Refusal.GATE_CLOSED),
        (moving & (space.targets[target] == slots.ramp_target[env, slot]), Refusal.SAME_TARGET),
        ((op == Op.FOSSILIZE) & ~commits, Refusal.GATE_CLOSED),
        ((op == Op.PRUNE) & ~prunable, Refusal.NOT_PRUNABLE),
    ]
    why: Ints = np.select([c for c, _ in checks], [int(r) for _, r in checks], int(Refusal.NONE))
    return why


def apply(
    slots: SlotTable,
    evidence: Evidence,
    decision: Decision,
    space: ActionSpace,
    rules: GrowthRules,
) -> tuple[SlotTable, Ints]:
    """Carry out one decision per environment, then the automatic advance and the prune of what diverged.

    A decision that the guard refuses changes nothing in its environment.

    Returns:
        The next slot table and `[N]` of `Refusal`.
    """
    why = refusals(slots, evidence, decision, space, rules)
    granted = why == Refusal.NONE
    decision = _within(decision, space)
    here = np.arange(slots.shape[1]) == decision.slot[:, None]

    def chosen(op: Op) -> Bools:
        at: Bools = here & (granted & (decision.op == op))[:, None]
        return at

    after = _germinate(slots, chosen(Op.GERMINATE), decision, space)
    after = _enter(after, chosen(Op.ADVANCE), Stage.BLENDING)
    after = _retarget(after, chosen(Op.SET_ALPHA_TARGET), decision, space)
    after = _enter(after, chosen(Op.FOSSILIZE), Stage.FOSSILIZED)
    after = _prune(after, chosen(Op.PRUNE), decision, space)
    if rules.growth.auto_advance:
        # one at a time: first contacts were measured one by one
        ready = gates.advance(after, evidence, rules)
        after = _enter(after, ready & (np.cumsum(ready, axis=1) == 1), Stage.BLENDING)
    return _remove(after, gates.diverged(after, evidence)), why


def tick(slots: SlotTable, rules: GrowthRules) -> SlotTable:
    """Advance one epoch: ramps, then the transitions that need no decision, then cooldown."""
    moving = slots.stage == Stage.BLENDING
    slots = attrs.evolve(
        slots, ramp_done=np.where(moving, np.minimum(slots.ramp_done + 1, slots.ramp_steps), slots.ramp_done)
    )
    stage, dwell = slots.stage, slots.dwell
    withdrawn = (stage == Stage.BLENDING) & slots.withdrawing & (slots.ramp_done >= slots.ramp_steps)
    rested = (stage == Stage.EMBARGOED) & (dwell >= rules.embargo)
    slots = _enter(slots, gates.hold(slots), Stage.HOLDING)
    slots = _remove(slots, withdrawn)
    slots = _enter(slots, (stage == Stage.PRUNED) & (dwell >= 1), Stage.EMBARGOED)
    slots = _enter(slots, rested, Stage.RESETTING)
    return _enter(slots, (stage == Stage.RESETTING) & (dwell >= 1), Stage.DORMANT)


def settle(slots: SlotTable, built: Bools) -> SlotTable:
    """G1: a germinated seed that was built starts TRAINING; one that could not be leaves its slot empty.

    Args:
        slots: the table after `tick`.
        built: `[N, S]`, true where a new seed is finite and keeps the shape.
    """
    new = slots.stage == Stage.GERMINATED
    slots = _enter(_clear(slots, new & ~built), new & ~built, Stage.DORMANT)
    return _enter(slots, new & built, Stage.TRAINING)


def age(slots: SlotTable) -> SlotTable:
    """One epoch has passed: seeds grow older, and every slot but a DORMANT one stays one epoch longer."""
    planted = slots.within(PLANTED)
    waiting = slots.stage != Stage.DORMANT
    return attrs.evolve(slots, age=slots.age + planted, dwell=slots.dwell + waiting)


def rollback(slots: SlotTable, blessed: SlotTable, panicked: Bools) -> SlotTable:
    """Undo the growth of the environments that panicked, and of no other.

    A fossil that `blessed` holds as a fossil too (the same seed in the same slot) comes back as it was there;
    every other seed is gone and its slot cools down as after a prune. A slot without a seed goes on cooling
    down, and `born` counts on, so that no seed number is given twice.

    Args:
        slots: `[N, S]` after the epoch of the panic.
        blessed: `[N, S]` of the epoch to which hosts and fossils are rolled back.
        panicked: `[N]`.
    """
    kept = blessed.within((Stage.FOSSILIZED,)) & (slots.seed == blessed.seed)
    back = kept & panicked[:, None]
    restored = attrs.evolve(
        slots,
        **{
            a.name: np.where(back, getattr(blessed, a.name), getattr(slots, a.name))
            for a in attrs.fields(SlotTable)
            if a.name != "born"
        },
    )
    return _remove(restored, slots.within(PLANTED) & panicked[:, None] & ~kept)


def plant(space: ActionSpace, envs: int, blueprint: Ints, blend: Ints, alpha: Floats) -> SlotTable:
    """A table whose seeds are there from the start and committed: the arms of a comparison.

    Args:
        space: vocabulary and costs.
        envs: N.
        blueprint: `[S]` index, -1 where no seed is planted.
        blend: `[S]` index.
        alpha: `[S]` influence.

    Raises:
        ValueError: a blueprint does not fit its slot.
    """
    slots = SlotTable.empty(envs, len(space.slots))
    planted = np.broadcast_to(blueprint >= 0, slots.shape)
    cost = space.cost[np.arange(len(space.slots)), np.maximum(blueprint, 0), np.maximum(blend, 0)]
    for index in np.flatnonzero((blueprint >= 0) & (cost < 0)):
        name = space.blueprints[blueprint[index]]
        raise ValueError(f"blueprint {name!r} does not fit slot {space.slots[index]!r}")
    return attrs.evolve(
        slots,
        born=planted.sum(axis=1),
        stage=np.where(planted, int(Stage.FOSSILIZED), slots.stage),
        seed=np.where(planted, np.cumsum(planted, axis=1) - 1, -1),
        blueprint=np.where(planted, blueprint, -1),
        blend=np.where(planted, blend, -1),
        parameters=np.where(planted, cost, 0),
        ramp_target=np.where(planted, alpha, 0.0),
        ramp_start=np.where(planted, alpha, 0.0),
    )


def edits(before: SlotTable, after: SlotTable) -> Edits:
    """What changed in structure between two tables."""
    had, has = before.within(PLANTED), after.within(PLANTED)
    return Edits(
        germinate=~had & has,
        remove=had & ~has,
        seed=after.seed,
        blueprint=after.blueprint,
        blend=after.blend,
    )


def _outside(decision: Decision, space: ActionSpace) -> Bools:
    """`[N]`: a head that the operation uses has no such choice."""
    values = np.stack([getattr(decision, head) for head in HEADS], axis=1)
    wrong = (values < 0) | (values >= np.asarray(space.sizes))
    used = np.asarray([[head in HEADS_OF[op] for head in HEADS] for op in Op])
    outside: Bools = wrong[:, 0] | (wrong & used[np.where(wrong[:, 0], 0, decision.op)]).any(axis=1)
    return outside


def _within(decision: Decision, space: ActionSpace) -> Decision:
    """The decision with every head safe to index by, so that a head nobody reads cannot fail a lookup."""
    sizes = zip(HEADS, space.sizes, strict=True)
    return Decision(**{head: np.clip(getattr(decision, head), 0, size - 1) for head, size in sizes})


def _germinate(slots: SlotTable, where: Bools, decision: Decision, space: ActionSpace) -> SlotTable:
    cost = space.cost[decision.slot, decision.blueprint, decision.blend]
    slots = _enter(slots, where, Stage.GERMINATED)
    slots = _schedule(slots, where, np.zeros(slots.shape), space.targets[decision.target], decision, space)
    return attrs.evolve(
        slots,
        born=slots.born + where.any(axis=1),
        seed=np.where(where, slots.born[:, None], slots.seed),
        blueprint=np.where(where, decision.blueprint[:, None], slots.blueprint),
        blend=np.where(where, decision.blend[:, None], slots.blend),
        parameters=np.where(where, cost[:, None], slots.parameters),
    )


def _retarget(slots: SlotTable, where: Bools, decision: Decision, space: ActionSpace) -> SlotTable:
    target = space.targets[decision.target]
    slots = _schedule(slots, where, ramps.influence(slots), target, decision, space)
    return _enter(slots, where, Stage.BLENDING)


def _prune(slots: SlotTable, where: Bools, decision: Decision, space: ActionSpace) -> SlotTable:
    """Ramp down first where the decision asks for it and there is an influence to ramp down; else remove."""
    now = ramps.influence(slots)
    gently = where & (space.speeds[decision.speed] > 0)[:, None] & (now > 0)
    slots = _schedule(slots, gently, now, np.zeros(len(decision.op)), decision, space)
    slots = _enter(slots, gently, Stage.BLENDING)
    slots = attrs.evolve(slots, withdrawing=slots.withdrawing | gently)
    return _remove(slots, where & ~gently)


def _schedule(
    slots: SlotTable, where: Bools, start: Floats, target: Floats, decision: Decision, space: ActionSpace
) -> SlotTable:
    """Give the ramps at `where` a new schedule: `start` is `[N, S]`, `target` is `[N]`."""
    if not where.any():
        return slots
    curves = np.asarray(space.curves, np.int64)
    return attrs.evolve(
        slots,
        ramp_start=np.where(where, start, slots.ramp_start),
        ramp_target=np.where(where, target[:, None], slots.ramp_target),
        ramp_steps=np.where(where, space.speeds[decision.speed][:, None], slots.ramp_steps),
        ramp_done=np.where(where, 0, slots.ramp_done),
        ramp_curve=np.where(where, curves[decision.curve][:, None], slots.ramp_curve),
    )


def _enter(slots: SlotTable, where: Bools, stage: Stage) -> SlotTable:
    moves = where & (slots.stage != stage)
    if not moves.any():
        return slots
    return attrs.evolve(
        slots, stage=np.where(moves, int(stage), slots.stage), dwell=np.where(moves, 0, slots.dwell)
    )


def _remove(slots: SlotTable, where: Bools) -> SlotTable:
    return _enter(_clear(slots, where), where, Stage.PRUNED)


def _clear(slots: SlotTable, where: Bools) -> SlotTable:
    """Forget the seeds at `where`; the stage is left to the caller."""
    if not where.any():
        return slots
    empty = SlotTable.empty(*slots.shape)
    kept = ("stage", "dwell", "born")
    return attrs.evolve(
        slots,
        **{
            a.name: np.where(where, getattr(empty, a.name), getattr(slots, a.name))
            for a in attrs.fields(SlotTable)
            if a.name not in kept
        },
    )
