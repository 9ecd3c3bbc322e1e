"""Norms, clipping and statistics of blocks of gradients."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from esper_core.state.plans import EXPLODING, VANISHING, GradientStatistics
from esper_plugins.devices.blocks import Layout
from esper_plugins.devices.gradients import (
    Accumulator,
    clip_factors,
    group_norms,
    parameter_norms,
    statistics,
    unsampled,
)

LAYOUT = Layout.of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
SIZE = sum(LAYOUT.sizes)


class Operations(TorchDispatchMode):
    """Counts the operations that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def noise(*shape: int, key: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(key), dtype=torch.float64)


def naive(gradient: Tensor) -> Tensor:
    """`[R, L]`, one Python loop per axis, scaled so that squares cannot overflow."""
    rows = []
    for row in gradient.double():
        norms = []
        for piece in row.split(LAYOUT.sizes):
            largest = float(piece.abs().max())
            norms.append(largest * float((piece / largest).pow(2).sum()) ** 0.5 if largest else 0.0)
        rows.append(norms)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.acceptance("GR-08")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
def test_norms_equal_naive_norms(dtype: torch.dtype, scale: float) -> None:
    gradient = (noise(5, SIZE) * scale).to(dtype)
    norms = parameter_norms(gradient, LAYOUT)
    assert norms.dtype == torch.float64
    torch.testing.assert_close(norms, naive(gradient), rtol=1e-12, atol=0)
    whole = gradient.double().norm(dim=1)
    torch.testing.assert_close(group_norms(norms), whole, rtol=1e-12, atol=0)


@pytest.mark.acceptance("GR-08")
@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e307])
def test_no_finite_norm_overflows_or_vanishes(scale: float) -> None:
    """Squares of 1e200 are infinite in float64, squares of 1e-200 are 0."""
    gradient = noise(3, SIZE).clamp(-1, 1) * scale
    norms = parameter_norms(gradient, LAYOUT)
    torch.testing.assert_close(norms / scale, naive(gradient / scale), rtol=1e-12, atol=0)
    torch.testing.assert_close(group_norms(norms) / scale, (gradient / scale).norm(dim=1), rtol=1e-12, atol=0)


@pytest.mark.acceptance("GR-08")
def test_the_number_of_operations_does_not_depend_on_the_number_of_environments() -> None:
    counts = []
    for rows in (1, 4, 64):
        gradient = noise(rows, SIZE)
        accumulator = Accumulator([len(LAYOUT.names)] * rows, [1.0] * rows, torch.device("cpu"))
        with Operations() as operations:
            norms = parameter_norms(gradient, LAYOUT)
            total = group_norms(norms)
            accumulator.add(norms, total, torch.ones(rows, dtype=torch.bool), sampled=True)
            clip_factors(total, 1.0)
        counts.append(sum(operations.count.values()))
        assert not any("_local_scalar_dense" in name or "item" in name for name in operations.count)
    assert counts[0] == counts[1] == counts[2] > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bad_number_spoils_its_parameter_and_its_row_only(dtype: torch.dtype, bad: float) -> None:
    gradient = noise(3, SIZE).to(dtype)
    clean = parameter_norms(gradient, LAYOUT)
    gradient[1, -1] = bad
    norms = parameter_norms(gradient, LAYOUT)
    assert torch.equal(norms[[0, 2]], clean[[0, 2]])
    assert torch.isfinite(norms[1]).tolist() == [True, True, True, False]
    assert torch.isfinite(group_norms(norms)).tolist() == [True, False, True]


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(
    gradient=arrays(np.float64, st.tuples(st.integers(1, 6), st.just(SIZE)), elements=st.floats(-1e3, 1e3)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_row_has_the_same_norms_alone_and_among_others(gradient: Any, dtype: torch.dtype) -> None:
    """Bit for bit: another environment changes nobody's clip."""
    rows = torch.from_numpy(gradient).to(dtype)
    together = parameter_norms(rows, LAYOUT)
    for row in range(len(rows)):
        alone = parameter_norms(rows[row : row + 1], LAYOUT)
        assert torch.equal(alone[0], together[row])
        assert torch.equal(group_norms(alone)[0], group_norms(together)[row])


@pytest.mark.parametrize("clip", [0.5, 1e3])
def test_clipping_equals_that_of_torch(clip: float) -> None:
    gradient = noise(4, SIZE, key=3)
    factors = clip_factors(group_norms(parameter_norms(gradient, LAYOUT)), clip)
    for row in range(4):
        parameter = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
        parameter.grad = gradient[row].clone()
        nn.utils.clip_grad_norm_([parameter], clip)
        torch.testing.assert_close(gradient[row] * factors[row], parameter.grad, rtol=0, atol=1e-12)


def test_a_clip_of_zero_is_no_clip() -> None:
    assert clip_factors(torch.tensor([0.0, 1e9, 3.0]).double(), 0.0).tolist() == [1.0, 1.0, 1.0]


def record(norms: Tensor, clip: float = 1.0) -> GradientStatistics:
    """Statistics of `[T, R, L]` norms."""
    accumulator = Accumulator([norms.shape[2]] * norms.shape[1], [clip] * norms.shape[1], torch.device("cpu"))
    for step in norms:
        trained = torch.ones(len(step), dtype=torch.bool)
        accumulator.add(step, group_norms(step), trained, sampled=True)
    return statistics(accumulator.packed().numpy())


@pytest.mark.acceptance("GR-04")
def test_statistics_are_those_of_all_steps() -> None:
    """By hand: two rows, three steps, two parameters each; row 1 explodes in the middle."""
    norms = torch.tensor(
        [[[3.0, 4.0], [0.0, 1.0]], [[6.0, 8.0], [30.0, 40.0]], [[0.0, 1e-8], [float("nan"), 1.0]]],
        dtype=torch.float64,
    )
    found = record(norms)
    assert found.steps.tolist() == [3, 2]
    np.testing.assert_allclose(found.square, [25 + 100 + 1e-16, 1 + 2500], rtol=1e-12)
    np.testing.assert_allclose(found.largest, [10.0, 50.0])
    np.testing.assert_allclose(found.smallest, [1e-8, 1.0])
    assert found.nonfinite.tolist() == [0, 1]
    np.testing.assert_allclose(found.vanished, [2 / 6, 1 / 6])
    np.testing.assert_allclose(found.exploded, [0.0, 3 / 6])
    assert found.culprit.tolist() == [-1, 0]
    np.testing.assert_allclose(found.root_mean_square, [(125 / 3) ** 0.5, (2501 / 2) ** 0.5], rtol=1e-12)
    np.testing.assert_allclose(found.health, [1 - 0.5 * 2 / 6, 1 - 0.5 / 6 - 0.8 * 0.5])


@pytest.mark.acceptance("GR-04")
@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(
    norms=arrays(
        np.float64,
        st.tuples(st.integers(1, 7), st.just(2), st.just(3)),
        elements=st.sampled_from([0.0, 1e-9, 0.5, 3.0, 12.0, 1e6, np.inf, np.nan]),
    ),
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_batches_does_not_matter(norms: Any, order: Any) -> None:
    shuffled = list(range(len(norms)))
    order.shuffle(shuffled)
    one, other = record(torch.from_numpy(norms)), record(torch.from_numpy(norms[shuffled]))
    for name in ("steps", "largest", "smallest", "nonfinite", "vanished", "exploded"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.square, other.square, rtol=1e-12)
    np.testing.assert_array_equal(one.culprit >= 0, other.culprit >= 0)


def test_thresholds_are_the_named_ones() -> None:
    at = torch.tensor([[[EXPLODING * 0.5, VANISHING]]], dtype=torch.float64)
    assert record(at, clip=0.5).exploded.tolist() == [0.0]
    assert record(at * (1 + 1e-9), clip=0.5).exploded.tolist() == [0.5]
    assert record(at, clip=0.0).exploded.tolist() == [0.0]
    assert record(at).vanished.tolist() == [0.0]
    assert record(at * (1 - 1e-9)).vanished.tolist() == [0.5]


@pytest.mark.acceptance("GR-04")
def test_what_is_not_finite_counts_in_steps_that_are_not_sampled() -> None:
    accumulator = Accumulator([1, 1], [1.0, 1.0], torch.device("cpu"))
    trained = torch.tensor([True, False])
    for value, sampled in ((2.0, True), (float("nan"), False), (3.0, False)):
        norms = torch.full((2, 1), value, dtype=torch.float64)
        accumulator.add(norms, group_norms(norms), trained, sampled=sampled)
    found = statistics(accumulator.packed().numpy())
    assert found.steps.tolist() == [1, 0]
    assert found.nonfinite.tolist() == [1, 0], "a row that is not trained is not measured"
    assert found.culprit.tolist() == [0, -1]
    assert found.square.tolist() == [4.0, 0.0]
    assert np.isnan(found.health[1])
    assert np.isnan(found.root_mean_square[1])


def test_a_group_that_does_not_exist_is_unknown() -> None:
    found = statistics(unsampled(2, 3))
    assert found.steps.shape == (2, 3)
    assert not found.steps.any()
    assert np.isnan(found.health).all()
    assert np.isnan(found.root_mean_square).all()
    assert np.isinf(found.smallest).all()
    assert (found.culprit == -1).all()


@pytest.mark.acceptance("GR-04")
def test_rows_of_fewer_parameters_are_padded_and_not_blamed_for_it() -> None:
    """By hand: a row of three parameters and a row of one; what is behind the last does not count."""
    accumulator = Accumulator([3, 1], [1.0, 0.0], torch.device("cpu"))
    norms = torch.tensor([[1e-8, 20.0, 1.0], [9.0, 0.0, 0.0]], dtype=torch.float64)
    accumulator.add(norms, group_norms(norms), torch.ones(2, dtype=torch.bool), sampled=True)
    found = statistics(accumulator.packed().numpy())
    np.testing.assert_allclose(found.vanished, [1 / 3, 0.0])
    np.testing.assert_allclose(found.exploded, [1 / 3, 0.0])
    np.testing.assert_allclose(found.largest, [(400 + 1) ** 0.5, 9.0])
