"""Features: named columns, finite whatever was measured, and unknown is never measured zero."""

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from esper_core.rules.features import HOST_FEATURES, SLOT_FEATURES, host_features, slot_features
from esper_core.state.evidence import Evidence
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable, Stage
from esper_core.testing.strategies import action_spaces, slot_tables

Floats = NDArray[np.float64]
EPOCHS, SIZE = 20, 100
HOST, SLOT = list(HOST_FEATURES), list(SLOT_FEATURES)
NUMBERS = (0.0, 1.0, -2.5, 1e-300, 1e300, -1e300, np.nan, np.inf, -np.inf)


def of_hosts(slots: SlotTable, signals: HostSignals, epoch: int = 3) -> Floats:
    begins = np.zeros(len(slots.born), np.bool_)
    return host_features(epoch, EPOCHS, begins, slots, signals, SIZE)


def of_slots(slots: SlotTable, evidence: Evidence) -> Floats:
    return slot_features(EPOCHS, slots, evidence, SIZE)


def filled(record: Any, draw: np.random.Generator, numbers: Any = NUMBERS) -> Any:
    """The record with any numbers where it has floats, and with small counts elsewhere."""
    columns = {}
    for name, array in attrs.asdict(record, recurse=False).items():
        floats = array.dtype == np.float64
        columns[name] = draw.choice(numbers, array.shape) if floats else draw.integers(-1, 9, array.shape)
    return attrs.evolve(record, **columns)


def column(features: Floats, names: list[str], name: str) -> Any:
    return features[..., names.index(name)].tolist()


def test_every_name_is_a_column() -> None:
    slots = SlotTable.empty(3, 2)
    assert of_hosts(slots, HostSignals.unknown(3)).shape == (3, len(HOST))
    assert of_slots(slots, Evidence.unknown(3, 2)).shape == (3, 2, len(SLOT))
    assert SLOT[: len(Stage)] == [stage.name.lower() for stage in Stage]
    assert all(HOST_FEATURES.values())
    assert all(SLOT_FEATURES.values())


def test_of_a_newborn_host_nothing_is_known() -> None:
    """All 0, but for the time and for the slots, which are dormant."""
    slots = SlotTable.empty(1, 2)
    expected = np.zeros((1, 2, len(SLOT)))
    expected[..., SLOT.index("dormant")] = 1.0
    assert_array_equal(of_slots(slots, Evidence.unknown(1, 2)), expected)
    hosts = of_hosts(slots, HostSignals.unknown(1), epoch=0)
    assert_array_equal(hosts, np.zeros((1, len(HOST))))


def test_of_a_host_by_hand() -> None:
    """20 epochs, of which 15 are over; a host of 100 parameters with a fossil and a live seed."""
    slots = attrs.evolve(
        SlotTable.empty(1, 4),
        stage=np.asarray([[Stage.FOSSILIZED, Stage.HOLDING, Stage.DORMANT, Stage.EMBARGOED]]),
        parameters=np.asarray([[20, 5, 0, 0]]),
    )
    signals = HostSignals(
        train_loss=np.asarray([np.e - 1.0]),
        loss=np.asarray([-(np.e**2 - 1.0)]),
        score=np.asarray([0.5]),
        committed=np.asarray([0.25]),
        best=np.asarray([0.75]),
        plateau=np.asarray([4]),
    )
    expected = {
        "time": 0.75,
        "known": 1.0,
        "train_loss": 1.0,
        "loss": -2.0,
        "score": 0.5,
        "committed": 0.25,
        "below_best": 0.25,
        "plateau": 0.2,
        "live": 0.25,
        "fossils": 0.25,
        "added": 0.25,
    }
    found = dict(zip(HOST, of_hosts(slots, signals, epoch=15)[0].tolist(), strict=True))
    assert found == pytest.approx(expected, rel=1e-12)


def test_of_a_slot_by_hand() -> None:
    """A seed in the middle of a linear ramp from 0 to 0.5; its neighbour is dormant."""
    slots = attrs.evolve(
        SlotTable.empty(1, 2),
        stage=np.asarray([[Stage.BLENDING, Stage.DORMANT]]),
        parameters=np.asarray([[30, 0]]),
        age=np.asarray([[6, 0]]),
        dwell=np.asarray([[2, 0]]),
        ramp_target=np.asarray([[0.5, 0.0]]),
        ramp_steps=np.asarray([[4, 0]]),
        ramp_done=np.asarray([[2, 0]]),
    )
    told = {
        "contribution": -0.1,
        "contribution_error": 0.01,
        "velocity": 0.02,
        "shapley": 0.03,
        "shapley_error": 0.04,
        "measured": 2,
        "health": 0.9,
        "gradient_norm": np.e - 1.0,
        "gradient_ratio": np.e**2 - 1.0,
        "nonfinite": 3,
        "contact": 1.0 - np.e,
        "rank": 0.5,
        "orthogonality": 0.75,
    }
    evidence = attrs.evolve(
        Evidence.unknown(1, 2), **{name: np.asarray([[value, -1.0]]) for name, value in told.items()}
    )
    evidence = attrs.evolve(
        evidence, rank=np.asarray([[0.5, 0.25]]), orthogonality=np.asarray([[0.75, np.nan]])
    )
    expected = dict.fromkeys(SLOT, 0.0) | {
        "blending": 1.0,
        "influence": 0.25,
        "ramp": 0.5,
        "age": 0.3,
        "dwell": 0.1,
        "size": 0.3,
        "contribution": -0.1,
        "contribution_error": 0.01,
        "contribution_known": 1.0,
        "contribution_age": 0.1,
        "velocity": 0.02,
        "shapley": 0.03,
        "shapley_error": 0.04,
        "health": 0.9,
        "health_known": 1.0,
        "gradient_norm": 1.0,
        "gradient_ratio": 2.0,
        "nonfinite": 1.0,
        "contact": -1.0,
        "contact_known": 1.0,
        "rank": 0.5,
        "rank_order": 0.5,
        "orthogonality": 0.75,
        "orthogonality_order": 0.0,
        "site_known": 1.0,
    }
    found = dict(zip(SLOT, of_slots(slots, evidence)[0, 0].tolist(), strict=True))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["rank", "orthogonality"])
@pytest.mark.parametrize(
    ("values", "order"),
    [
        ([0.5, 0.5 - 1e-12, 0.5 + 1e-12, 0.9], [0.25, 0.0, 0.5, 0.75]),
        ([0.2, 0.2, 0.1, 0.2], [0.25, 0.25, 0.0, 0.25]),
        ([np.nan, 0.3, 0.1, np.nan], [0.0, 0.25, 0.0, 0.0]),
    ],
    ids=["close", "equal", "unknown"],
)
def test_the_order_of_slots_is_told(name: str, values: list[float], order: list[float]) -> None:
    """However close they are; what is unknown is lower than nothing, and nothing is lower."""
    evidence = attrs.evolve(Evidence.unknown(1, 4), **{name: np.asarray([values])})
    seen = of_slots(SlotTable.empty(1, 4), evidence)
    assert column(seen, SLOT, f"{name}_order") == [order]


def test_time_and_influence_rise() -> None:
    times = [of_hosts(SlotTable.empty(1, 1), HostSignals.unknown(1), epoch=t) for t in range(EPOCHS)]
    assert_allclose([column(f, HOST, "time")[0] for f in times], np.arange(EPOCHS) / EPOCHS, rtol=1e-12)
    ramp = attrs.evolve(
        SlotTable.empty(1, 5),
        stage=np.full((1, 5), Stage.BLENDING),
        ramp_target=np.ones((1, 5)),
        ramp_steps=np.full((1, 5), 4),
        ramp_done=np.arange(5)[None],
    )
    seen = of_slots(ramp, Evidence.unknown(1, 5))
    assert column(seen, SLOT, "influence") == [[0.0, 0.25, 0.5, 0.75, 1.0]]


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_everything_is_finite_whatever_was_measured(data: st.DataObject) -> None:
    space = data.draw(action_spaces())
    slots = data.draw(slot_tables(space, 3))
    draw = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    signals = filled(HostSignals.unknown(3), draw)
    evidence = filled(Evidence.unknown(*slots.shape), draw)
    with np.errstate(all="ignore"):
        assert np.isfinite(of_hosts(slots, signals)).all()
        assert np.isfinite(of_slots(slots, evidence)).all()


def measured_zero() -> tuple[SlotTable, HostSignals, Evidence]:
    """Everything was measured, and is 0."""
    zeros = {name: np.zeros((1, 2)) for name in attrs.asdict(Evidence.unknown(1, 2))}
    counts = {name: np.zeros((1, 2), np.int64) for name in ("measured", "nonfinite")}
    signals = {name: np.zeros(1) for name in attrs.asdict(HostSignals.unknown(1))}
    return (
        SlotTable.empty(1, 2),
        HostSignals(**{**signals, "plateau": np.zeros(1, np.int64)}),
        Evidence(**{**zeros, **counts}),
    )


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["train_loss", "loss"])
def test_an_unknown_loss_is_not_a_loss_of_0(name: str, unknown: float) -> None:
    slots, zero, _ = measured_zero()
    lost = attrs.evolve(zero, **{name: np.asarray([unknown])})
    assert column(of_hosts(slots, zero), HOST, "known") == [1.0]
    assert column(of_hosts(slots, lost), HOST, "known") == [0.0]


@pytest.mark.parametrize(
    ("name", "unknown", "flag"),
    [
        ("measured", -1, "contribution_known"),
        ("health", np.nan, "health_known"),
        ("contact", np.nan, "contact_known"),
        ("contact", np.inf, "contact_known"),
        ("rank", np.nan, "site_known"),
        ("orthogonality", np.nan, "site_known"),
    ],
)
def test_what_is_unknown_of_a_seed_is_not_0(name: str, unknown: float, flag: str) -> None:
    """In its own slot only; and the flag is the only column that tells."""
    slots, _, zero = measured_zero()
    array = getattr(zero, name).copy()
    array[0, 1] = unknown
    one, other = of_slots(slots, zero), of_slots(slots, attrs.evolve(zero, **{name: array}))
    assert column(one, SLOT, flag) == [[1.0, 1.0]]
    assert column(other, SLOT, flag) == [[1.0, 0.0]]
    assert np.argwhere(one != other).tolist() == [[0, 1, SLOT.index(flag)]]


def test_an_old_contribution_has_an_age() -> None:
    """It was known once; that it is not any more shows in its age."""
    slots, _, zero = measured_zero()
    old = attrs.evolve(zero, measured=np.asarray([[0, 5]]), contribution=np.asarray([[0.0, np.nan]]))
    assert column(of_slots(slots, old), SLOT, "contribution_age") == [[0.0, 0.25]]


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_slots_have_no_order(data: st.DataObject) -> None:
    """Permuted slots have permuted features; the host's do not change, up to the order of a sum."""
    space = data.draw(action_spaces())
    slots = data.draw(slot_tables(space, 3))
    order = data.draw(st.permutations(range(len(space.slots))))
    draw = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    evidence = filled(Evidence.unknown(*slots.shape), draw, (0.0, 0.25, -1.0, 3.0, np.nan))
    signals = filled(HostSignals.unknown(3), draw, (0.0, 0.25, -1.0, 3.0, np.nan))
    moved = [
        attrs.evolve(
            record,
            **{
                name: array[:, order]
                for name, array in attrs.asdict(record, recurse=False).items()
                if array.ndim == 2
            },
        )
        for record in (slots, evidence)
    ]
    assert_array_equal(of_slots(*moved), of_slots(slots, evidence)[:, order])
    assert_allclose(of_hosts(moved[0], signals), of_hosts(slots, signals), rtol=1e-14)


@pytest.mark.property
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_environments_are_read_one_by_one(seed: int) -> None:
    draw = np.random.default_rng(seed)
    slots = SlotTable.empty(4, 3)
    signals, evidence = filled(HostSignals.unknown(4), draw), filled(Evidence.unknown(4, 3), draw)
    rows = [2, 0]

    def part(record: Any) -> Any:
        return attrs.evolve(record, **{k: v[rows] for k, v in attrs.asdict(record, recurse=False).items()})

    with np.errstate(all="ignore"):
        assert_array_equal(of_hosts(part(slots), part(signals)), of_hosts(slots, signals)[rows])
        assert_array_equal(of_slots(part(slots), part(evidence)), of_slots(slots, evidence)[rows])
