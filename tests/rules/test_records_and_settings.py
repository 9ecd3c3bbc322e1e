"""Records refuse what contradicts itself; settings refuse what is out of range, and say which and why."""

import math
from itertools import product
from typing import Any, get_args

import attrs
import numpy as np
import pytest
from small_worlds import space_of, table_of

from esper_core.state.actions import HEADS, HEADS_OF, Blend, Curve, Decision, Op, name_of
from esper_core.state.evidence import Evidence
from esper_core.state.settings import (
    BlendName,
    CurveName,
    GrowthSettings,
    OptimizerSettings,
    TrainSettings,
    epochs_of,
)
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable, Stage


@pytest.mark.parametrize(
    ("share", "epochs", "expected"),
    [
        (0.0, 24, 0),
        (0.1, 24, 3),
        (0.05, 24, 2),
        (0.1, 30, 3),
        (0.7, 10, 7),
        (0.29, 100, 29),
        (0.99, 1, 1),
        (1e-12, 24, 1),
        (1 / 3, 3, 1),
    ],
)
def test_epochs_of(share, epochs, expected):
    assert epochs_of(share, epochs) == expected


def test_epochs_of_is_the_exact_share_rounded_up_in_spite_of_binary_fractions():
    """0.07 * 100 is 7.000000000000001 in float64."""
    for percent, epochs in product(range(100), range(1, 301)):
        assert epochs_of(percent / 100, epochs) == -(-percent * epochs // 100)


@pytest.mark.parametrize(
    ("record", "field", "value", "reason"),
    [
        (GrowthSettings, "max_live", 0, "must be >= 1: 0"),
        (GrowthSettings, "budget", -1, "must be >= 0: -1"),
        (GrowthSettings, "training_dwell", 1.0, "must be < 1.0: 1.0"),
        (GrowthSettings, "embargo", -0.1, "must be >= 0.0: -0.1"),
        (GrowthSettings, "prune_dwell", math.nan, "must be >= 0.0: nan"),
        (GrowthSettings, "min_health", 1.5, "must be <= 1.0: 1.5"),
        (GrowthSettings, "min_contribution", math.nan, "must be finite, not nan"),
        (GrowthSettings, "contact_bound", 0.0, "must be > 0.0: 0.0"),
        (GrowthSettings, "contact_bound", math.inf, "must be finite, not inf"),
        (GrowthSettings, "incubation_cap", math.inf, "must be finite, not inf"),
        (GrowthSettings, "input_gain", 1.1, "must be <= 1.0: 1.1"),
        (GrowthSettings, "targets", (0.5, 0.0), "must be > 0.0: 0.0"),
        (GrowthSettings, "targets", (1.5,), "must be <= 1.0: 1.5"),
        (GrowthSettings, "targets", (0.5, 0.5), "names 0.5 more than once"),
        (GrowthSettings, "targets", (), "must be >= 1: 0"),
        (GrowthSettings, "speeds", (-1,), "must be >= 0: -1"),
        (GrowthSettings, "blends", ("add", "gate", "add"), "names add more than once"),
        (GrowthSettings, "curves", (), "must be >= 1: 0"),
        (GrowthSettings, "slots", ("a", "b", "b", "a"), "names a, b more than once"),
        (OptimizerSettings, "lr", 0.0, "must be > 0.0: 0.0"),
        (OptimizerSettings, "momentum", 1.0, "must be < 1.0: 1.0"),
        (OptimizerSettings, "weight_decay", math.inf, "must be finite, not inf"),
        (OptimizerSettings, "clip", -1.0, "must be >= 0.0: -1.0"),
        (TrainSettings, "epochs", 0, "must be >= 1: 0"),
        (TrainSettings, "batch_size", 0, "must be >= 1: 0"),
        (TrainSettings, "train_batches", 0, "must be >= 1: 0"),
        (TrainSettings, "warmup", 1.0, "must be < 1.0: 1.0"),
    ],
)
def test_settings_name_the_field_and_the_reason(record, field, value, reason):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        record(**{field: value})
    message = str(error.value)
    assert f"'{field}'" in message
    assert reason in message


def test_limits_may_be_absent_and_lists_of_names_empty():
    assert GrowthSettings(budget=None, blueprints=(), slots=()).budget is None
    assert GrowthSettings(budget=0).budget == 0
    assert TrainSettings(train_batches=None, validation_batches=None).train_batches is None


def test_the_vocabulary_of_settings_is_that_of_actions():
    assert get_args(CurveName) == tuple(name_of(curve) for curve in Curve)
    assert get_args(BlendName) == tuple(name_of(blend) for blend in Blend)
    assert name_of(Op.SET_ALPHA_TARGET) == "set-alpha-target"


@pytest.mark.acceptance("ME-06")
def test_operations_are_numbers_and_every_head_is_used_by_one():
    assert [int(op) for op in Op] == list(range(6))
    assert set(HEADS_OF) == set(Op)
    assert all(heads[0] == "op" and set(heads) <= set(HEADS) for heads in HEADS_OF.values())


def test_decision_heads_must_be_of_one_length():
    heads = {head: np.zeros(2, np.int64) for head in HEADS}
    with pytest.raises(ValueError, match=r"Decision\.speed has shape \(3,\), expected \(2,\)"):
        Decision(**{**heads, "speed": np.zeros(3, np.int64)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cost": np.zeros((2, 1, 1), np.int64)},
            r"ActionSpace\.cost has shape \(2, 1, 1\), expected \(2, 2, 1\)",
        ),
        ({"enabled": np.ones(3, np.bool_)}, r"ActionSpace\.enabled has shape \(3,\), expected \(2,\)"),
        ({"speeds": np.zeros(0, np.int64), "curves": ()}, "offers no choice of curve or speed; .* 'enabled'"),
        (
            {"blueprints": (), "cost": np.zeros((2, 0, 1), np.int64)},
            "offers no choice of blueprint; every head needs at least one entry",
        ),
    ],
)
def test_an_action_space_refuses_axes_that_contradict_its_vocabulary(changes, message):
    with pytest.raises(ValueError, match=message):
        space_of(2, **changes)


def test_an_action_space_counts_the_choices_of_every_head():
    assert dict(zip(HEADS, space_of(3).sizes, strict=True)) == {
        "op": 6,
        "slot": 3,
        "blueprint": 2,
        "blend": 1,
        "curve": 2,
        "target": 2,
        "speed": 3,
    }


@pytest.mark.acceptance("CF-07")
def test_a_table_refuses_a_seed_number_that_an_environment_uses_twice():
    seed = {"stage": Stage.TRAINING, "seed": 4}
    shared_between_environments = table_of([seed, {}], [{}, seed])
    assert shared_between_environments.seed.tolist() == [[4, -1], [-1, 4]]
    numbers = np.asarray([[0, 1], [4, 4]])
    with pytest.raises(ValueError, match=r"SlotTable\.seed: environment 1 holds seed 4 in two slots"):
        attrs.evolve(shared_between_environments, seed=numbers)


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        (SlotTable.empty(2, 3), "age", np.zeros((3, 2), np.int64)),
        (SlotTable.empty(2, 3), "born", np.zeros(3, np.int64)),
        (Evidence.unknown(2, 3), "health", np.zeros((2, 1))),
        (HostSignals.unknown(2), "best", np.zeros(3)),
    ],
)
def test_records_refuse_arrays_of_another_shape(record: Any, field: str, value: Any):
    name = type(record).__name__
    with pytest.raises(ValueError, match=rf"{name}\.{field} has shape .*, expected"):
        attrs.evolve(record, **{field: value})


def test_a_table_has_two_axes():
    with pytest.raises(ValueError, match=r"SlotTable\.stage must be \[N, S\], got shape \(2,\)"):
        attrs.evolve(SlotTable.empty(2, 2), stage=np.zeros(2, np.int64))


def test_unknown_is_nan_or_never():
    nothing = Evidence.unknown(2, 3)
    assert (nothing.measured == -1).all()
    assert np.isnan(nothing.contribution).all()
    assert np.isnan(nothing.health).all()
    assert np.isnan(HostSignals.unknown(2).score).all()
