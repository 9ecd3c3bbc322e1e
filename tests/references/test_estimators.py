"""Advantages and lambda-returns beside an oracle of plain numbers, torchrl and stable-baselines3.

They agree where they mean the same; where they do not, a test shows what the other one computes instead.
`make references` installs the others and runs this.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper_core.phases.advantage import gae_loop, gae_scan, lambda_returns

WHY = "needs the extra `references`: make references"
torchrl = pytest.importorskip("torchrl.objectives.value.functional", reason=WHY)
buffers = pytest.importorskip("stable_baselines3.common.buffers", reason=WHY)
spaces = pytest.importorskip("gymnasium.spaces", reason=WHY)

pytestmark = pytest.mark.references
many = settings(max_examples=200, deadline=None)
both = pytest.mark.parametrize("estimate", [gae_loop, gae_scan])
Estimate = Callable[..., tuple[Tensor, Tensor]]


@frozen(eq=False)
class Played:
    """A rollout as an environment gives it: values of the states that were met, and of those that ended.

    Attributes:
        r: `[T, N]` rewards.
        v: `[T, N]` value of the state that an action was taken in.
        last: `[N]` value of the state after the last row, where nothing ended.
        final: `[T, N]` value of the state that a step led to where it ended an episode, before the reset.
        terminated: `[T, N]`.
        truncated: `[T, N]`; a step may be both, and a termination prevails.
        gamma: discount.
        lam: lambda.
    """

    r: Tensor
    v: Tensor
    last: Tensor
    final: Tensor
    terminated: Tensor
    truncated: Tensor
    gamma: float
    lam: float

    @property
    def end(self) -> Tensor:
        return self.terminated | self.truncated

    @property
    def after(self) -> Tensor:
        """`[T, N]` value of the state that a step led to, before any reset."""
        return torch.where(self.end, self.final, torch.cat([self.v[1:], self.last[None]]))

    def gae(self, estimate: Estimate) -> tuple[Tensor, Tensor]:
        return estimate(self.r, self.v, self.after, self.terminated, self.truncated, self.gamma, self.lam)

    def lambda_returns(self) -> Tensor:
        return lambda_returns(self.r, self.after, self.terminated, self.truncated, self.gamma, self.lam)


def played(
    steps: int, envs: int, key: int, ends: float = 0.3, gamma: float = 0.9, lam: float = 0.8
) -> Played:
    """Random numbers; `ends` is the share of steps that terminate, and of those that are cut."""
    generator = torch.Generator().manual_seed(key)
    r, v, final = torch.randn(3, steps, envs, generator=generator, dtype=torch.float64)
    last = torch.randn(envs, generator=generator, dtype=torch.float64)
    terminated, truncated = torch.rand(2, steps, envs, generator=generator) < ends / 2
    return Played(r, v, last, final, terminated, truncated, gamma, lam)


unit = st.sampled_from([0.0, 0.3, 0.9, 0.995, 1.0])
rollouts = st.builds(
    played,
    st.integers(1, 17),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    unit,
    unit,
)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


# -------------------------------------------------------------------------------------------------- an oracle


def segment(case: Played, t: int, n: int) -> range:
    """The steps from t to the end of its segment."""
    end = next((k for k in range(t, len(case.r)) if case.end[k, n]), len(case.r) - 1)
    return range(t, end + 1)


def bootstrap(case: Played, k: int, n: int) -> float:
    return 0.0 if case.terminated[k, n] else float(case.after[k, n])


def oracle_advantage(case: Played, t: int, n: int) -> float:
    """Sum over the segment of (gamma lambda)^(k - t) delta_k."""
    return math.fsum(
        (case.gamma * case.lam) ** (k - t)
        * (float(case.r[k, n]) + case.gamma * bootstrap(case, k, n) - float(case.v[k, n]))
        for k in segment(case, t, n)
    )


def oracle_return(case: Played, t: int, n: int) -> float:
    """The mean of all n-step returns of the segment with weights (1 - lambda) lambda^(n - 1).

    The last one, which reaches the end, has the weight that is left: lambda^(length - 1).
    """
    steps, paid, mixed = segment(case, t, n), 0.0, 0.0
    for i, k in enumerate(steps):
        paid += case.gamma**i * float(case.r[k, n])
        ahead = paid + case.gamma ** (i + 1) * bootstrap(case, k, n)
        mixed += case.lam**i * (1.0 if k == steps[-1] else 1.0 - case.lam) * ahead
    return mixed


def everywhere(oracle: Callable[[Played, int, int], float], case: Played) -> Tensor:
    steps, envs = case.r.shape
    table = [[oracle(case, t, n) for n in range(envs)] for t in range(steps)]
    return torch.tensor(table, dtype=torch.float64)


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@both
@many
@given(case=rollouts)
def test_advantages_equal_the_sum_that_defines_them(estimate: Estimate, case: Played) -> None:
    advantage, target = case.gae(estimate)
    expected = everywhere(oracle_advantage, case)
    close(advantage, expected)
    close(target, expected + case.v)


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@many
@given(case=rollouts)
def test_lambda_returns_equal_the_mixture_that_defines_them(case: Played) -> None:
    close(case.lambda_returns(), everywhere(oracle_return, case))


# ---------------------------------------------------------------------------------------------------- torchrl


def rl(x: Tensor) -> Tensor:
    """`[T, N]` as torchrl has it, `[N, T, 1]`."""
    return x.T.unsqueeze(-1).contiguous()


def ours(x: Tensor) -> Tensor:
    return x.squeeze(-1).T


def double(x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float64)


def torchrl_gae(
    case: Played, way: str, terminated: Tensor | None, number: Callable[[float], Any] = double
) -> tuple[Tensor, Tensor]:
    advantage, target = getattr(torchrl, way)(
        number(case.gamma),
        number(case.lam),
        rl(case.v),
        rl(case.after),
        rl(case.r),
        rl(case.end),
        None if terminated is None else rl(terminated),
    )
    return ours(advantage), ours(target)


def torchrl_returns(case: Played, way: str, terminated: Tensor | None) -> Tensor:
    return ours(
        getattr(torchrl, way)(
            double(case.gamma),
            double(case.lam),
            rl(case.after),
            rl(case.r),
            rl(case.end),
            None if terminated is None else rl(terminated),
        )
    )


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@both
@many
@given(case=rollouts)
def test_advantages_equal_those_of_torchrl(estimate: Estimate, case: Played) -> None:
    other = torchrl_gae(case, "generalized_advantage_estimate", case.terminated)
    for got, expected in zip(case.gae(estimate), other, strict=True):
        close(got, expected)


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@many
@given(case=rollouts)
def test_lambda_returns_equal_those_of_torchrl(case: Played) -> None:
    close(case.lambda_returns(), torchrl_returns(case, "td_lambda_return_estimate", case.terminated))


@pytest.mark.property
@settings(max_examples=50, deadline=None)
@given(case=rollouts.filter(lambda case: case.gamma * case.lam > 0))
def test_the_vectorised_ones_of_torchrl_are_near(case: Played) -> None:
    """They leave out terms whose weight is below about 1e-7; and gamma lambda = 0 is an error in them."""
    advantage, _ = torchrl_gae(case, "vec_generalized_advantage_estimate", case.terminated)
    close(advantage, case.gae(gae_scan)[0], 1e-5)
    returns = torchrl_returns(case, "vec_td_lambda_return_estimate", case.terminated)
    close(returns, case.lambda_returns(), 1e-5)


def test_terms_that_the_vectorised_one_leaves_out_are_counted_here() -> None:
    """gamma lambda = 0.01: one reward of a billion, 5 steps ahead, counts 0.1."""
    case = played(6, 1, 0, ends=0.0, gamma=0.1, lam=0.1)
    rich = evolve(case, r=case.r + 1e9 * (torch.arange(6) == 5)[:, None])
    (got, _), (expected, _) = (
        rich.gae(gae_scan),
        torchrl_gae(rich, "vec_generalized_advantage_estimate", rich.terminated),
    )
    assert float((got - expected)[0]) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("way", ["generalized_advantage_estimate", "vec_generalized_advantage_estimate"])
def test_a_discount_that_is_a_plain_number_is_rounded_to_float32_by_torchrl(way: str) -> None:
    """It is multiplied by flags that are integers; hence the tensors above."""
    case = played(8, 2, 0)
    got, _ = torchrl_gae(case, way, case.terminated, number=float)
    assert 1e-10 < apart(got, case.gae(gae_loop)[0]) < 1e-6


@pytest.mark.property
@both
@many
@given(case=rollouts)
def test_without_terminated_torchrl_takes_a_truncation_for_a_termination(
    estimate: Estimate, case: Played
) -> None:
    """Its default; ours has none, so that nobody can forget the difference."""
    died = evolve(case, terminated=case.end)
    close(torchrl_gae(case, "generalized_advantage_estimate", None)[0], died.gae(estimate)[0])
    close(torchrl_returns(case, "td_lambda_return_estimate", None), died.lambda_returns())


def test_that_default_is_another_number() -> None:
    case = played(8, 2, 0)
    assert bool((case.truncated & ~case.terminated).any())
    default = torchrl_gae(case, "generalized_advantage_estimate", None)[0]
    assert apart(default, case.gae(gae_loop)[0]) > 0.1


@both
def test_what_lies_behind_an_end_may_be_nan_here_and_not_in_torchrl(estimate: Estimate) -> None:
    """It multiplies by 0 what an end switches off; ours selects."""
    case = played(8, 2, 0)
    broken = evolve(case, final=case.final.masked_fill(case.terminated, math.nan))
    assert torch.equal(broken.gae(estimate)[0], case.gae(estimate)[0])
    assert torch.equal(broken.lambda_returns(), case.lambda_returns())
    assert torchrl_gae(broken, "generalized_advantage_estimate", case.terminated)[0].isnan().any()
    assert torchrl_returns(broken, "td_lambda_return_estimate", case.terminated).isnan().any()


# ------------------------------------------------------------------------------------------ stable-baselines3


def sb3_buffer(case: Played, rewards: Tensor) -> Any:
    """Its rollout buffer, filled as its algorithms do: a step that ends is known by the start after it."""
    steps, envs = case.r.shape
    box = spaces.Box(-1.0, 1.0, (1,))
    buffer = buffers.RolloutBuffer(
        steps, box, spaces.Discrete(2), gae_lambda=case.lam, gamma=case.gamma, n_envs=envs
    )
    starts = torch.cat([torch.ones(1, envs, dtype=torch.bool), case.end]).numpy()
    nothing = np.zeros((envs, 1))
    for t in range(steps):
        buffer.add(nothing, nothing, rewards[t].numpy(), starts[t], case.v[t], torch.zeros(envs))
    buffer.compute_returns_and_advantage(last_values=case.last, dones=starts[steps])
    return buffer


def paid_in_advance(case: Played) -> Tensor:
    """What its algorithms write as rewards: with gamma V of the last state, where an episode was cut."""
    cut = case.truncated & ~case.terminated
    return case.r + case.gamma * case.final.masked_fill(~cut, 0.0)


def single(x: np.ndarray) -> Tensor:
    assert x.dtype == np.float32
    return torch.from_numpy(x).to(torch.float64)


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@both
@many
@given(case=rollouts)
def test_advantages_equal_those_of_stable_baselines(estimate: Estimate, case: Played) -> None:
    """Where it has been told of truncations through the rewards."""
    buffer = sb3_buffer(case, paid_in_advance(case))
    advantage, target = case.gae(estimate)
    close(single(buffer.advantages), advantage, 1e-5)
    close(single(buffer.returns), target, 1e-5)


@pytest.mark.property
@many
@given(case=rollouts)
def test_lambda_returns_equal_the_returns_of_stable_baselines(case: Played) -> None:
    close(single(sb3_buffer(case, paid_in_advance(case)).returns), case.lambda_returns(), 1e-5)


@pytest.mark.property
@both
@many
@given(case=rollouts)
def test_with_the_rewards_as_they_are_stable_baselines_takes_every_end_for_a_termination(
    estimate: Estimate, case: Played
) -> None:
    """Its buffer knows one kind of end; and with rewards that bootstrap, their sum is no return any more."""
    died = evolve(case, terminated=case.end)
    close(single(sb3_buffer(case, case.r).advantages), died.gae(estimate)[0], 1e-5)


def test_rewards_that_bootstrap_are_no_returns() -> None:
    case = played(8, 2, 0)
    assert bool((case.truncated & ~case.terminated).any())
    logged = single(sb3_buffer(case, paid_in_advance(case)).rewards).sum()
    assert abs(float(logged - case.r.sum())) > 0.1


# --------------------------------------------------------------------------------------- one beside the other


@pytest.mark.property
@both
@many
@given(case=rollouts)
def test_targets_are_lambda_returns(estimate: Estimate, case: Played) -> None:
    """Where a step's next state is the next step's state, as in every rollout that is played."""
    close(case.gae(estimate)[1], case.lambda_returns())


def test_values_that_do_not_chain_part_them() -> None:
    """A_t + V_t knows both values of a state in between; a lambda-return only the one behind the step."""
    case = played(8, 2, 0, ends=0.0)
    lead = evolve(case, v=case.v + 1.0)
    chained = lead.gae(gae_loop)[1]
    unchained = gae_loop(lead.r, lead.v, case.after, lead.terminated, lead.truncated, lead.gamma, lead.lam)[1]
    assert apart(chained, lead.lambda_returns()) < 1e-12
    assert apart(unchained, case.lambda_returns()) > 0.1
