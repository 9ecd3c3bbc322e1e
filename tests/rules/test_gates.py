"""Gates open exactly at their thresholds, and never on what was not measured."""

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import WIDE, evidence_of, rules_of, space_of, table_of

from esper_core.rules import gates
from esper_core.state.evidence import Evidence
from esper_core.state.slots import Stage
from esper_core.testing.strategies import action_spaces, evidence, growth_rules, slot_tables

RULES = rules_of(
    20, training_dwell=0.15, prune_dwell=0.2, min_health=0.7, contact_bound=0.1, min_contribution=0.01
)
JUST = {"below": -np.inf, "above": np.inf}


def near(value: float, side: str) -> float:
    return float(np.nextafter(value, JUST[side]))


def test_shares_become_epochs():
    assert (RULES.training_dwell, RULES.prune_dwell, RULES.embargo) == (3, 4, 1)
    assert rules_of(20, embargo=0.0).embargo == 1


@pytest.mark.parametrize(
    ("slot", "seen", "opens"),
    [
        ({"dwell": 3}, {}, True),
        ({"dwell": 2}, {}, False),
        ({"stage": Stage.BLENDING}, {}, False),
        ({"stage": Stage.GERMINATED}, {}, False),
        ({}, {"health": 0.7}, True),
        ({}, {"health": near(0.7, "below")}, False),
        ({}, {"health": np.nan}, False),
        ({}, {"contact": 0.1}, True),
        ({}, {"contact": -5.0}, True),
        ({}, {"contact": near(0.1, "above")}, False),
        ({}, {"contact": np.inf}, False),
        ({}, {"contact": np.nan}, False),
        ({}, {"nonfinite": 1}, False),
    ],
)
def test_advance_at_its_thresholds(slot, seen, opens):
    slots = table_of([{"stage": Stage.TRAINING, **slot}])
    assert gates.advance(slots, evidence_of(1, 1, **seen), RULES).tolist() == [[opens]]


@pytest.mark.parametrize(
    ("slot", "seen", "opens"),
    [
        ({}, {"contribution": 0.01}, True),
        ({}, {"contribution": near(0.01, "below")}, False),
        ({}, {"contribution": np.nan}, False),
        ({}, {"measured": -1}, False),
        ({}, {"measured": 1}, False),
        ({}, {"nonfinite": 1}, False),
        ({"stage": Stage.BLENDING, "ramp_steps": 3}, {}, False),
        ({"stage": Stage.FOSSILIZED}, {}, False),
    ],
)
def test_fossilize_at_its_thresholds(slot, seen, opens):
    slots = table_of([{"stage": Stage.HOLDING, **slot}])
    assert gates.fossilize(slots, evidence_of(1, 1, **seen), RULES).tolist() == [[opens]]


@pytest.mark.parametrize(
    ("slot", "opens"),
    [
        ({"age": 4}, True),
        ({"age": 3}, False),
        ({"stage": Stage.BLENDING}, True),
        ({"stage": Stage.BLENDING, "withdrawing": True}, False),
        ({"stage": Stage.HOLDING}, True),
        ({"stage": Stage.GERMINATED}, False),
        ({"stage": Stage.FOSSILIZED}, False),
        ({"stage": Stage.PRUNED}, False),
    ],
)
def test_prune_takes_what_is_alive_old_enough_and_staying(slot, opens):
    slots = table_of([{"stage": Stage.TRAINING, **slot}])
    assert gates.prune(slots, RULES).tolist() == [[opens]]


def test_hold_waits_for_the_end_of_a_ramp_that_stays():
    ramp = {"stage": Stage.BLENDING, "ramp_steps": 3}
    slots = table_of(
        [{**ramp, "ramp_done": 2}, {**ramp, "ramp_done": 3}, {**ramp, "ramp_done": 3, "withdrawing": True}]
    )
    assert gates.hold(slots).tolist() == [[False, True, False]]


def test_germinate_counts_every_parameter_against_the_budget_and_live_seeds_against_their_limit():
    space = space_of(3)
    fossil, training = {"stage": Stage.FOSSILIZED}, {"stage": Stage.TRAINING}
    slots = table_of([{}, fossil, {}], [{}, training, {}])

    def free(**growth: Any) -> list[list[list[bool]]]:
        return gates.germinate(slots, space, rules_of(20, **growth))[..., 0].tolist()

    none, small, both = [False, False], [True, False], [True, True]
    assert free(max_live=1) == [[small, none, both], [none, none, none]]
    assert free(max_live=2, budget=110) == [[small, none, both]] * 2
    assert free(max_live=2, budget=109) == [[small, none, small]] * 2
    assert free(max_live=2, budget=19) == [[none] * 3] * 2
    assert space.fits[0, WIDE].tolist() == [False]


def test_retarget_offers_every_other_target_of_a_held_seed():
    slots = table_of(
        [
            {"stage": Stage.HOLDING, "ramp_target": 1.0},
            {"stage": Stage.HOLDING, "ramp_target": 0.1 + 0.2},
            {"stage": Stage.FOSSILIZED},
        ]
    )
    space = space_of(3, targets=np.asarray([0.1 + 0.2, 0.3, 1.0]))
    open_ = gates.retarget(slots, evidence_of(1, 3), space)
    assert open_.tolist() == [[[True, True, False], [False, True, True], [False] * 3]]
    assert not gates.retarget(slots, evidence_of(1, 3, nonfinite=1), space).any()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_unknown_evidence_opens_no_gate(data):
    space, rules = data.draw(action_spaces()), data.draw(growth_rules())
    shape = (1, len(space.slots))
    slots, seen = data.draw(slot_tables(space, 1)), data.draw(evidence(*shape, rules))
    nothing = Evidence.unknown(*shape)
    assert not gates.advance(slots, nothing, rules).any()
    assert not gates.fossilize(slots, nothing, rules).any()
    assert not gates.diverged(slots, nothing).any()
    without = data.draw(st.sampled_from(("health", "contact", "contribution", "measured")))
    value = np.full(shape, -1) if without == "measured" else np.full(shape, np.nan)
    seen = attrs.evolve(seen, **{without: value})
    gate = gates.advance if without in ("health", "contact") else gates.fossilize
    assert not gate(slots, seen, rules).any()
