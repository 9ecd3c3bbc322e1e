"""Advantages: generalised advantage estimation (Schulman et al. 2016) over segments that may end anywhere.

With e the end of the segment that t lies in:

    delta_t  = r_t + gamma * V'_t - v_tm1,    V'_t = 0 where the episode terminated, else v_t
    A_tm1    = sum over k = t .. e of (gamma lambda)^(k - t) delta_k
    target   = A_tm1 + v_tm1

A termination bootstraps 0, a truncation bootstraps `v_t`, and no advantage crosses either. Ends select, they
never multiply: what lies behind one may be NaN. The last row is as its flags say; without one it bootstraps
`v_t`, as a truncation does, because nothing follows.

`gae_loop` is the recursion as it is written in books. `gae_scan` is a doubling scan (Hillis and Steele 1986):
with windows of the sum above as pairs (weight, sum), a window of length 2n is the one of length n and the
one n later, weighed. That takes ceil(log2 T) passes over whole arrays instead of T over rows.

Role: kernels, tensors in and tensors out, without a host synchronisation; results carry no gradient.
Neighbours: values come from the policy and rewards from `phases.reward`; the learner reads advantages.
"""

import torch
from torch import Tensor

WIDE = 256
"""Environments from which on the loop is faster than the scan on a CPU: a row is work enough (measured)."""
STD_FLOOR = 1e-4
"""Advantages that differ by less count as equal: above the rounding of float32, below what one sample in ten
thousand changes in a score. Without it, noise of rounding would be blown up to a signal."""


def gae(
    r_t: Tensor,
    v_tm1: Tensor,
    v_t: Tensor,
    terminated_t: Tensor,
    truncated_t: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Estimate advantages by whichever way is faster.

    Args:
        r_t: `[T, N]` rewards, float32 or float64.
        v_tm1: `[T, N]` value of the state that the action was taken in.
        v_t: `[T, N]` value of the state that it led to; at an end, of the last state before any reset.
        terminated_t: `[T, N]` bool, the episode is over: nothing follows. It prevails over a truncation.
        truncated_t: `[T, N]` bool, the segment was cut from outside.
        gamma: discount in [0, 1].
        lam: lambda in [0, 1].

    Returns:
        advantage_tm1: `[T, N]`.
        target_tm1: `[T, N]` what the value of the state should have been.

    Raises:
        ValueError: an argument has another shape or type than these.
    """
    wide = r_t.dim() == 2 and r_t.shape[1] >= WIDE and r_t.device.type == "cpu"
    way = gae_loop if wide else gae_scan
    return way(r_t, v_tm1, v_t, terminated_t, truncated_t, gamma, lam)


@torch.no_grad()
def gae_loop(
    r_t: Tensor,
    v_tm1: Tensor,
    v_t: Tensor,
    terminated_t: Tensor,
    truncated_t: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Estimate advantages row by row, backwards; arguments and results as in `gae`."""
    delta, weight = _steps(r_t, v_tm1, v_t, terminated_t, truncated_t, gamma, lam)
    rows = []
    following = torch.zeros_like(delta[0])
    for delta_t, weight_t in zip(reversed(delta.unbind()), reversed(weight.unbind()), strict=True):
        following = delta_t + _weighed(weight_t, following)
        rows.append(following)
    advantage_tm1 = torch.stack(rows[::-1])
    return advantage_tm1, advantage_tm1 + v_tm1


@torch.no_grad()
def gae_scan(
    r_t: Tensor,
    v_tm1: Tensor,
    v_t: Tensor,
    terminated_t: Tensor,
    truncated_t: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Estimate advantages by doubling windows; arguments and results as in `gae`."""
    total, weight = _steps(r_t, v_tm1, v_t, terminated_t, truncated_t, gamma, lam)
    span = 1
    while span < len(total):
        # the last rows' windows have reached the end; nobody reads their weights again
        longer = total[:-span] + _weighed(weight[:-span], total[span:])
        total = torch.cat([longer, total[-span:]])
        weight = torch.cat([weight[:-span] * weight[span:], weight[-span:]])
        span *= 2
    return total, total + v_tm1


def normalise(advantage: Tensor, counted: Tensor) -> Tensor:
    """Bring the counted advantages to mean 0 and standard deviation 1.

    (A - mean) / max(std, `STD_FLOOR`), with the population's standard deviation.

    Args:
        advantage: `[T, N]`.
        counted: `[T, N]` bool, steps that the policy had a choice in.

    Returns:
        `[T, N]`; 0 where not counted, whatever stood there, and where only one is counted.

    Raises:
        ValueError: the shapes differ.
    """
    if counted.shape != advantage.shape or counted.dtype != torch.bool:
        raise ValueError(
            f"counted is {counted.dtype} {tuple(counted.shape)}, "
            f"expected torch.bool {tuple(advantage.shape)} as the advantages have"
        )
    count = counted.sum().clamp(min=1)
    mean = advantage.masked_fill(~counted, 0.0).sum() / count
    deviation = (advantage - mean).masked_fill(~counted, 0.0)
    std = (deviation.square().sum() / count).sqrt()
    return deviation / std.clamp(min=STD_FLOOR)


def _steps(
    r_t: Tensor,
    v_tm1: Tensor,
    v_t: Tensor,
    terminated_t: Tensor,
    truncated_t: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Every step's delta, and the weight of what follows it: 0 at an end."""
    if r_t.dim() != 2 or not len(r_t) or r_t.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"r_t is {r_t.dtype} {tuple(r_t.shape)}, expected float32 or float64 [T, N] with T >= 1"
        )
    _expect(r_t.shape, r_t.dtype, v_tm1=v_tm1, v_t=v_t)
    _expect(r_t.shape, torch.bool, terminated_t=terminated_t, truncated_t=truncated_t)
    delta = r_t + gamma * v_t.masked_fill(terminated_t, 0.0) - v_tm1
    weight = torch.full_like(r_t, gamma * lam).masked_fill(terminated_t | truncated_t, 0.0)
    return delta, weight


def _weighed(weight: Tensor, later: Tensor) -> Tensor:
    """The product, but 0 where the weight is 0: what lies behind an end may be NaN."""
    return (weight * later).masked_fill(weight == 0, 0.0)


def _expect(shape: torch.Size, dtype: torch.dtype, **arguments: Tensor) -> None:
    for name, tensor in arguments.items():
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {tuple(shape)} as r_t"
            )
