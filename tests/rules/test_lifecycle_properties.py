"""Legal play of any length in any small world keeps the promises of the plan's table."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import differs, take

from esper_core.rules import actions, ramps
from esper_core.rules.gates import GrowthRules
from esper_core.rules.lifecycle import Refusal
from esper_core.state.actions import ActionSpace, Op
from esper_core.state.slots import BLENDED, LIVE, PLANTED, SlotTable, Stage
from esper_core.testing.strategies import Epoch, action_spaces, growth_rules, histories, live

pytestmark = pytest.mark.property
many = settings(max_examples=200, deadline=None)

D, G, T, B, H, F, P, E, R = Stage
MOVES = {
    "acted": {(D, G), (T, B), (T, P), (B, P), (H, B), (H, F), (H, P)},
    "ticked": {(B, H), (B, P), (P, E), (E, R), (R, D)},
    "settled": {(G, T), (G, D)},
    "after": set(),
}
"""Transitions that each step of an epoch may make, from the table "The life of a seed"."""


@st.composite
def lives(draw: st.DrawFn, max_epochs: int = 12) -> tuple[ActionSpace, GrowthRules, list[Epoch]]:
    space, rules = draw(action_spaces()), draw(growth_rules())
    return space, rules, draw(histories(space, rules, max_epochs=max_epochs))


def steps(epoch: Epoch) -> dict[str, tuple[SlotTable, SlotTable]]:
    """The table before and after each step of an epoch."""
    tables = [getattr(epoch, name) for name in ("before", *MOVES)]
    return dict(zip(MOVES, pairwise(tables), strict=True))


def moves(one: SlotTable, other: SlotTable) -> set[tuple[Stage, Stage]]:
    moved = one.stage != other.stage
    pairs = zip(one.stage[moved].tolist(), other.stage[moved].tolist(), strict=True)
    return {(Stage(a), Stage(b)) for a, b in pairs}


@pytest.mark.acceptance("CF-07")
@many
@given(lives())
def test_legal_play_makes_no_illegal_transition_keeps_the_limits_and_numbers_its_seeds(world):
    space, rules, epochs = world
    check_transitions_and_their_causes(rules, epochs)
    check_limits_and_blank_slots(space, rules, epochs)
    check_seed_numbers_and_edits(epochs)


def check_transitions_and_their_causes(rules: GrowthRules, epochs: list[Epoch]) -> None:
    for epoch in epochs:
        for step, (one, other) in steps(epoch).items():
            assert moves(one, other) <= MOVES[step], step
        assert (epoch.refused == Refusal.NONE).all()
        chosen = np.arange(epoch.before.shape[1]) == epoch.decision.slot[:, None]
        asked = {op: chosen & (epoch.decision.op == op)[:, None] for op in Op}
        was, now = epoch.before.stage, epoch.acted.stage
        lost = epoch.evidence.nonfinite > 0
        assert (asked[Op.GERMINATE] == ((was == D) & (now == G))).all()
        assert (asked[Op.FOSSILIZE] == ((was == H) & (now == F))).all()
        advanced = (was == T) & (now == B)
        assert rules.growth.auto_advance or (asked[Op.ADVANCE] == advanced).all()
        assert not (asked[Op.WAIT] & ~lost & ~advanced & (was != now)).any()
        returned = (was == H) & (now == B)
        assert (returned <= (asked[Op.SET_ALPHA_TARGET] | asked[Op.PRUNE])).all()
        assert ((now == P) & (was != P) <= (asked[Op.PRUNE] | lost)).all()


def check_limits_and_blank_slots(space: ActionSpace, rules: GrowthRules, epochs: list[Epoch]) -> None:
    """At every moment of every epoch, not only between epochs."""
    blank = SlotTable.empty(*epochs[0].before.shape)
    for table in (t for e in epochs for t in (e.before, e.acted, e.ticked, e.settled, e.after)):
        planted = table.within(PLANTED)
        assert (table.within(LIVE).sum(axis=1) <= rules.growth.max_live).all()
        if rules.growth.budget is not None:
            assert (table.parameters.sum(axis=1) <= rules.growth.budget).all()
        slot = np.nonzero(planted)[1]
        cost = space.cost[slot, table.blueprint[planted], table.blend[planted]]
        assert (table.parameters[planted] == cost).all()
        assert (cost >= 0).all()
        assert space.enabled[slot].all()
        kept = ("born", "stage", "dwell")
        for name in (n for n in differs(table, blank) if n not in kept):
            assert (getattr(table, name) == getattr(blank, name))[~planted].all(), name
        assert (ramps.influence(table)[~table.within(BLENDED)] == 0).all()
        assert (table.dwell[table.stage == D] == 0).all()
        assert (table.ramp_done <= table.ramp_steps).all()


def check_seed_numbers_and_edits(epochs: list[Epoch]) -> None:
    """Seeds are numbered in order of germination, for ever; edits are the difference of what is planted."""
    seen: list[list[int]] = [[] for _ in epochs[0].before.born]
    for epoch in epochs:
        had, has = ({tuple(i) for i in np.argwhere(t.within(PLANTED))} for t in (epoch.before, epoch.ticked))
        assert {tuple(i) for i in np.argwhere(epoch.edits.germinate)} == has - had
        assert {tuple(i) for i in np.argwhere(epoch.edits.remove)} == had - has
        for env, slot in has - had:
            seen[env].append(int(epoch.edits.seed[env, slot]))
            assert epoch.edits.blueprint[env, slot] == epoch.decision.blueprint[env]
            assert epoch.edits.blend[env, slot] == epoch.decision.blend[env]
        for env, slot in had & has:
            assert epoch.before.seed[env, slot] == epoch.after.seed[env, slot]
    assert seen == [list(range(n)) for n in epochs[-1].after.born]


@pytest.mark.acceptance("ME-05")
@many
@given(lives(max_epochs=16))
def test_ages_count_epochs_from_zero_and_the_cooldown_is_as_documented(world):
    _, rules, epochs = world
    envs, count = epochs[0].before.shape
    rest = [P] + [E] * rules.embargo + [R, D]
    for env, slot in np.ndindex(envs, count):
        stages = [Stage(int(e.settled.stage[env, slot])) for e in epochs]
        age, dwell, last = 0, 0, D
        for e, stage in zip(epochs, stages, strict=True):
            germinated = e.edits.germinate[env, slot]
            entered = any(a.stage[env, slot] != b.stage[env, slot] for a, b in steps(e).values())
            age = 0 if germinated or stage not in PLANTED else age + (last in PLANTED)
            dwell = 0 if entered or stage == D else dwell + 1
            assert (e.settled.age[env, slot], e.settled.dwell[env, slot]) == (age, dwell)
            last = stage
        for at in range(len(stages)):
            if stages[at] == P and (at == 0 or stages[at - 1] != P):
                seen = stages[at : at + len(rest)]
                assert seen == rest[: len(seen)]


@many
@given(lives(max_epochs=8), st.integers(0, 1))
def test_an_environment_lives_alone_as_it_does_among_others(world, env):
    space, rules, epochs = world
    slots = SlotTable.empty(1, len(space.slots))
    for epoch in epochs:
        evidence, decision = take(epoch.evidence, [env]), take(epoch.decision, [env])
        new = epoch.ticked.stage == Stage.GERMINATED
        built = ~(new & (epoch.settled.stage == Stage.DORMANT))
        alone = live(slots, evidence, decision, space, rules, built[[env]])
        for name in ("edits", *MOVES):
            assert not differs(getattr(alone, name), take(getattr(epoch, name), [env])), name
        together = actions.masks(epoch.after, epoch.evidence, space, rules)
        assert not differs(actions.masks(alone.after, evidence, space, rules), take(together, [env]))
        slots = alone.after
