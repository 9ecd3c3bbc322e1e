"""Advantages: generalised advantage estimation (Schulman et al. 2016) over segments that may end anywhere.

With e the end of the segment that t lies in:

    delta_t  = r_t + gamma * V'_t - v_tm1,    V'_t = 0 where the episode terminated, else v_t
    A_tm1    = sum over k = t .. e of (gamma lambda)^(k - t) delta_k
    target   = A_tm1 + v_tm1

and the lambda-return (Watkins 1989), which needs no value of the state that the action was taken in:

    G_t = r_t + gamma * ((1 - lambda) V'_t + lambda G_(t+1)),    G_e = r_e + gamma * V'_e

A termination bootstraps 0, a truncation bootstraps `v_t`, and no advantage crosses either. Ends select, they
never multiply: what lies behind one may be NaN. The last row is as its flags say; without one it bootstraps
`v_t`, as a truncation does, because nothing follows. A NaN that is used is not hidden: whatever it has a say
in is NaN, and the update takes no step on it.

Both are sums x_t = base_t + weight_t x_(t+1), added up by rows, as it is written in books, or by a doubling
scan (Hillis and Steele 1986): with windows of the sum as pairs (sum, weight), a window of length 2n is the
one of length n and the one n later, weighed. That takes ceil(log2 T) passes over whole arrays instead of T
over rows.

Role: kernels, tensors in and tensors out, of static shape and without a host synchronisation; results carry
no gradient.
Neighbours: values come from the policy and rewards from `phases.reward`; the learner reads advantages.
"""

import torch
from torch import Tensor

WIDE = 512
"""Environments from which on the loop is faster than the scan on a CPU: a row is work enough. Measured on one
thread, loop to scan: 3.1 at `[128, 64]`, 1.4 at `[512, 256]`, 0.6 at `[512, 512]`, 0.4 at `[1024, 4096]`."""
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
    way = gae_loop if _is_wide(r_t) else gae_scan
    return way(r_t, v_tm1, v_t, terminated_t, truncated_t, gamma, lam)


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
    with torch.no_grad():
        delta, weight = _steps(r_t, v_tm1, v_t, terminated_t, truncated_t, gamma, lam)
        advantage_tm1 = _by_rows(delta, weight)
        return advantage_tm1, advantage_tm1 + v_tm1


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
    with torch.no_grad():
        delta, weight = _steps(r_t, v_tm1, v_t, terminated_t, truncated_t, gamma, lam)
        advantage_tm1 = _by_doubling(delta, weight)
        return advantage_tm1, advantage_tm1 + v_tm1


def lambda_returns(
    r_t: Tensor, v_t: Tensor, terminated_t: Tensor, truncated_t: Tensor, gamma: float, lam: float
) -> Tensor:
    """Mix the returns after 1, 2, ... steps, each completed by a value; by whichever way is faster.

    Args:
        r_t: `[T, N]` rewards, float32 or float64.
        v_t: `[T, N]` value of the state that the action led to, as in `gae`.
        terminated_t: `[T, N]` bool, as in `gae`.
        truncated_t: `[T, N]` bool, as in `gae`.
        gamma: discount in [0, 1].
        lam: lambda in [0, 1]: 0 trusts the values, 1 the rewards.

    Returns:
        `[T, N]`. Where every `v_t` is the next step's `v_tm1`, the targets of `gae`.

    Raises:
        ValueError: an argument has another shape or type than these.
    """
    with torch.no_grad():
        _expect_steps(r_t, terminated_t, truncated_t, v_t=v_t)
        end = terminated_t | truncated_t
        trusted = torch.full_like(r_t, gamma * (1.0 - lam)).masked_fill(end, gamma)
        trusted[-1] = gamma
        base = _plus(r_t, trusted.masked_fill(terminated_t, 0.0), v_t)
        weight = torch.full_like(r_t, gamma * lam).masked_fill(end, 0.0)
        return _by_rows(base, weight) if _is_wide(r_t) else _by_doubling(base, weight)


def normalise(advantage: Tensor, counted: Tensor, group: Tensor, groups: int) -> Tensor:
    """Bring the counted advantages of every group to mean 0 and standard deviation 1.

    (A - mean) / max(std, `STD_FLOOR`), with the mean and the population's standard deviation of the group.

    Args:
        advantage: `[T, N]`.
        counted: `[T, N]` bool, steps that the policy had a choice in.
        group: `[N]` int64 from 0 to G - 1, who is compared with whom.
        groups: G.

    Returns:
        `[T, N]`; 0 where not counted, whatever stood there, and where only one of a group is counted.

    Raises:
        ValueError: the shapes or types differ.
    """
    if counted.shape != advantage.shape or counted.dtype != torch.bool:
        raise ValueError(
            f"counted is {counted.dtype} {tuple(counted.shape)}, "
            f"expected torch.bool {tuple(advantage.shape)} as the advantages have"
        )
    if group.shape != advantage.shape[1:] or group.dtype != torch.int64:
        raise ValueError(
            f"group is {group.dtype} {tuple(group.shape)}, "
            f"expected torch.int64 {tuple(advantage.shape[1:])}, one for each environment"
        )
    result = torch.zeros_like(advantage)
    for number in range(groups):
        members = counted & (group == number)
        result = torch.where(members, _standardised(advantage, members), result)
    return result


def _standardised(advantage: Tensor, members: Tensor) -> Tensor:
    """`[T, N]` in units of the members' spread around their mean; 0 where not a member."""
    count = members.sum().clamp(min=1)
    mean = advantage.masked_fill(~members, 0.0).sum() / count
    deviation = (advantage - mean).masked_fill(~members, 0.0)
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
    _expect_steps(r_t, terminated_t, truncated_t, v_tm1=v_tm1, v_t=v_t)
    delta = r_t + gamma * v_t.masked_fill(terminated_t, 0.0) - v_tm1
    weight = torch.full_like(r_t, gamma * lam).masked_fill(terminated_t | truncated_t, 0.0)
    return delta, weight


def _by_rows(base: Tensor, weight: Tensor) -> Tensor:
    """x_t = base_t + weight_t x_(t+1), backwards from x_T = base_T."""
    rows = [base[-1]]
    for base_t, weight_t in zip(reversed(base[:-1].unbind()), reversed(weight[:-1].unbind()), strict=True):
        rows.append(_plus(base_t, weight_t, rows[-1]))
    return torch.stack(rows[::-1])


def _by_doubling(base: Tensor, weight: Tensor) -> Tensor:
    """The same, by windows of twice the length in every pass."""
    total, span = base, 1
    while span < len(total):
        # the last rows' windows have reached the end; nobody reads their weights again
        longer = _plus(total[:-span], weight[:-span], total[span:])
        total = torch.cat([longer, total[-span:]])
        weight = torch.cat([weight[:-span] * weight[span:], weight[-span:]])
        span *= 2
    return total


def _plus(base: Tensor, weight: Tensor, later: Tensor) -> Tensor:
    """The weighed sum, but the base alone where the weight is 0: what lies behind an end may be NaN."""
    return torch.where(weight == 0, base, torch.addcmul(base, weight, later))


def _is_wide(r_t: Tensor) -> bool:
    return r_t.dim() == 2 and r_t.shape[1] >= WIDE and r_t.device.type == "cpu"


def _expect_steps(r_t: Tensor, terminated_t: Tensor, truncated_t: Tensor, **values: Tensor) -> None:
    if r_t.dim() != 2 or not len(r_t) or r_t.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"r_t is {r_t.dtype} {tuple(r_t.shape)}, expected float32 or float64 [T, N] with T >= 1"
        )
    _expect(r_t.shape, r_t.dtype, **values)
    _expect(r_t.shape, torch.bool, terminated_t=terminated_t, truncated_t=truncated_t)


def _expect(shape: torch.Size, dtype: torch.dtype, **arguments: Tensor) -> None:
    for name, tensor in arguments.items():
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {tuple(shape)} as r_t"
            )
