"""Ramps: exact at both ends, monotone, inside their segment, and equal to the textbook's curves."""

import math

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import evidence_of, rules_of, say, space_of, table_of

from esper_core.rules import ramps
from esper_core.state.actions import Curve, Op
from esper_core.state.slots import BLENDED, SlotTable, Stage
from esper_core.testing.strategies import action_spaces, live, slot_tables

K = {Curve.SIGMOID_GENTLE: 6, Curve.SIGMOID: 12, Curve.SIGMOID_SHARP: 24}
many = settings(max_examples=200, deadline=None)


def logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def normalised_logistic(t: float, k: float) -> float:
    low, high = logistic(-k / 2), logistic(k / 2)
    return (logistic(k * (t - 0.5)) - low) / (high - low)


def ramp(start: float, target: float, steps: int, curve: Curve) -> SlotTable:
    """One environment for every epoch of the ramp, from 0 to `steps` epochs done."""
    cells = {"ramp_start": start, "ramp_target": target, "ramp_steps": steps, "ramp_curve": curve}
    return table_of(*[[{"stage": Stage.BLENDING, "ramp_done": k, **cells}] for k in range(steps + 1)])


@pytest.mark.parametrize(
    ("curve", "steps", "values"),
    [
        (Curve.LINEAR, 3, [0, 1 / 3, 2 / 3, 1]),
        (Curve.LINEAR, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Curve.COSINE, 3, [0, 0.25, 0.75, 1]),
        # (1 - cos 36°) / 2 = (3 - √5) / 8 and (1 - cos 72°) / 2 = (5 - √5) / 8
        (
            Curve.COSINE,
            5,
            [0, 0.09549150281252627, 0.3454915028125263, 0.6545084971874737, 0.9045084971874737, 1],
        ),
        # (0.119202922022118 - 0.002472623156635) / (1 - 2 * 0.002472623156635)
        (Curve.SIGMOID, 3, [0, 0.117310427826199, 0.882689572173801, 1]),
    ],
)
def test_golden_values(curve, steps, values):
    np.testing.assert_allclose(
        ramps.influence(ramp(0.0, 1.0, steps, curve))[:, 0], values, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("curve", K)
@pytest.mark.parametrize("steps", [3, 5])
def test_sigmoids_are_normalised_logistic_curves(curve, steps):
    values = [normalised_logistic(k / steps, K[curve]) for k in range(steps + 1)]
    np.testing.assert_allclose(
        ramps.influence(ramp(0.0, 1.0, steps, curve))[:, 0], values, rtol=0, atol=1e-14
    )


def test_every_curve_has_an_equation_of_its_own():
    assert set(K) == set(ramps.STEEPNESS) == set(Curve) - {Curve.LINEAR, Curve.COSINE}
    quarter = ramps.shape(np.asarray(list(Curve)), 0.25)
    assert len(np.unique(quarter)) == len(Curve)


def test_a_ramp_of_no_length_is_at_its_target():
    assert ramps.influence(ramp(0.2, 0.7, 0, Curve.COSINE)).tolist() == [[0.7]]


@pytest.mark.property
@many
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 60), st.sampled_from(Curve))
def test_ramps_are_monotone_inside_their_segment_and_exact_at_both_ends(start, target, steps, curve):
    values = ramps.influence(ramp(start, target, steps, curve))[:, 0]
    assert (values[0], values[-1]) == (start, target)
    assert values.min() >= min(start, target)
    assert values.max() <= max(start, target)
    assert (np.diff(values) * np.sign(target - start) >= 0).all()


@pytest.mark.property
@many
@given(st.sampled_from(Curve), st.floats(0, 1), st.floats(0, 1))
def test_curves_rise_and_are_symmetric(curve, t, u):
    low, high = ramps.shape(curve, min(t, u)), ramps.shape(curve, max(t, u))
    assert 0 <= low <= high <= 1
    assert ramps.shape(curve, t) + ramps.shape(curve, 1 - t) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.property
@many
@given(st.data())
def test_influence_is_a_share_and_nothing_outside_blending_holding_and_fossilized(data):
    slots = data.draw(slot_tables(data.draw(action_spaces()), 1))
    alpha = ramps.influence(slots)
    assert (alpha[~slots.within(BLENDED)] == 0).all()
    assert ((alpha >= 0) & (alpha <= 1)).all()
    settled = slots.within((Stage.HOLDING, Stage.FOSSILIZED))
    np.testing.assert_array_equal(alpha[settled], slots.ramp_target[settled])


@pytest.mark.parametrize("stage", Stage)
def test_a_complete_ramp_counts_only_in_stages_that_blend(stage):
    slots = table_of([{"stage": stage, "ramp_target": 1.0}])
    blends = stage in (Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
    assert ramps.influence(slots).tolist() == [[float(blends)]]


@pytest.mark.parametrize("curve", Curve)
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_first_contact_is_the_influence_that_advancing_brings(curve, steps):
    slots = table_of(
        [{"stage": Stage.TRAINING, "ramp_target": 0.5, "ramp_steps": steps, "ramp_curve": curve}, {}]
    )
    advanced = live(slots, evidence_of(1, 2), say(Op.ADVANCE), space_of(2), rules_of())
    alpha = ramps.influence(advanced.settled)
    np.testing.assert_array_equal(ramps.first_contact(slots), alpha)
    assert 0 < alpha[0, 0] <= 0.5
    assert (ramps.first_contact(attrs.evolve(slots, stage=advanced.settled.stage)) == 0).all()
