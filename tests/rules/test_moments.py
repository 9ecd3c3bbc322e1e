"""Running moments: what all samples at once would give, however they came."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from esper_core.state import learner
from esper_core.state.learner import Moments

Floats = NDArray[np.float64]
many = settings(max_examples=200, deadline=None)


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
    """N4: the first batch is not mixed with a prior: mean and spread are its own."""
    moments = seen(values)
    expected = Moments(
        count=float(len(values)), mean=values.mean(axis=0), m2=values.var(axis=0) * len(values)
    )
    assert_close(moments, expected)


@pytest.mark.property
@many
@given(samples(), st.lists(st.integers(0, 100), max_size=8))
def test_the_partition_into_batches_does_not_matter(values: Floats, at: list[int]) -> None:
    """N1: batches of any sizes, empty ones included, give the moments of all samples at once."""
    assert_close(seen(*cut(values, at)), seen(values))
    assert_close(seen(*values[:, None]), seen(values))


def bits(moments: Moments) -> tuple[float, bytes, bytes]:
    return moments.count, moments.mean.tobytes(), moments.m2.tobytes()


@pytest.mark.acceptance("RL-06", "X-24")
@pytest.mark.property
@many
@given(samples(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_order_of_environments_and_samples_changes_no_bit(values: Floats, envs: int, rnd: Any) -> None:
    """N1: any order of the samples, so any order of environments and epochs; whatever the sign of zeros."""
    values = np.where(values > 0, values, 0.0 * values)[: len(values) // envs * envs]
    before = seen(np.full((3, values.shape[1]), 0.3))
    by_env = values.reshape(-1, envs, values.shape[1])
    order, steps = list(range(envs)), list(range(len(by_env)))
    rnd.shuffle(order), rnd.shuffle(steps)
    moved = by_env[:, order][steps].reshape(values.shape)
    assert bits(before.merge(moved)) == bits(before.merge(values))
    assert bits(before.merge(values[::-1])) == bits(before.merge(values))


@pytest.mark.property
@many
@given(samples(least=3), st.integers(0, 100), st.integers(0, 100))
def test_merging_is_associative_and_commutative(values: Floats, one: int, other: int) -> None:
    """N2: (a b) c = a (b c), and c b a."""
    a, b, c = cut(values, [one, other])
    assert_close(seen(a, b, c), seen(a, np.concatenate([b, c])))
    assert_close(seen(a, b, c), seen(c, b, a))


@pytest.mark.property
@many
@given(st.floats(-1e6, 1e6), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_constant_column_normalises_to_0(value: float, sizes: list[int]) -> None:
    """N6: exactly: the mean of equal numbers is that number, to the last bit."""
    moments = seen(*[np.full((size, 2), value) for size in sizes])
    assert moments.std.tolist() == [learner.STD_FLOOR] * 2
    assert moments.normalise(np.full((3, 2), value), 10.0).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.property
@many
@given(samples(least=2))
def test_what_was_seen_gets_mean_0_and_deviation_1(values: Floats) -> None:
    """N3: stationary samples are brought to mean 0 and deviation 1, and m2 is never negative."""
    assert (seen(values[: len(values) // 2], values[len(values) // 2 :]).m2 >= 0).all()
    got = seen(values).normalise(values, 1e9)
    np.testing.assert_allclose(got.mean(axis=0), 0.0, atol=1e-9)
    varied = values.std(axis=0) > learner.STD_FLOOR
    np.testing.assert_allclose(got[:, varied].std(axis=0), 1.0, rtol=1e-9)
    assert (got[:, ~varied].std(axis=0) <= 1.0).all()


@pytest.mark.property
@many
@given(samples(), st.floats(0.1, 10), st.floats(-1e9, 1e9))
def test_results_stay_within_the_clip_and_in_order(values: Floats, clip: float, far: float) -> None:
    """N5: no result is beyond the clip, and none inside is touched."""
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
@given(samples(), st.floats(-3, 3))
def test_normalising_can_be_taken_back(values: Floats, shift: float) -> None:
    """N7: x = mean + std * normalised x."""
    moments, x = seen(values), values + shift
    back = moments.mean + moments.std * moments.normalise(x, np.inf)
    np.testing.assert_allclose(back, x, rtol=1e-12, atol=1e-12 * (1 + np.abs(x).max()))


@pytest.mark.property
@many
@given(samples(least=2), st.floats(1e-2, 1e2), st.floats(-5, 5))
def test_neither_unit_nor_origin_matters(values: Floats, unit: float, origin: float) -> None:
    """N8: samples in another unit, and from another origin, normalise to the same; their signs stay."""
    varied = values.std(axis=0) * min(unit, 1.0) > 1e-2 * np.maximum(1.0, np.abs(values).max())
    one = seen(values).normalise(values, np.inf)
    other = seen(unit * values + origin).normalise(unit * values + origin, np.inf)
    np.testing.assert_allclose(other[:, varied], one[:, varied], rtol=0, atol=1e-9)


@pytest.mark.property
@many
@given(samples())
def test_through_lists_and_json_every_bit_returns(values: Floats) -> None:
    """N9: a checkpoint gives back count, mean and m2 bit for bit, and they go on alike."""
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
    """N10: a rollout goes on with the moments that it began with."""
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
