"""The blend operation: how a seed's change enters the host, forward and backward.

With h the host's features, x the seed's input, r the seed's branch and a the influence:

    y = h + a * delta,   delta = r(x)                    (add)
                         delta = h * tanh(r(x))          (multiply)
                         delta = sigmoid(g(x)) * r(x)    (gate)

and dL/dh gets the full gradient of y, dL/d(delta) gets a times it, or, while the seed incubates (a = 0, seed
gain 1), the gradient itself. Stage is data: the gains say which of these happens, per environment. Gains
select, they never multiply what they switch off, because 0 * NaN is NaN.

Role: the only place where a seed and a host meet. Gains that are Python numbers are resolved before anything
is computed; gains that are tensors (one per environment) give bit-equal results, save that the norms of a
cap that binds may round differently.
Neighbours: `model.seeds` computes delta, device strategies choose the gains from the slot table.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FAINT = 0.1
"""Root mean square that features have at least where a cap is relative to them: a layer that has died, and is
0 for every input, must not forbid the seed that would make up for it."""
Gain = float | Tensor
"""A number, or a tensor `[n, 1, ...]` over n environments that broadcasts against `[n, B, ...]`."""


def blend(h: Tensor, delta: Tensor, influence: Gain, seed_gain: Gain, cap: float) -> Tensor:
    """Join a host's features and a seed's change.

    Args:
        h: the host's features, `[B, ...]`, or `[n, B, ...]` with tensor gains.
        delta: the seed's change, same shape.
        influence: a in [0, 1].
        seed_gain: 0 switches the gradient to the seed off; where a is 0, anything else incubates.
        cap: while incubating, the largest norm of delta relative to h that the seed trains towards.

    Returns:
        y, the same shape. Where a is 0 it equals h bit for bit, even if delta is not finite.
    """
    if isinstance(influence, Tensor) or isinstance(seed_gain, Tensor):
        gains = (torch.as_tensor(gain, dtype=h.dtype, device=h.device) for gain in (influence, seed_gain))
        joined: Tensor = _Blend.apply(h, delta, *torch.broadcast_tensors(*gains), cap)  # type: ignore[no-untyped-call]
        return joined
    if influence == 0.0 and seed_gain == 0.0:
        return h
    if influence == 0.0:
        same: Tensor = _Blend.apply(h, delta, h.new_zeros(()), h.new_ones(()), cap)  # type: ignore[no-untyped-call]
        return same
    return h + influence * (delta if seed_gain != 0.0 else delta.detach())


def tap(x: Tensor, gain: Gain) -> Tensor:
    """The seed's input: x forward, `gain` times the gradient backward.

    Args:
        x: features, `[B, ...]`, or `[n, B, ...]` with a tensor gain.
        gain: in [0, 1]; 0 isolates the host from the seed.
    """
    if not isinstance(gain, Tensor) and gain in (0.0, 1.0):
        return x if gain else x.detach()
    tapped: Tensor = _Tap.apply(x, torch.as_tensor(gain, dtype=x.dtype, device=x.device))  # type: ignore[no-untyped-call]
    return tapped


class _Blend(torch.autograd.Function):
    """The blend with gains as data; see the module's equation."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, delta: Tensor, influence: Tensor, seed_gain: Tensor, cap: float
    ) -> Tensor:
        ctx.save_for_backward(h, delta, influence, seed_gain)
        ctx.cap = cap
        return torch.where(influence > 0, h + influence * delta, h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        h, delta, influence, seed_gain = ctx.saved_tensors
        incubating = (influence == 0) & (seed_gain != 0)
        blended = (influence > 0) & (seed_gain != 0)
        to_seed = torch.where(blended, influence * grad, torch.zeros_like(grad))
        to_seed = torch.where(incubating, _through_cap(grad, h, delta, influence, ctx.cap), to_seed)
        return grad, to_seed, None, None, None


class _Tap(torch.autograd.Function):
    """Identity forward, a selected share of the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(gain)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gain,) = ctx.saved_tensors
        return torch.where(gain > 0, gain * grad, torch.zeros_like(grad)), None


def _through_cap(grad: Tensor, h: Tensor, delta: Tensor, influence: Tensor, cap: float) -> Tensor:
    """Gradient through c(delta) = delta * min(1, limit / |delta|), with norms over an environment's batch.

    An infinite cap is none.

    The limit is cap |h|, where |h| counts as at least that of features of size `FAINT`. Beyond it
    only the part of the gradient along the sphere is left, scaled by limit / |delta|: nothing pushes the
    seed's change further out.
    """
    if math.isinf(cap):
        return grad
    axes = tuple(range(1 if influence.dim() else 0, h.dim()))
    norm = torch.linalg.vector_norm(delta, dim=axes, keepdim=True)
    faint = FAINT * (delta.numel() / norm.numel()) ** 0.5
    limit = cap * torch.linalg.vector_norm(h, dim=axes, keepdim=True).clamp(min=faint)
    outward = (delta * grad).sum(dim=axes, keepdim=True) / norm.square()
    along = (grad - outward * delta) * (limit / norm)
    # a norm that is not finite takes the second branch, so that a broken seed's gradient shows it
    return torch.where(norm <= limit, grad, along)
