"""Running moments: what all samples at once would give, however they came."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from esper_core.state import learner
from esper_core.state.learner import Moments

Floats = NDArray[np.float64]
many = settings(max_examples=150, deadline=None)


@st.composite
def samples(draw: st.DrawFn, least: int = 1) -> Floats:
    """Columns of unlike means and spreads, the last of them constant."""
    rows, columns = draw(st.integers(least, 40)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    spread = rng.choice([1e-3, 1.0, 50.0], size=columns)
    spread[-1] = 0.0
    mean: Floats = spread * rng.normal(size=columns) * 3 + (spread == 0) * rng.normal()
    values: Floats = mean + spread * rng.normal(size=(rows, columns))
    return values


def seen(*batches: Floats) -> Moments:
    moments = Moments.none(batches[0].shape[1])
    for batch in batches:
        moments = moments.merge(batch)
    return moments


def assert_close(one: Moments, other: Moments) -> None:
    """To 12 digits of each column's size."""
    assert one.count == other.count
    size = np.abs(other.mean) + np.sqrt(other.m2 / max(other.count, 1))
    assert (np.abs(one.mean - other.mean) <= 1e-12 * size).all()
    assert (np.abs(one.m2 - other.m2) <= 1e-12 * np.maximum(other.m2, other.count * size**2)).all()


def cut(values: Floats, at: list[int]) -> list[Floats]:
    return np.split(values, sorted(k % (len(values) + 1) for k in at))


def test_values_by_hand() -> None:
    """1, 2, 6 and 10, 10, 10: means 3 and 10, squared deviations 4 + 1 + 9 and 0."""
    moments = seen(np.asarray([[1.0, 10.0], [2.0, 10.0]]), np.asarray([[6.0, 10.0]]))
    assert (moments.count, moments.mean.tolist()) == (3.0, [3.0, 10.0])
    np.testing.assert_allclose(moments.m2, [14.0, 0.0], rtol=1e-15)
    np.testing.assert_allclose(moments.std, [np.sqrt(14 / 3), learner.STD_FLOOR], rtol=1e-15)
    np.testing.assert_allclose(
        moments.normalise(np.asarray([[5.0, 10.0]]), 9.0), [[2 / np.sqrt(14 / 3), 0.0]], rtol=1e-15
    )


@pytest.mark.property
@many
@given(samples())
def test_one_batch_has_the_moments_of_its_samples(values: Floats) -> None:
    moments = seen(values)
    expected = Moments(
        count=float(len(values)), mean=values.mean(axis=0), m2=values.var(axis=0) * len(values)
    )
    assert_close(moments, expected)


@pytest.mark.acceptance("RL-06")
@pytest.mark.property
@many
@given(samples(), st.lists(st.integers(0, 100), max_size=8), st.randoms(use_true_random=False))
def test_neither_the_partition_nor_the_order_of_samples_matters(values: Floats, at: list[int], rnd) -> None:
    """Empty batches included."""
    order = list(range(len(values)))
    rnd.shuffle(order)
    assert_close(seen(*cut(values[order], at)), seen(values))
    assert_close(seen(*values[:, None]), seen(values))


@pytest.mark.property
@many
@given(samples(least=3), st.integers(0, 100), st.integers(0, 100))
def test_merging_is_associative_and_commutative(values: Floats, one: int, other: int) -> None:
    a, b, c = cut(values, [one, other])
    assert_close(seen(a, b, c), seen(a, np.concatenate([b, c])))
    assert_close(seen(a, b, c), seen(c, b, a))


@pytest.mark.property
@many
@given(st.floats(-1e6, 1e6), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_constant_column_normalises_to_0(value: float, sizes: list[int]) -> None:
    """Exactly: the mean of equal numbers is that number, to the last bit."""
    moments = seen(*[np.full((size, 2), value) for size in sizes])
    assert moments.std.tolist() == [learner.STD_FLOOR] * 2
    assert moments.normalise(np.full((3, 2), value), 10.0).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.property
@many
@given(samples(least=2))
def test_what_was_seen_gets_mean_0_and_deviation_1(values: Floats) -> None:
    got = seen(values).normalise(values, 1e9)
    np.testing.assert_allclose(got.mean(axis=0), 0.0, atol=1e-9)
    varied = values.std(axis=0) > learner.STD_FLOOR
    np.testing.assert_allclose(got[:, varied].std(axis=0), 1.0, rtol=1e-9)
    assert (got[:, ~varied].std(axis=0) <= 1.0).all()


@pytest.mark.property
@many
@given(samples(), st.floats(0.1, 10), st.floats(-1e9, 1e9))
def test_results_stay_within_the_clip_and_in_order(values: Floats, clip: float, far: float) -> None:
    moments = seen(values)
    x = np.sort(np.concatenate([values, values + far, values - far]), axis=0)
    got = moments.normalise(x, clip)
    assert np.abs(got).max() <= clip
    assert (np.diff(got, axis=0) >= 0).all()
    inside = np.abs(x - moments.mean) < clip * moments.std * (1 - 1e-12)
    assert_array_equal(got[inside], ((x - moments.mean) / moments.std)[inside])


def test_before_any_sample_x_is_only_clipped() -> None:
    none = Moments.none(3)
    assert none.normalise(np.asarray([-0.5, 2.0, 40.0]), 10.0).tolist() == [-0.5, 2.0, 10.0]
    assert none.std.tolist() == [1.0] * 3
    assert_close(none.merge(np.zeros((0, 3))), none)


@pytest.mark.property
@many
@given(samples())
def test_through_lists_and_json_every_bit_returns(values: Floats) -> None:
    moments = seen(values[: len(values) // 2], values[len(values) // 2 :])
    count, mean, m2 = json.loads(json.dumps([moments.count, moments.mean.tolist(), moments.m2.tolist()]))
    back = Moments(count=count, mean=np.asarray(mean), m2=np.asarray(m2))
    assert back.count == moments.count
    for one, other in ((back.mean, moments.mean), (back.m2, moments.m2)):
        assert one.dtype == np.float64
        assert one.tobytes() == other.tobytes()
    assert back.merge(values).m2.tobytes() == moments.merge(values).m2.tobytes()


@pytest.mark.property
@many
@given(samples())
def test_neither_normalising_nor_merging_changes_what_is_there(values: Floats) -> None:
    moments = seen(values)
    held = [array.copy() for array in (values, moments.mean, moments.m2)]
    count = moments.count
    moments.normalise(values, 0.5)
    moments.merge(values)
    assert moments.count == count
    for array, before in zip((values, moments.mean, moments.m2), held, strict=True):
        assert array.tobytes() == before.tobytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_samples_that_are_not_finite_are_refused_by_column(bad: float) -> None:
    values = np.zeros((4, 12))
    values[2, [3, 10]] = bad
    with pytest.raises(ValueError, match=r"not finite in column 3, 10 of 12"):
        Moments.none(12).merge(values)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"samples have shape \(4, 2\), expected \(M, 3\)"):
        Moments.none(3).merge(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"samples have shape \(3,\), expected \(M, 3\)"):
        Moments.none(3).merge(np.zeros(3))
    with pytest.raises(ValueError, match=r"Moments.m2 has shape \(2,\), expected \(3,\)"):
        Moments(count=1.0, mean=np.zeros(3), m2=np.zeros(2))
