"""Advantages: equal to their definition, cut at every end, and indifferent to what must not matter."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from attrs import evolve, field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esper_core.phases import advantage
from esper_core.phases.advantage import gae, gae_loop, gae_scan, lambda_returns, normalise

torch.set_num_threads(1)

NAN = float("nan")
many = settings(max_examples=200, deadline=None)
both = pytest.mark.parametrize("estimate", [gae_loop, gae_scan])
Estimate = Callable[..., tuple[Tensor, Tensor]]


@frozen(eq=False)
class Case:
    """Arguments of an estimate."""

    r: Tensor
    v: Tensor
    after: Tensor
    terminated: Tensor
    truncated: Tensor
    gamma: float = field(default=0.9)
    lam: float = field(default=0.8)

    @property
    def end(self) -> Tensor:
        return self.terminated | self.truncated

    @property
    def delta(self) -> Tensor:
        return self.r + self.gamma * self.after.masked_fill(self.terminated, 0.0) - self.v

    def by(self, estimate: Estimate) -> Tensor:
        return self.both_by(estimate)[0]

    def both_by(self, estimate: Estimate) -> tuple[Tensor, Tensor]:
        return estimate(self.r, self.v, self.after, self.terminated, self.truncated, self.gamma, self.lam)

    def returns(self) -> Tensor:
        return lambda_returns(self.r, self.after, self.terminated, self.truncated, self.gamma, self.lam)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Case":
        """The same change to every array."""
        names = ("r", "v", "after", "terminated", "truncated")
        return evolve(self, **{name: change(getattr(self, name)) for name in names})


def draw(
    steps: int,
    envs: int,
    key: int,
    ends: float = 0.3,
    gamma: float = 0.9,
    lam: float = 0.8,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Independent numbers everywhere; `ends` is the share of steps that end something."""
    generator = torch.Generator().manual_seed(key)
    r, v, after = (
        torch.randn(steps, envs, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)
    )
    at_end = torch.rand(steps, envs, generator=generator) < ends
    dies = torch.rand(steps, envs, generator=generator) < 0.5
    return Case(r, v, after, at_end & dies, at_end & ~dies, gamma, lam)


unit = st.sampled_from([0.0, 0.3, 0.9, 0.995, 1.0])
cases = st.builds(
    draw,
    st.integers(1, 17),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    unit,
    unit,
)


def same_segment(case: Case) -> Tensor:
    """`[T, T, N]` bool: the second step is the first one, or follows it in its segment."""
    number = case.end.long().cumsum(0) - case.end.long()
    steps = torch.arange(len(number))
    return (steps[:, None] <= steps)[..., None] & (number[:, None] == number)


def distance(case: Case) -> Tensor:
    """`[T, T, 1]` steps from the first to the second, where that is not before it."""
    steps = torch.arange(len(case.r))
    return (steps - steps[:, None]).clamp(min=0)[..., None]


def by_definition(case: Case) -> Tensor:
    """A_t = sum over k = t .. e of (gamma lambda)^(k - t) delta_k, from the matrix of all weights."""
    weights = same_segment(case) * (case.gamma * case.lam) ** distance(case).double()
    return (weights * case.delta).sum(dim=1)


def segment_end(case: Case, t: int, n: int) -> int:
    return next((k for k in range(t, len(case.r)) if case.end[k, n]), len(case.r) - 1)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def column(*values: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """One environment."""
    return torch.tensor(values, dtype=dtype)[:, None]


def flags(*values: int) -> Tensor:
    return column(*values, dtype=torch.bool)


# --------------------------------------------------------------------------------------------- the definition


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@both
@many
@given(case=cases)
def test_every_advantage_is_the_weighted_sum_of_its_segments_deltas(estimate: Estimate, case: Case) -> None:
    """G3: A_t is the sum over k = t .. e of (gamma lambda)^(k - t) delta_k, e the end of t's segment."""
    close(case.by(estimate), by_definition(case))


@both
@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        # deltas with V' = 4, 6, 8: 1 + 2 - 2 = 1, 2 + 3 - 4 = 1, 3 + 4 - 6 = 1; weights 1/4
        ((0, 0, 0), (0, 0, 0), (1.3125, 1.25, 1.0)),
        ((0, 0, 0), (0, 0, 1), (1.3125, 1.25, 1.0)),
        # the last delta without its bootstrap: 3 - 6 = -3
        ((0, 0, 1), (0, 0, 0), (1.0625, 0.25, -3.0)),
        # an end in the middle: 2 - 4 = -2 behind a termination, 1 behind a truncation
        ((0, 1, 0), (0, 0, 0), (0.5, -2.0, 1.0)),
        ((0, 0, 0), (0, 1, 0), (1.25, 1.0, 1.0)),
        ((1, 0, 1), (0, 1, 0), (-1.0, 1.0, -3.0)),
        # a termination prevails
        ((0, 1, 0), (0, 1, 0), (0.5, -2.0, 1.0)),
    ],
)
def test_values_by_hand(
    estimate: Estimate, terminated: Sequence[int], truncated: Sequence[int], expected: Sequence[float]
) -> None:
    """gamma = lambda = 1/2, so that all of it is exact in binary."""
    r, v, after = column(1, 2, 3), column(2, 4, 6), column(4, 6, 8)
    got, target = estimate(r, v, after, flags(*terminated), flags(*truncated), 0.5, 0.5)
    assert got.flatten().tolist() == list(expected)
    assert target.flatten().tolist() == [a + b for a, b in zip(expected, (2, 4, 6), strict=True)]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(1, 5),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.01, 0.3]),
    st.sampled_from([0.9, 1.0]),
)
def test_the_scan_equals_the_loop(steps: int, envs: int, key: int, ends: float, lam: float) -> None:
    """G3: rows and doubled windows add up to the same."""
    case = draw(steps, envs, key, ends, 0.99, lam)
    for one, other in zip(case.both_by(gae_loop), case.both_by(gae_scan), strict=True):
        close(one, other)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 8, 9, 64, 65])
def test_the_scan_is_right_at_every_power_of_two_and_beside_it(steps: int) -> None:
    case = draw(steps, 3, steps, 0.0, 1.0, 1.0)
    close(case.by(gae_scan), case.delta.flip(0).cumsum(0).flip(0))


@both
def test_float32_is_float64_up_to_rounding(estimate: Estimate) -> None:
    case = draw(150, 16, 0, 0.02, 0.99, 0.95)
    single = case.each(lambda x: x if x.dtype == torch.bool else x.float())
    got = single.by(estimate)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), case.by(estimate), rtol=1e-5, atol=2e-5)


@pytest.mark.property
@both
@many
@given(case=cases)
def test_the_target_is_advantage_plus_value_exactly(estimate: Estimate, case: Case) -> None:
    """G11: R = A + V, to the last bit."""
    got, target = case.both_by(estimate)
    assert torch.equal(target, got + case.v)


# ------------------------------------------------------------------------------------------------- extremes


@pytest.mark.property
@both
@many
@given(case=cases)
def test_with_lambda_0_an_advantage_is_its_delta(estimate: Estimate, case: Case) -> None:
    """G1: with lambda = 0, A_t = delta_t for all inputs."""
    assert torch.equal(evolve(case, lam=0.0).by(estimate), case.delta)


@pytest.mark.property
@both
@many
@given(case=cases)
def test_with_lambda_1_an_advantage_is_the_return_minus_the_value(estimate: Estimate, case: Case) -> None:
    """G2: with lambda = 1, A_t is what the segment still pays, plus its bootstrap, minus V_t.

    Values in between cancel out, where one step's next state is the next step's state.
    """
    next_v = torch.cat([case.v[1:], case.after[-1:]])
    case = evolve(case, lam=1.0, after=torch.where(case.end, case.after, next_v))
    same, far = same_segment(case), distance(case).double()
    last = case.end | (torch.arange(len(case.r)) == len(case.r) - 1)[:, None]
    bootstrap = case.after.masked_fill(case.terminated | ~last, 0.0)
    expected = (same * (case.gamma**far * case.r + case.gamma ** (far + 1) * bootstrap)).sum(dim=1) - case.v
    close(case.by(estimate), expected)


@pytest.mark.property
@both
@many
@given(case=cases)
def test_with_gamma_0_an_advantage_is_the_reward_minus_the_value(estimate: Estimate, case: Case) -> None:
    """G12: with gamma = 0, A = r - V."""
    assert torch.equal(evolve(case, gamma=0.0).by(estimate), case.r - case.v)


@pytest.mark.property
@both
@many
@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9), unit, unit)
def test_a_single_step_is_paid_its_reward(
    estimate: Estimate, r: float, v: float, after: float, gamma: float, lam: float
) -> None:
    """G11: an episode of one step has A = r - V, and r + gamma V' - V if it is truncated."""
    arrays = column(r), column(v), column(after)
    for terminated, truncated, expected in (
        (1, 0, r - v),
        (0, 1, r + gamma * after - v),
        (0, 0, r + gamma * after - v),
    ):
        got, _ = estimate(*arrays, flags(terminated), flags(truncated), gamma, lam)
        assert float(got) == expected


@pytest.mark.property
@both
@many
@given(case=cases)
def test_where_nothing_is_paid_and_nothing_is_expected_there_is_no_advantage(
    estimate: Estimate, case: Case
) -> None:
    """G13: r = 0, V = 0 and V' = 0 give A = 0."""
    zeros = torch.zeros_like(case.r)
    assert not evolve(case, r=zeros, v=zeros, after=zeros).by(estimate).any()


@pytest.mark.property
@both
@many
@given(st.floats(-5, 5), st.sampled_from([0.0, 0.5, 0.99]), unit)
def test_values_that_are_right_leave_no_advantage(
    estimate: Estimate, pay: float, gamma: float, lam: float
) -> None:
    """G13: r = c for ever is worth c / (1 - gamma), and leaves nothing to be surprised by."""
    ones = torch.ones(30, 2, dtype=torch.float64)
    worth = pay / (1 - gamma) * ones
    never = torch.zeros(30, 2, dtype=torch.bool)
    got, target = estimate(pay * ones, worth, worth, never, never, gamma, lam)
    assert float(got.abs().max()) <= 1e-10
    close(target, worth, 1e-10)


@pytest.mark.property
@both
@many
@given(case=cases.filter(lambda case: case.gamma * case.lam < 1))
def test_advantages_are_bounded_by_rewards_and_values(estimate: Estimate, case: Case) -> None:
    """G14: |A_t| <= (max |r| + (1 + gamma) max |V|) / (1 - gamma lambda)."""
    values = torch.cat([case.v, case.after]).abs().max()
    bound = (case.r.abs().max() + (1 + case.gamma) * values) / (1 - case.gamma * case.lam)
    assert float(case.by(estimate).abs().max()) <= float(bound) * (1 + 1e-12)


# ------------------------------------------------------------------------------------------------------ ends


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@both
@many
@given(
    case=cases,
    at=st.integers(0, 16),
    terminates=st.booleans(),
    key=st.integers(0, 99),
    stand_in=st.sampled_from([None, NAN, math.inf]),
)
def test_what_lies_behind_an_end_changes_nothing_before_it(
    estimate: Estimate, case: Case, at: int, terminates: bool, key: int, stand_in: float | None
) -> None:
    """G4: bit for bit, at terminations and truncations, even if what lies behind is not finite."""
    at = min(at, len(case.r) - 1)
    for flag, here in ((case.terminated, terminates), (case.truncated, not terminates)):
        flag[at] = here
    other = draw(*case.r.shape, key)
    changed = case.each(torch.clone)
    for name in ("r", "v", "after", "terminated", "truncated"):
        array = getattr(changed, name)
        array[at + 1 :] = getattr(other, name)[at + 1 :]
        if stand_in is not None and array.dtype != torch.bool:
            array[at + 1 :] = stand_in
    assert torch.equal(case.by(estimate)[: at + 1], changed.by(estimate)[: at + 1])


@pytest.mark.property
@both
@many
@given(case=cases)
def test_episodes_in_one_row_equal_each_alone(estimate: Estimate, case: Case) -> None:
    """G4: of mixed lengths, each has its own advantages, bit for bit."""
    case = case.each(lambda x: x[:, :1])
    whole = case.by(estimate)
    start = 0
    while start < len(whole):
        stop = segment_end(case, start, 0) + 1
        alone = case.each(lambda x, rows=slice(start, stop): x[rows]).by(estimate)
        assert torch.equal(alone, whole[start:stop])
        start = stop


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@both
@many
@given(case=cases, bad=st.sampled_from([NAN, math.inf, -math.inf, 1e300]))
def test_a_termination_ignores_its_bootstrap(estimate: Estimate, case: Case, bad: float) -> None:
    """G5: where the episode terminated, V' has no say, whatever it is."""
    broken = evolve(case, after=case.after.masked_fill(case.terminated, bad))
    assert torch.equal(case.by(estimate), broken.by(estimate))


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@both
@many
@given(case=cases, n=st.integers(0, 3), flagged=st.booleans(), at=st.integers(0, 16))
def test_a_truncation_passes_its_bootstrap_on_discounted(
    estimate: Estimate, case: Case, n: int, flagged: bool, at: int
) -> None:
    """G6: dA_t / dV'_e = gamma (gamma lambda)^(e - t); without a flag the last row does the same."""
    n, e = n % case.r.shape[1], min(at, len(case.r) - 1) if flagged else len(case.r) - 1
    case.terminated[e, n], case.truncated[e, n] = False, flagged
    after = case.after.clone()
    after[e, n] += 1.0
    slope = evolve(case, after=after).by(estimate) - case.by(estimate)
    expected = torch.zeros_like(slope)
    weights = (case.gamma * case.lam) ** distance(case).double()
    expected[:, n] = (same_segment(case) * weights)[:, e, n] * case.gamma
    close(slope, expected, 1e-11)


@pytest.mark.property
@both
@many
@given(case=cases, at=st.integers(0, 16))
def test_the_past_has_no_say_in_the_future(estimate: Estimate, case: Case, at: int) -> None:
    """G4: what lies before a step changes no bit of its advantage."""
    at = min(at, len(case.r) - 1)
    later = case.each(lambda x: x[at:]).by(estimate)
    assert torch.equal(case.by(estimate)[at:], later)


# ------------------------------------------------------------------------------------------------ invariances


@pytest.mark.property
@both
@many
@given(case=cases, key=st.integers(0, 99), k=st.floats(-9, 9), m=st.floats(-9, 9))
def test_advantages_are_linear_in_rewards_and_values(
    estimate: Estimate, case: Case, key: int, k: float, m: float
) -> None:
    """G7: A(k r + m r', k V + m V', ...) = k A + m A' for any real k and m."""
    other = draw(*case.r.shape, key)
    other = evolve(case, r=other.r, v=other.v, after=other.after)
    mixed = evolve(
        case,
        r=k * case.r + m * other.r,
        v=k * case.v + m * other.v,
        after=k * case.after + m * other.after,
    )
    close(mixed.by(estimate), k * case.by(estimate) + m * other.by(estimate), 1e-10)


@pytest.mark.property
@both
@many
@given(case=cases, k=st.floats(-9, 9))
def test_a_shift_of_all_values_that_rewards_make_good_changes_nothing(
    estimate: Estimate, case: Case, k: float
) -> None:
    """G8: V + k, V' + k and r + k (1 - gamma [not terminated]) leave A as it is."""
    paid = k * (1 - case.gamma * (~case.terminated).double())
    shifted = evolve(case, r=case.r + paid, v=case.v + k, after=case.after + k)
    close(shifted.by(estimate), case.by(estimate), 1e-11)


@pytest.mark.property
@both
@many
@given(case=cases, key=st.integers(0, 99))
def test_a_potential_changes_no_advantage(estimate: Estimate, case: Case, key: int) -> None:
    """G10: r + gamma phi' - phi with phi(terminal) = 0, whatever phi is (Ng, Harada and Russell 1999)."""
    phi = draw(*case.r.shape, key)
    next_phi = phi.after.masked_fill(case.terminated, 0.0)
    shaped = evolve(
        case,
        r=case.r + case.gamma * next_phi - phi.v,
        v=case.v - phi.v,
        after=case.after - phi.after,
    )
    close(shaped.by(estimate), case.by(estimate), 1e-11)


@pytest.mark.property
@both
@many
@given(case=cases, data=st.data())
def test_environments_do_not_know_each_other(estimate: Estimate, case: Case, data: st.DataObject) -> None:
    """G9: in any order and any selection of them, bit for bit."""
    envs = case.r.shape[1]
    chosen = data.draw(st.lists(st.integers(0, envs - 1), min_size=1, max_size=6))
    assert torch.equal(case.each(lambda x: x[:, chosen]).by(estimate), case.by(estimate)[:, chosen])


@pytest.mark.property
@both
@many
@given(case=cases, rows=st.integers(0, 5), idle=st.integers(0, 3), filler=st.sampled_from([0.0, 7.0, NAN]))
def test_neither_rows_behind_the_end_nor_idle_environments_matter(
    estimate: Estimate, case: Case, rows: int, idle: int, filler: float
) -> None:
    """G9: padding changes no advantage, bit for bit, whatever it is made of."""
    case.truncated[-1] |= ~case.terminated[-1]

    def pad(x: Tensor) -> Tensor:
        value = False if x.dtype == torch.bool else filler
        return torch.nn.functional.pad(x, (0, idle, 0, rows), value=value)

    padded = case.each(pad).by(estimate)
    assert torch.equal(padded[: len(case.r), : case.r.shape[1]], case.by(estimate))


@pytest.mark.property
@both
@many
@given(case=cases, at=st.integers(0, 99), name=st.sampled_from(["r", "v", "after"]), data=st.data())
def test_what_is_not_a_number_shows_wherever_it_is_used_and_nowhere_else(
    estimate: Estimate, case: Case, at: int, name: str, data: st.DataObject
) -> None:
    """G15: NaN in a used cell is not hidden (the update refuses it); in an unused one it is nothing."""
    case = evolve(case, gamma=0.9, lam=data.draw(st.sampled_from([0.3, 1.0])))
    t, n = at % len(case.r), data.draw(st.integers(0, case.r.shape[1] - 1))
    array = getattr(case, name).clone()
    array[t, n] = NAN
    expected = same_segment(case)[:, t] & (torch.arange(case.r.shape[1]) == n)
    if name == "after" and case.terminated[t, n]:
        expected[:] = False
    assert torch.equal(evolve(case, **{name: array}).by(estimate).isnan(), expected)


# -------------------------------------------------------------------------------------------- lambda-returns


@pytest.fixture(params=["rows", "windows"])
def wide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways that sums are added up."""
    monkeypatch.setattr(advantage, "WIDE", 1 if request.param == "rows" else 10**9)


both_ways = pytest.mark.usefixtures("wide")
twice = settings(many, suppress_health_check=[HealthCheck.function_scoped_fixture])


def by_mixture(case: Case) -> Tensor:
    """(1 - lambda) sum over n of lambda^(n-1) G^(n), and lambda^(e-t) for all that the segment pays.

    G^(n) is the return of n steps, completed by the value of the state that the n-th led to.
    """
    same, far = same_segment(case), distance(case).double()
    paid = (same * case.gamma**far * case.r).cumsum(dim=1)
    value = case.after.masked_fill(case.terminated, 0.0)
    completed = paid + case.gamma ** (far + 1) * value
    last = case.end | (torch.arange(len(case.r)) == len(case.r) - 1)[:, None]
    share = torch.full_like(case.r, 1.0 - case.lam).masked_fill(last, 1.0) * case.lam**far
    return (same * share * completed).sum(dim=1)


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@both_ways
@twice
@given(case=cases)
def test_a_lambda_return_is_the_mixture_of_the_returns_of_n_steps(case: Case) -> None:
    """G3: terminated, truncated, of mixed lengths, with any lambda."""
    close(case.returns(), by_mixture(case))


def test_lambda_returns_by_hand() -> None:
    """gamma = lambda = 1/2, V' = 4, 6, 8: G_2 = 3 + 4, G_1 = 2 + 1.5 + G_2 / 4, G_0 = 1 + 1 + G_1 / 4."""
    r, after = column(1, 2, 3), column(4, 6, 8)
    never = flags(0, 0, 0)
    assert lambda_returns(r, after, never, never, 0.5, 0.5).flatten().tolist() == [3.3125, 5.25, 7.0]
    # an end in the middle: 2 behind a termination, 2 + 3 behind a truncation
    cut = flags(0, 1, 0)
    assert lambda_returns(r, after, cut, never, 0.5, 0.5).flatten().tolist() == [2.5, 2.0, 7.0]
    assert lambda_returns(r, after, never, cut, 0.5, 0.5).flatten().tolist() == [3.25, 5.0, 7.0]
    assert lambda_returns(r, after, cut, cut, 0.5, 0.5).flatten().tolist() == [2.5, 2.0, 7.0]


@pytest.mark.property
@both_ways
@twice
@given(case=cases)
def test_where_values_follow_each_other_lambda_returns_are_the_targets_of_advantages(case: Case) -> None:
    """G11: R = A + V, with V' of a step the V of the next one in its segment."""
    next_v = torch.cat([case.v[1:], case.after[-1:]])
    case = evolve(case, after=torch.where(case.end, case.after, next_v))
    close(case.returns(), case.both_by(gae)[1])


@pytest.mark.property
@both_ways
@twice
@given(case=cases)
def test_the_ends_of_lambda(case: Case) -> None:
    """G1, G2: lambda = 0 gives r + gamma V'; gamma = 0 gives r; both to the last bit."""
    following = case.gamma * case.after.masked_fill(case.terminated, 0.0)
    assert torch.equal(evolve(case, gamma=0.0).returns(), case.r)
    close(evolve(case, lam=0.0).returns(), case.r + following, 1e-15)


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@both_ways
@twice
@given(case=cases, at=st.integers(0, 16), terminates=st.booleans(), bad=st.sampled_from([0.0, NAN]))
def test_no_return_crosses_an_end(case: Case, at: int, terminates: bool, bad: float) -> None:
    """G4, G5: what lies behind an end, and the bootstrap of a termination, change no bit before it."""
    at = min(at, len(case.r) - 1)
    case.terminated[at], case.truncated[at] = terminates, not terminates
    changed = case.each(torch.clone)
    changed.after.masked_fill_(case.terminated, bad)
    for array in (changed.r, changed.after):
        array[at + 1 :] = bad
    assert torch.equal(case.returns()[: at + 1], changed.returns()[: at + 1])


@pytest.mark.property
@both_ways
@twice
@given(case=cases)
def test_with_lambda_1_values_are_used_at_ends_alone(case: Case) -> None:
    """G15: where rewards are trusted, a value in the middle may be anything."""
    case = evolve(case, lam=1.0, gamma=0.9)
    last = case.end.clone()
    last[-1] = True
    broken = evolve(case, after=case.after.masked_fill(~last, NAN))
    assert torch.equal(broken.returns(), case.returns())


@pytest.mark.property
@both_ways
@twice
@given(case=cases, data=st.data())
def test_returns_of_environments_do_not_know_each_other(case: Case, data: st.DataObject) -> None:
    """G9: in any order and any selection of them, bit for bit."""
    envs = case.r.shape[1]
    chosen = data.draw(st.lists(st.integers(0, envs - 1), min_size=1, max_size=6))
    assert torch.equal(case.each(lambda x: x[:, chosen]).returns(), case.returns()[:, chosen])


# ----------------------------------------------------------------------------------------------- the kernels


@both
def test_arguments_stay_as_they_are_and_results_carry_no_gradient(estimate: Estimate) -> None:
    case = draw(9, 3, 0)
    before = case.each(torch.clone)
    learned = evolve(case, v=case.v.clone().requires_grad_(), after=case.after.clone().requires_grad_())
    assert not any(result.requires_grad for result in (*learned.both_by(estimate), learned.returns()))
    case.both_by(estimate), case.returns()
    for name in ("r", "v", "after", "terminated", "truncated"):
        assert torch.equal(getattr(case, name), getattr(before, name))


@pytest.mark.parametrize("estimate", [gae, gae_loop, gae_scan])
def test_nothing_is_read_back_from_the_device(estimate: Estimate) -> None:
    """A meta tensor has a shape and no values: whatever looks at one fails."""
    case = draw(9, 3, 0).each(lambda x: x.to("meta"))
    assert all(result.shape == (9, 3) for result in case.both_by(estimate))


def test_neither_returns_nor_normalisation_read_anything_back() -> None:
    case = draw(9, 3, 0).each(lambda x: x.to("meta"))
    assert case.returns().shape == (9, 3)
    group = torch.zeros(3, dtype=torch.int64, device="meta")
    assert normalise(case.r, case.truncated, group, 2).shape == (9, 3)


def compiled(backend: str) -> None:
    """Every kernel as one graph, its results those of the uncompiled one."""
    torch.compiler.reset()
    case = draw(9, 3, 0)
    arrays = (case.r, case.v, case.after, case.terminated, case.truncated, 0.9, 0.8)
    group = torch.tensor([0, 1, 0])
    kernels: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (gae, arrays),
        (gae_loop, arrays),
        (gae_scan, arrays),
        (lambda_returns, (case.r, *arrays[2:])),
        (normalise, (case.r, case.truncated, group, 2)),
    ]
    for kernel, arguments in kernels:
        got = torch.compile(kernel, fullgraph=True, backend=backend)(*arguments)
        torch.testing.assert_close(got, kernel(*arguments), rtol=1e-13, atol=1e-13)


def test_every_kernel_is_one_graph() -> None:
    compiled("eager")


@pytest.mark.slow
def test_every_kernel_compiles() -> None:
    compiled("inductor")


class Counter(TorchDispatchMode):
    """Counts operations on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def calls(estimate: Estimate, steps: int) -> int:
    case = draw(steps, 2, 0)
    with Counter() as counter:
        case.both_by(estimate)
    return counter.calls


def test_the_scan_takes_a_pass_per_doubling() -> None:
    """ceil(log2 T) passes of the same cost."""
    nothing, one = calls(gae_scan, 1), calls(gae_scan, 2) - calls(gae_scan, 1)
    for steps in (3, 4, 5, 8, 100, 128, 129):
        assert calls(gae_scan, steps) == nothing + one * math.ceil(math.log2(steps)), steps


def test_wide_batches_take_the_loop_and_narrow_ones_the_scan() -> None:
    """Told by their rounding."""
    for envs, way, other in ((advantage.WIDE, gae_loop, gae_scan), (advantage.WIDE - 1, gae_scan, gae_loop)):
        case = draw(40, envs, 0, 0.01, 0.99, 0.95)
        assert torch.equal(case.by(gae), case.by(way))
        assert not torch.equal(case.by(gae), case.by(other))


@pytest.mark.parametrize("estimate", [gae, gae_loop, gae_scan])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": torch.zeros(4, 2)}, r"v_tm1 is torch.float32 \(4, 2\), expected torch.float64 \(5, 2\)"),
        ({"after": torch.zeros(5, 1).double()}, r"v_t is torch.float64 \(5, 1\), expected .* \(5, 2\)"),
        ({"after": torch.zeros(2).double()}, r"v_t is torch.float64 \(2,\)"),
        ({"terminated": torch.zeros(5, 2)}, r"terminated_t is torch.float32 .* expected torch.bool \(5, 2\)"),
        ({"truncated": torch.zeros(2, 5, dtype=torch.bool)}, r"truncated_t is torch.bool \(2, 5\)"),
        (
            {"r": torch.zeros(5).double()},
            r"r_t is torch.float64 \(5,\), expected float32 or float64 \[T, N\]",
        ),
        ({"r": torch.tensor(0.0)}, r"r_t is torch.float32 \(\)"),
        ({"r": torch.zeros(0, 2)}, r"r_t is torch.float32 \(0, 2\).* with T >= 1"),
        ({"r": torch.zeros(5, 2, dtype=torch.bfloat16)}, r"r_t is torch.bfloat16"),
    ],
)
def test_wrong_shapes_and_types_are_refused_by_name(
    estimate: Estimate, change: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evolve(draw(5, 2, 0), **change).by(estimate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"after": torch.zeros(5, 1).double()}, r"v_t is torch.float64 \(5, 1\), expected .* \(5, 2\)"),
        ({"terminated": torch.zeros(5, 2)}, r"terminated_t is torch.float32 .* expected torch.bool \(5, 2\)"),
        ({"truncated": torch.zeros(2, 5, dtype=torch.bool)}, r"truncated_t is torch.bool \(2, 5\)"),
        ({"r": torch.zeros(0, 2)}, r"r_t is torch.float32 \(0, 2\).* with T >= 1"),
    ],
)
def test_returns_refuse_wrong_shapes_and_types_by_name(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evolve(draw(5, 2, 0), **change).returns()


# --------------------------------------------------------------------------------------------- normalisation


def spread(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std(correction=0))


def normal(values: Tensor, counted: Tensor) -> Tensor:
    """Of one group."""
    return normalise(values, counted, torch.zeros(values.shape[1], dtype=torch.int64), 1)


masks = st.builds(
    lambda steps, envs, key, share: (
        draw(steps, envs, key).r,
        torch.rand(steps, envs, generator=torch.Generator().manual_seed(key + 1)) < share,
    ),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.sampled_from([0.3, 0.7, 1.0]),
)
Masks = tuple[Tensor, Tensor]


def test_normalised_values_by_hand() -> None:
    """1, 2 and 6 have mean 3 and variance (4 + 1 + 9) / 3; the 100 does not count."""
    got = normal(column(1, 100, 2, 6), flags(1, 0, 1, 1)).flatten()
    std = math.sqrt(14 / 3)
    close(got, torch.tensor([-2 / std, 0.0, -1 / std, 3 / std], dtype=torch.float64))


@pytest.mark.property
@many
@given(masks)
def test_counted_advantages_get_mean_0_and_deviation_1(given_mask: Masks) -> None:
    """G16: mean 0 and deviation 1 over what counts; 0 for a single one."""
    values, counted = given_mask
    got = normal(values, counted)
    assert not got[~counted].any()
    if int(counted.sum()) > 1:
        assert spread(got[counted]) == pytest.approx((0.0, 1.0), abs=1e-10)
    else:
        assert not got.any()


@pytest.mark.property
@many
@given(masks, st.sampled_from([NAN, math.inf, -1e300, 7.0]))
def test_what_does_not_count_has_no_influence(given_mask: Masks, bad: float) -> None:
    """G17: steps without a choice, padding and rows of another length change no advantage of the others."""
    values, counted = given_mask
    assert torch.equal(normal(values, counted), normal(values.masked_fill(~counted, bad), counted))
    longer = torch.cat([values, torch.full_like(values, bad)])
    padded = normal(longer, torch.cat([counted, torch.zeros_like(counted)]))
    close(padded[: len(values)], normal(values, counted))


@pytest.mark.property
@many
@given(masks, st.floats(1e-2, 1e3), st.floats(-10, 10))
def test_neither_scale_nor_shift_matters_above_the_floor(
    given_mask: Masks, scale: float, shift: float
) -> None:
    """G16: A -> a A + b with a > 0 changes nothing while a std is at least the floor."""
    values, counted = given_mask
    if int(counted.sum()) > 1 and spread(values[counted])[1] < 2 * advantage.STD_FLOOR / scale:
        return
    close(normal(scale * values + shift, counted), normal(values, counted), 1e-8)


@pytest.mark.property
@many
@given(masks, st.floats(0.0, 3.0), st.floats(-9, 9))
def test_deviations_of_a_share_of_the_floor_become_that_share(
    given_mask: Masks, share: float, constant: float
) -> None:
    """G16: the deviation becomes std / max(std, floor), at most 1; equal advantages become 0."""
    values, counted = given_mask
    if int(counted.sum()) < 2 or spread(values[counted])[1] < 1e-3:
        return
    small = constant + share * advantage.STD_FLOOR * (values / spread(values[counted])[1])
    assert spread(normal(small, counted)[counted])[1] == pytest.approx(min(share, 1.0), abs=1e-8)
    assert float(normal(torch.full_like(values, constant), counted).abs().max()) <= 1e-10


@pytest.mark.property
@many
@given(masks)
def test_normalising_again_changes_nothing(given_mask: Masks) -> None:
    """G16: what has mean 0 and deviation 1 stays as it is."""
    values, counted = given_mask
    once = normal(values, counted)
    close(normal(once, counted), once, 1e-10)


@pytest.mark.acceptance("RL-06")
@pytest.mark.property
@many
@given(masks, st.data(), st.sampled_from([1e-3, 1.0, 1e6]), st.sampled_from([NAN, 1e9]))
def test_every_group_is_normalised_as_if_it_were_alone(
    given_mask: Masks, data: st.DataObject, scale: float, other: float
) -> None:
    """G17: bit for bit, however large the advantages of other groups are, or if they are no numbers."""
    values, counted = given_mask
    envs = values.shape[1]
    group = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=envs, max_size=envs)))
    values = torch.where(group == 1, scale * values, values)
    got = normalise(values, counted, group, 3)
    assert not got[~counted].any()
    for number in range(3):
        mine = group == number
        alone = normalise(values, counted & mine, torch.zeros_like(group), 1)
        assert torch.equal(got[:, mine], alone[:, mine])
        changed = normalise(torch.where(mine, values, other), counted, group, 3)
        assert torch.equal(got[:, mine], changed[:, mine])


def test_flags_and_groups_of_another_shape_or_type_are_refused() -> None:
    group = torch.zeros(2, dtype=torch.int64)
    for counted in (torch.ones(2, 3, dtype=torch.bool), torch.ones(3, 2)):
        with pytest.raises(ValueError, match=r"counted is .*expected torch.bool \(3, 2\)"):
            normalise(torch.zeros(3, 2), counted, group, 1)
    for wrong in (torch.zeros(3, dtype=torch.int64), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"group is .*expected torch.int64 \(2,\)"):
            normalise(torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool), wrong, 1)
