"""Hypothesis strategies for the records of the control plane: what may be said, measured, and lived through.

Role: random action spaces, rules, evidence, decisions and slot tables for property tests of policies, rewards
and of the rules themselves. Long arrays are drawn as bytes: fast, and they shrink to the simplest choice.
Neighbours: `rules.lifecycle`, whose order of an epoch `live` follows; the tests under `tests/rules`.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st

from esper_core.rules import actions, lifecycle
from esper_core.rules.gates import GrowthRules
from esper_core.rules.lifecycle import Edits
from esper_core.state.actions import HEADS, HEADS_OF, ActionSpace, Blend, Curve, Decision, Masks, Op
from esper_core.state.arrays import Bools, Ints
from esper_core.state.evidence import Evidence
from esper_core.state.settings import GrowthSettings
from esper_core.state.slots import PLANTED, SlotTable, Stage

MAX_SPEED = 6
"""Longest ramp that the strategies draw, in epochs."""


@attrs.frozen(kw_only=True, eq=False)
class Epoch:
    """One epoch of N environments, with the slot table after each of its steps.

    Attributes:
        before: when the decision was made.
        evidence: that the decision saw.
        decision: what was asked for.
        refused: `[N]` of `Refusal`.
        acted: after `lifecycle.apply`.
        ticked: after `lifecycle.tick`.
        edits: changes of structure from `before` to `ticked`.
        settled: after `lifecycle.settle`; what the epoch is trained with.
        after: after `lifecycle.age`; the next epoch's `before`.
    """

    before: SlotTable
    evidence: Evidence
    decision: Decision
    refused: Ints
    acted: SlotTable
    ticked: SlotTable
    edits: Edits
    settled: SlotTable
    after: SlotTable


def live(
    slots: SlotTable,
    evidence: Evidence,
    decision: Decision,
    space: ActionSpace,
    rules: GrowthRules,
    built: Bools | None = None,
) -> Epoch:
    """Live one epoch without a network.

    Args:
        slots: `[N, S]` before the decision.
        evidence: `[N, S]` of the epoch before.
        decision: `[N]`, legal or not.
        space: vocabulary of the decision.
        rules: of the episode.
        built: `[N, S]`, where a new seed can be built; everywhere by default.
    """
    acted, refused = lifecycle.apply(slots, evidence, decision, space, rules)
    ticked = lifecycle.tick(acted, rules)
    settled = lifecycle.settle(ticked, np.ones(slots.shape, np.bool_) if built is None else built)
    return Epoch(
        before=slots,
        evidence=evidence,
        decision=decision,
        refused=refused,
        acted=acted,
        ticked=ticked,
        edits=lifecycle.edits(slots, ticked),
        settled=settled,
        after=lifecycle.age(settled),
    )


def choose(masks: Masks, space: ActionSpace, choices: Ints) -> Decision:
    """The legal decision that a row of numbers stands for.

    Args:
        masks: of N environments.
        space: that the masks were computed for.
        choices: `[N, 7]`, non-negative; number c takes the offered entry of rank c, modulo their count.

    Returns:
        One decision per environment that the masks offer; heads that the operation does not use are 0.
    """
    env = np.arange(len(choices))
    free = [np.ones((len(choices), size), np.bool_) for size in space.sizes]
    op = _ranked(masks.op, choices[:, 0])
    slot = _ranked(masks.slot[env, op], choices[:, 1])
    planting, moving = op == Op.GERMINATE, op == Op.SET_ALPHA_TARGET
    blueprint = _ranked(np.where(planting[:, None], masks.blueprint[env, slot], free[2]), choices[:, 2])
    blend = _ranked(np.where(planting[:, None], masks.blend[env, slot, blueprint], free[3]), choices[:, 3])
    target = _ranked(np.where(moving[:, None], masks.target[env, slot], free[5]), choices[:, 5])
    curve, speed = _ranked(free[4], choices[:, 4]), _ranked(free[6], choices[:, 6])
    values = dict(zip(HEADS, (op, slot, blueprint, blend, curve, target, speed), strict=True))
    used = {head: np.asarray([head in HEADS_OF[o] for o in Op])[op] for head in HEADS}
    return Decision(**{head: np.where(used[head], values[head], 0) for head in HEADS})


@st.composite
def action_spaces(draw: st.DrawFn, *, max_slots: int = 3, max_blueprints: int = 3) -> ActionSpace:
    """Action spaces with disabled slots, and with blueprints and blends that do not fit a slot."""
    slots = draw(st.integers(1, max_slots))
    blueprints = draw(st.integers(1, max_blueprints))
    blends = draw(_some(tuple(Blend)))
    shape = (slots, blueprints, len(blends))
    cost = draw(_bytes(shape))
    return ActionSpace(
        slots=tuple(f"slot{i}" for i in range(slots)),
        blueprints=tuple(f"test/blueprint{i}" for i in range(blueprints)),
        blends=blends,
        curves=draw(_some(tuple(Curve))),
        targets=np.asarray(draw(_some((1.0, 0.5, 0.1, 1.0 / 3.0)))),
        speeds=np.asarray(draw(_some(tuple(range(MAX_SPEED + 1)))), np.int64),
        enabled=draw(_bytes((slots,))) < 224,
        cost=np.where(cost < 192, cost, -1),
    )


@st.composite
def growth_settings(draw: st.DrawFn) -> GrowthSettings:
    """Thresholds, shares and limits of growth; the vocabulary is the action space's business."""
    share = st.sampled_from((0.0, 0.05, 0.1, 0.2, 1e-12))
    return GrowthSettings(
        max_live=draw(st.integers(1, 3)),
        budget=draw(st.none() | st.integers(0, 400)),
        training_dwell=draw(share),
        prune_dwell=draw(share),
        embargo=draw(share),
        auto_advance=draw(st.booleans()),
        min_health=draw(st.sampled_from((0.7, 0.0, 1.0))),
        min_contribution=draw(st.sampled_from((0.0, 0.01, -1.0))),
        contact_bound=draw(st.sampled_from((0.1, 1e-3))),
    )


def growth_rules(max_epochs: int = 40) -> st.SearchStrategy[GrowthRules]:
    """Growth settings with the length of an episode, in epochs."""
    return st.builds(GrowthRules, growth_settings(), st.integers(1, max_epochs))


@st.composite
def evidence(draw: st.DrawFn, envs: int, slots: int, rules: GrowthRules) -> Evidence:
    """`[N, S]` evidence around the thresholds of `rules`: above, exactly there, just short, unknown."""
    table = draw(_evidence_tables((envs, slots), rules))
    return Evidence(**table)


@st.composite
def decisions(draw: st.DrawFn, space: ActionSpace, envs: int, *, outside: bool = True) -> Decision:
    """Any decisions, legal or not; with `outside`, also heads from -2 to one too many."""
    heads = {}
    for head, size in zip(HEADS, space.sizes, strict=True):
        choice = st.integers(-2, size) if outside else st.integers(0, size - 1)
        heads[head] = np.asarray(draw(st.lists(choice, min_size=envs, max_size=envs)), np.int64)
    return Decision(**heads)


@st.composite
def legal_decisions(draw: st.DrawFn, masks: Masks, space: ActionSpace) -> Decision:
    """Decisions that `masks` offer; the simplest is that everybody waits."""
    return choose(masks, space, draw(_bytes((len(masks.op), len(HEADS)))))


@st.composite
def histories(
    draw: st.DrawFn, space: ActionSpace, rules: GrowthRules, envs: int = 2, max_epochs: int = 32
) -> list[Epoch]:
    """Legal play from empty slots, epoch by epoch, with some seeds that cannot be built.

    A prune is considered one time in four only: otherwise few seeds would live to be committed.
    """
    shape = (draw(st.integers(1, max_epochs)), envs, len(space.slots))
    choices = draw(_bytes((*shape[:2], len(HEADS))))
    measured = draw(_evidence_tables(shape, rules))
    built = draw(_bytes(shape)) < 224
    slots, lived = SlotTable.empty(*shape[1:]), []
    for t in range(shape[0]):
        seen = Evidence(**{name: array[t] for name, array in measured.items()})
        masks = actions.masks(slots, seen, space, rules)
        masks.op[choices[t, :, 0] < 192, Op.PRUNE] = False
        decision = choose(masks, space, choices[t])
        lived.append(live(slots, seen, decision, space, rules, built[t]))
        slots = lived[-1].after
    return lived


@st.composite
def slot_tables(draw: st.DrawFn, space: ActionSpace, envs: int) -> SlotTable:
    """Any consistent slot table between two epochs.

    Every slot is consistent on its own; limits (live seeds, budget) may be exceeded. No slot is
    GERMINATED, a stage that ends within an epoch.
    """
    count = len(space.slots)
    cells = [[draw(_cells(space, slot)) for slot in range(count)] for _ in range(envs)]
    empty = SlotTable.empty(envs, count)
    numbers = st.lists(st.integers(0, 9), min_size=count, max_size=count, unique=True)
    number = np.asarray([draw(numbers) for _ in range(envs)], np.int64)
    names = [a.name for a in attrs.fields(SlotTable) if a.name not in ("born", "seed")]
    columns = {
        name: np.asarray([[c.get(name, getattr(empty, name)[0, 0]) for c in row] for row in cells]).astype(
            getattr(empty, name).dtype
        )
        for name in names
    }
    planted = np.isin(columns["stage"], PLANTED)
    return SlotTable(
        born=number.max(axis=1) + 1,
        seed=np.where(planted, number, -1),
        **columns,
    )


@st.composite
def _cells(draw: st.DrawFn, space: ActionSpace, slot: int) -> dict[str, Any]:
    """Fields of one slot that differ from those of an empty one."""
    fitting = np.argwhere(space.fits[slot])
    slow = [int(v) for v in space.speeds if v > 1]
    possible = [Stage.DORMANT, Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING]
    if len(fitting):
        possible += [Stage.TRAINING, Stage.HOLDING, Stage.FOSSILIZED] + [Stage.BLENDING] * bool(slow)
    stage = draw(st.sampled_from(possible))
    brief = {Stage.DORMANT: 0, Stage.PRUNED: 1, Stage.RESETTING: 1}
    dwell = brief[stage] if stage in brief else draw(st.integers(1, 6))
    if stage not in PLANTED:
        return {"stage": stage, "dwell": dwell}
    blueprint, blend = draw(st.sampled_from(fitting.tolist()))
    steps = draw(st.sampled_from(slow if stage == Stage.BLENDING else space.speeds.tolist()))
    withdrawing = stage == Stage.BLENDING and draw(st.booleans())
    done = {Stage.TRAINING: 0, Stage.BLENDING: draw(st.integers(1, max(1, steps - 1)))}.get(stage, steps)
    start = 0.0 if stage == Stage.TRAINING else draw(st.floats(0.01 if withdrawing else 0.0, 1.0))
    return {
        "stage": stage,
        "dwell": dwell,
        "blueprint": blueprint,
        "blend": blend,
        "parameters": space.cost[slot, blueprint, blend],
        "age": dwell + (0 if stage == Stage.TRAINING else draw(st.integers(0, 6))),
        "ramp_start": start,
        "ramp_target": 0.0 if withdrawing else draw(st.sampled_from(space.targets.tolist())),
        "ramp_steps": steps,
        "ramp_done": done,
        "ramp_curve": draw(st.sampled_from(space.curves)),
        "withdrawing": withdrawing,
    }


@st.composite
def _evidence_tables(draw: st.DrawFn, shape: tuple[int, ...], rules: GrowthRules) -> dict[str, Any]:
    """Arrays for `Evidence`, with leading axes where a history needs them."""
    growth = rules.growth
    nan, inf = np.nan, np.inf
    pools: dict[str, tuple[float, ...]] = {
        "health": (1.0, growth.min_health, nan, np.nextafter(growth.min_health, -inf), 0.0),
        "contact": (0.0, growth.contact_bound, -0.5, nan, np.nextafter(growth.contact_bound, inf), inf),
        "contribution": (
            1.0,
            growth.min_contribution,
            nan,
            np.nextafter(growth.min_contribution, -inf),
            -2.0,
        ),
    }
    counts = {"measured": (0, -1, 1, 5), "nonfinite": (0,) * 15 + (1, 3)}
    others = (0.0, 0.5, -1.0, nan)
    table: dict[str, Any] = {}
    for attribute in attrs.fields(Evidence):
        name = attribute.name
        pool = np.asarray(counts[name] if name in counts else pools.get(name, others))
        table[name] = pool[np.maximum(draw(_bytes(shape)) - 160, 0) % len(pool)]
    return table


@st.composite
def _bytes(draw: st.DrawFn, shape: Sequence[int]) -> Ints:
    """Integers in [0, 255] of a shape."""
    size = int(np.prod(shape))
    return (
        np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8).astype(np.int64).reshape(shape)
    )


def _some(entries: tuple[Any, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    """At least one of the entries, each at most once, in any order."""
    return st.lists(st.sampled_from(entries), min_size=1, max_size=3, unique=True).map(tuple)


def _ranked(mask: Bools, choice: Ints) -> Ints:
    """`[N]` index of the offered entry of rank `choice`, modulo their count; 0 where nothing is offered."""
    rank = choice % np.maximum(mask.sum(axis=1), 1)
    index: Ints = np.argmax(np.cumsum(mask, axis=1) > rank[:, None], axis=1)
    return index
