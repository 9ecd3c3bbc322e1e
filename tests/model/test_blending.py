"""The blend operation: values, gradients, selection, and the cap of incubation."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper_core.model.blending import Gain, blend, tap

SHAPES = {"vector": (5, 4), "map": (5, 4, 3, 3), "large": (32, 16, 8, 8)}
CAP = 0.7
GAINS = [(0.0, 0.0), (0.0, 1.0), (0.25, 1.0), (1.0, 1.0), (1.0, 0.0), (0.25, 0.0)]
"""Influence and seed gain: switched off, incubating, ramping, full, and the seed frozen out."""


ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Of norms: one environment's sum may be taken in another order than among its neighbours."""


def draw(*shape: int, key: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(key), dtype=torch.float64) * scale).to(
        dtype
    )


def bitwise(one: Tensor, other: Tensor) -> bool:
    """Equal bit for bit: the sign of a zero counts, and NaN equals itself."""
    integers = torch.int64 if one.dtype == torch.float64 else torch.int32
    return torch.equal(one.view(integers), other.view(integers))


def through(h: Tensor, delta: Tensor, influence: Gain, seed_gain: Gain, grad: Tensor) -> Sequence[Tensor]:
    """y, and the gradients of h and delta; zeros where there is none."""
    h, delta = h.clone().requires_grad_(), delta.clone().requires_grad_()
    y = blend(h, delta, influence, seed_gain, CAP)
    found = torch.autograd.grad(y, (h, delta), grad, allow_unused=True)
    return y.detach(), *(torch.zeros_like(h) if g is None else g for g in found)


def lead(values: Sequence[float], like: Tensor) -> Tensor:
    """One gain per environment, `[n, 1, ...]`."""
    return torch.tensor(values, dtype=like.dtype).view(-1, *[1] * (like.dim() - 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_tensor_gains_equal_number_gains_bit_for_bit(
    shape: tuple[int, ...], scale: float, dtype: torch.dtype
) -> None:
    """All combinations of gains side by side; where the cap binds, up to the rounding of its norms."""
    n = len(GAINS)
    h = draw(n, *shape, key=0, dtype=dtype)
    delta, grad = draw(n, *shape, key=1, dtype=dtype, scale=scale), draw(n, *shape, key=2, dtype=dtype)
    influence, seed_gain = (lead(values, h) for values in zip(*GAINS, strict=True))
    together = through(h, delta, influence, seed_gain, grad)
    for row, gains in enumerate(GAINS):
        alone = through(h[row], delta[row], *gains, grad[row])
        for one, other in zip(together, alone, strict=True):
            if gains == (0.0, 1.0) and scale >= 1.0:
                torch.testing.assert_close(one[row], other, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
            else:
                assert bitwise(one[row], other)


@pytest.mark.parametrize(("influence", "seed_gain"), GAINS)
def test_values_and_gradients_equal_their_equations(influence: float, seed_gain: float) -> None:
    h, delta, grad = (draw(5, 4, key=key) for key in range(3))
    y, to_host, to_seed = through(h, delta, influence, seed_gain, grad)
    torch.testing.assert_close(y, h + influence * delta, rtol=0, atol=0)
    torch.testing.assert_close(to_host, grad, rtol=0, atol=0)
    if influence > 0:
        torch.testing.assert_close(to_seed, seed_gain * influence * grad, rtol=0, atol=0)
    elif seed_gain == 0:
        assert not to_seed.any()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 0.3, 3.0, 100.0])
def test_incubation_is_the_gradient_of_the_capped_change(shape: tuple[int, ...], scale: float) -> None:
    """Autograd through c(delta) = delta * min(1, cap max(|h|, 0.1 sqrt(n)) / |delta|), written out."""
    h, delta, grad = draw(*shape, key=0), draw(*shape, key=1, scale=scale), draw(*shape, key=2)
    y, to_host, to_seed = through(h, delta, 0.0, 1.0, grad)
    free = delta.clone().requires_grad_()
    capped = free * torch.clamp(CAP * max(h.norm(), 0.1 * h.numel() ** 0.5) / free.norm(), max=1.0)
    (expected,) = torch.autograd.grad(h + capped, free, grad)
    torch.testing.assert_close(to_seed, expected, rtol=1e-11, atol=1e-13)
    assert bitwise(y, h)
    assert bitwise(to_host, grad)
    if scale < 1.0:
        assert bitwise(to_seed, grad)


def test_beyond_the_cap_nothing_pushes_further_out() -> None:
    h, delta = draw(8, 4, key=0), draw(8, 4, key=1, scale=50.0)
    for key in range(20):
        _, _, to_seed = through(h, delta, 0.0, 1.0, draw(8, 4, key=10 + key))
        outward = (to_seed * delta).sum() / (to_seed.norm() * delta.norm())
        assert abs(float(outward)) < 1e-12
        assert float(to_seed.norm()) > 0
    radial = -delta / delta.norm()
    _, _, to_seed = through(h, delta, 0.0, 1.0, radial)
    assert float(to_seed.norm()) < 1e-14


def test_the_cap_is_of_the_environment_and_not_of_its_neighbours() -> None:
    h, grad = draw(2, 5, 4, key=0), draw(2, 5, 4, key=2)
    delta = torch.stack([draw(5, 4, key=1, scale=1e-3), draw(5, 4, key=1, scale=1e3)])
    zeros = lead([0.0, 0.0], h)
    _, _, to_seed = through(h, delta, zeros, lead([1.0, 1.0], h), grad)
    assert bitwise(to_seed[0], grad[0])
    assert float(to_seed[1].norm()) < 0.1 * float(grad[1].norm())


def test_silent_features_and_a_silent_seed_have_a_finite_gradient() -> None:
    zeros, grad = torch.zeros(5, 4, dtype=torch.float64), draw(5, 4, key=0)
    assert bitwise(through(zeros, zeros, 0.0, 1.0, grad)[2], grad)
    assert bitwise(through(draw(5, 4, key=1), zeros, 0.0, 1.0, grad)[2], grad)


def test_a_dead_layer_does_not_forbid_the_seed_that_would_revive_it() -> None:
    """Its features are 0 for every input, and the cap is relative to them."""
    zeros, grad = torch.zeros(5, 4, dtype=torch.float64), draw(5, 4, key=0)
    assert bitwise(through(zeros, draw(5, 4, key=1, scale=0.01), 0.0, 1.0, grad)[2], grad)
    beyond = through(zeros, draw(5, 4, key=1, scale=10.0), 0.0, 1.0, grad)[2]
    assert 0 < float(beyond.norm()) < 0.1 * float(grad.norm())


@pytest.mark.acceptance("GR-01")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("seed_gain", [0.0, 1.0])
def test_without_influence_a_broken_seed_reaches_nobody(bad: float, seed_gain: float) -> None:
    """Gains select: 0 * NaN would be NaN."""
    h, grad = draw(3, 5, 4, key=0), draw(3, 5, 4, key=2)
    delta = draw(3, 5, 4, key=1)
    delta[1, 2, 3] = bad
    influence = lead([0.5, 0.0, 0.0], h)
    y, to_host, to_seed = through(h, delta, influence, lead([1.0, seed_gain, 0.0], h), grad)
    assert bitwise(y[1:], h[1:])
    assert bitwise(to_host, grad)
    assert bool(torch.isfinite(y).all())
    assert bool(torch.isfinite(to_seed[0]).all())
    assert not to_seed[2].any()
    assert bool(torch.isfinite(to_seed[1]).all()) == (seed_gain == 0.0), (
        "a broken seed's gradient gives it away"
    )
    one = through(h[1], delta[1], 0.0, seed_gain, grad[1])
    assert bitwise(one[0], h[1])
    assert bitwise(one[1], grad[1])


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("influence", [0.3, 1.0])
def test_blended_gradients_are_derivatives(influence: float, tensors: bool) -> None:
    h, delta = (draw(2, 3, 4, key=key).requires_grad_() for key in range(2))
    gain: Gain = lead([influence, influence], h) if tensors else influence
    assert torch.autograd.gradcheck(lambda h, delta: blend(h, delta, gain, 1.0, CAP), (h, delta))


@pytest.mark.parametrize("gain", [0.0, 0.3, 1.0])
def test_a_tap_passes_values_on_and_a_share_of_the_gradient(gain: float) -> None:
    x, grad = draw(2, 5, 4, key=0), draw(2, 5, 4, key=1)
    for form in (gain, lead([gain, gain], x)):
        leaf = x.clone().requires_grad_()
        seen = tap(leaf, form)
        assert bitwise(seen.detach(), x)
        if not seen.requires_grad:
            assert gain == 0.0
            continue
        (found,) = torch.autograd.grad(seen, leaf, grad, allow_unused=True)
        torch.testing.assert_close(found, gain * grad, rtol=0, atol=0)


def test_a_closed_tap_stops_what_is_not_finite() -> None:
    x = draw(2, 5, 4, key=0).requires_grad_()
    grad = torch.full((2, 5, 4), float("nan"), dtype=torch.float64)
    grad[0] = 1.0
    (found,) = torch.autograd.grad(tap(x, lead([1.0, 0.0], x)), x, grad)
    assert bitwise(found, torch.cat([torch.ones(1, 5, 4), torch.zeros(1, 5, 4)]).double())


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(
    gains=st.lists(
        st.tuples(st.sampled_from([0.0, 1e-3, 0.5, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=6
    ),
    shape=st.sampled_from([(1, 1), (3, 2), (2, 3, 2, 2), (4, 5, 3)]),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_mixture_of_stages_equals_each_alone(
    gains: list[tuple[float, float]], shape: tuple[int, ...], scale: float, dtype: torch.dtype
) -> None:
    h, grad = draw(len(gains), *shape, key=0, dtype=dtype), draw(len(gains), *shape, key=2, dtype=dtype)
    delta = draw(len(gains), *shape, key=1, dtype=dtype, scale=scale)
    influence, seed_gain = (lead(values, h) for values in zip(*gains, strict=True))
    together = through(h, delta, influence, seed_gain, grad)
    for row, alone in enumerate(gains):
        expected = through(h[row], delta[row], *alone, grad[row])
        for one, other in zip(together, expected, strict=True):
            if alone == (0.0, 1.0):
                torch.testing.assert_close(one[row], other, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
            else:
                assert bitwise(one[row], other)
