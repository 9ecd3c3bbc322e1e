"""Advantages: equal to their definition, cut at every end, and indifferent to what must not matter."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from attrs import evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esper_core.phases import advantage
from esper_core.phases.advantage import gae, gae_loop, gae_scan, normalise

NAN = float("nan")
many = settings(max_examples=80, deadline=None)
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


def by_definition(case: Case) -> Tensor:
    """A_t = sum over k = t .. e of (gamma lambda)^(k - t) delta_k, term by term."""
    delta, end = case.delta, case.end
    steps, envs = delta.shape
    result = torch.zeros_like(delta)
    for n in range(envs):
        for t in range(steps):
            for k in range(t, steps):
                result[t, n] += (case.gamma * case.lam) ** (k - t) * delta[k, n]
                if end[k, n]:
                    break
    return result


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
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 5),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.01, 0.3]),
    st.sampled_from([0.9, 1.0]),
)
def test_the_scan_equals_the_loop(steps: int, envs: int, key: int, ends: float, lam: float) -> None:
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
    got, target = case.both_by(estimate)
    assert torch.equal(target, got + case.v)


# ------------------------------------------------------------------------------------------------- extremes


@pytest.mark.property
@both
@many
@given(case=cases)
def test_with_lambda_0_an_advantage_is_its_delta(estimate: Estimate, case: Case) -> None:
    assert torch.equal(evolve(case, lam=0.0).by(estimate), case.delta)


@pytest.mark.property
@both
@many
@given(case=cases)
def test_with_lambda_1_an_advantage_is_the_return_minus_the_value(estimate: Estimate, case: Case) -> None:
    """Values in between cancel out, where one step's next state is the next step's state."""
    next_v = torch.cat([case.v[1:], case.after[-1:]])
    case = evolve(case, lam=1.0, after=torch.where(case.end, case.after, next_v))
    got = case.by(estimate)
    for t, n in torch.cartesian_prod(*map(torch.arange, got.shape)).tolist():
        e = segment_end(case, t, n)
        value = sum(case.gamma ** (k - t) * float(case.r[k, n]) for k in range(t, e + 1))
        if not case.terminated[e, n]:
            value += case.gamma ** (e - t + 1) * float(case.after[e, n])
        assert float(got[t, n]) == pytest.approx(value - float(case.v[t, n]), rel=1e-12, abs=1e-12)


@pytest.mark.property
@both
@many
@given(case=cases)
def test_with_gamma_0_an_advantage_is_the_reward_minus_the_value(estimate: Estimate, case: Case) -> None:
    assert torch.equal(evolve(case, gamma=0.0).by(estimate), case.r - case.v)


@both
@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9), unit, unit)
def test_a_single_step_is_paid_its_reward(
    estimate: Estimate, r: float, v: float, after: float, gamma: float, lam: float
) -> None:
    arrays = column(r), column(v), column(after)
    for terminated, truncated, expected in (
        (1, 0, r - v),
        (0, 1, r + gamma * after - v),
        (0, 0, r + gamma * after - v),
    ):
        got, _ = estimate(*arrays, flags(terminated), flags(truncated), gamma, lam)
        assert float(got) == expected


@both
def test_where_nothing_is_paid_and_nothing_is_expected_there_is_no_advantage(estimate: Estimate) -> None:
    zeros = torch.zeros(9, 2, dtype=torch.float64)
    assert not evolve(draw(9, 2, 0), r=zeros, v=zeros, after=zeros).by(estimate).any()


@pytest.mark.property
@both
@given(st.floats(-5, 5), st.sampled_from([0.0, 0.5, 0.99]), unit)
def test_values_that_are_right_leave_no_advantage(
    estimate: Estimate, pay: float, gamma: float, lam: float
) -> None:
    """r = c for ever is worth c / (1 - gamma)."""
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
    """Bit for bit, at terminations and truncations, even if what lies behind is not finite."""
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
    """Bit for bit: cut at every end of environment 0."""
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
    """dA_t / d v_e = gamma (gamma lambda)^(e - t); without a flag the last row does the same."""
    n, e = n % case.r.shape[1], min(at, len(case.r) - 1) if flagged else len(case.r) - 1
    case.terminated[e, n], case.truncated[e, n] = False, flagged
    after = case.after.clone()
    after[e, n] += 1.0
    slope = evolve(case, after=after).by(estimate) - case.by(estimate)
    expected = torch.zeros_like(slope)
    for t in range(e + 1):
        if segment_end(case, t, n) == e:
            expected[t, n] = case.gamma * (case.gamma * case.lam) ** (e - t)
    close(slope, expected, 1e-11)


@pytest.mark.property
@both
@many
@given(case=cases, at=st.integers(0, 16))
def test_the_past_has_no_say_in_the_future(estimate: Estimate, case: Case, at: int) -> None:
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
    paid = k * (1 - case.gamma * (~case.terminated).double())
    shifted = evolve(case, r=case.r + paid, v=case.v + k, after=case.after + k)
    close(shifted.by(estimate), case.by(estimate), 1e-11)


@pytest.mark.property
@both
@many
@given(case=cases, key=st.integers(0, 99))
def test_a_potential_changes_no_advantage(estimate: Estimate, case: Case, key: int) -> None:
    """r + gamma phi' - phi with phi(terminal) = 0, whatever phi is (Ng, Harada and Russell 1999)."""
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
    """Bit for bit: in any order, and any selection of them."""
    envs = case.r.shape[1]
    chosen = data.draw(st.lists(st.integers(0, envs - 1), min_size=1, max_size=6))
    assert torch.equal(case.each(lambda x: x[:, chosen]).by(estimate), case.by(estimate)[:, chosen])


# ----------------------------------------------------------------------------------------------- the kernels


@both
def test_arguments_stay_as_they_are_and_results_carry_no_gradient(estimate: Estimate) -> None:
    case = draw(9, 3, 0)
    before = case.each(torch.clone)
    learned = evolve(case, v=case.v.clone().requires_grad_(), after=case.after.clone().requires_grad_())
    assert not any(result.requires_grad for result in learned.both_by(estimate))
    case.both_by(estimate)
    for name in ("r", "v", "after", "terminated", "truncated"):
        assert torch.equal(getattr(case, name), getattr(before, name))


@pytest.mark.parametrize("estimate", [gae, gae_loop, gae_scan])
def test_nothing_is_read_back_from_the_device(estimate: Estimate) -> None:
    """A meta tensor has a shape and no values: whatever looks at one fails."""
    case = draw(9, 3, 0).each(lambda x: x.to("meta"))
    assert all(result.shape == (9, 3) for result in case.both_by(estimate))
    assert normalise(case.r, case.truncated).shape == (9, 3)


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


# --------------------------------------------------------------------------------------------- normalisation


def spread(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std(correction=0))


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


def test_normalised_values_by_hand() -> None:
    """1, 2 and 6 have mean 3 and variance (4 + 1 + 9) / 3; the 100 does not count."""
    got = normalise(column(1, 100, 2, 6), flags(1, 0, 1, 1)).flatten()
    std = math.sqrt(14 / 3)
    close(got, torch.tensor([-2 / std, 0.0, -1 / std, 3 / std], dtype=torch.float64))


@pytest.mark.property
@many
@given(masks)
def test_counted_advantages_get_mean_0_and_deviation_1(given_mask: tuple[Tensor, Tensor]) -> None:
    values, counted = given_mask
    got = normalise(values, counted)
    assert not got[~counted].any()
    if int(counted.sum()) > 1:
        assert spread(got[counted]) == pytest.approx((0.0, 1.0), abs=1e-10)
    else:
        assert not got.any()


@pytest.mark.property
@many
@given(masks, st.sampled_from([NAN, math.inf, -1e300, 7.0]))
def test_what_does_not_count_has_no_influence(given_mask: tuple[Tensor, Tensor], bad: float) -> None:
    values, counted = given_mask
    assert torch.equal(normalise(values, counted), normalise(values.masked_fill(~counted, bad), counted))
    longer = torch.cat([values, torch.full_like(values, bad)])
    padded = normalise(longer, torch.cat([counted, torch.zeros_like(counted)]))
    close(padded[: len(values)], normalise(values, counted))


@pytest.mark.property
@many
@given(masks, st.floats(1e-2, 1e3), st.floats(-10, 10))
def test_neither_scale_nor_shift_matters_above_the_floor(
    given_mask: tuple[Tensor, Tensor], scale: float, shift: float
) -> None:
    values, counted = given_mask
    if int(counted.sum()) > 1 and spread(values[counted])[1] < 2 * advantage.STD_FLOOR / scale:
        return
    close(normalise(scale * values + shift, counted), normalise(values, counted), 1e-8)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_below_the_floor_differences_stay_small(share: float) -> None:
    """Deviations of a share of the floor become that share."""
    values = 0.3 + share * advantage.STD_FLOOR * column(1, -1, 1, -1)
    got = normalise(values, flags(1, 1, 1, 1))
    close(got, share * column(1, -1, 1, -1), 1e-9)


def test_flags_of_another_shape_or_type_are_refused() -> None:
    for counted in (torch.ones(2, 3, dtype=torch.bool), torch.ones(3, 2)):
        with pytest.raises(ValueError, match=r"counted is .*expected torch.bool \(3, 2\)"):
            normalise(torch.zeros(3, 2), counted)
