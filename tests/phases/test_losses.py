"""The loss of an update: equal to its definition, pessimistic, and blind to what must not count."""

import math
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import N, T, Table, judgements, part_of
from torch import Tensor

from esper_core.phases.update import LARGEST_LOG_RATIO, Experience, Judged, losses
from esper_core.state.settings import LearnSettings

torch.set_num_threads(1)

many = settings(max_examples=200, deadline=None)
seeds = st.integers(0, 10**6)
shares = st.sampled_from([0.3, 0.7, 1.0])
LEARN = LearnSettings()
DIVERGENCE, POLICY, VALUE, ENTROPY, CLIPPED = range(5)


def close(one: Any, other: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def told(now: Judged, part: Experience, learn: LearnSettings = LEARN, scale: Any = 1.0) -> Tensor:
    return losses(now, part, learn, scale, 0.0)[1]


@torch.no_grad()
def by_definition(
    now: Judged, part: Experience, learn: LearnSettings, scale: Sequence[float], price: float
) -> list[float]:
    """Step by step and head by head in Python's floats, with probabilities instead of logarithms."""
    policy, entropy, divergence, error = [], [], [], []
    clipped, used, steps = 0, 0, 0
    for t, n in torch.cartesian_prod(torch.arange(len(part.played)), torch.arange(len(scale))).tolist():
        for k in part.used[t, n].nonzero().flatten().tolist():
            p, before = (math.exp(float(j.log_probability[t, n, k])) for j in (now, part.anchor))
            ratio, advantage = p / before, float(part.advantage[t, n])
            kept = min(max(ratio, 1 - learn.clip), 1 + learn.clip)
            policy.append(-min(ratio * advantage, kept * advantage))
            entropy.append(float(now.entropy[t, n, k]))
            divergence.append(ratio - 1 - math.log(ratio))
            clipped, used = clipped + (abs(ratio - 1) > learn.clip), used + 1
        steps += bool(part.used[t, n].any())
        if part.played[t, n]:
            value, old, target = (
                float(x[t, n]) / scale[n] for x in (now.value, part.anchor.value, part.target)
            )
            limit = learn.value_clip or math.inf
            near = min(max(value, old - limit), old + limit)
            error.append(max((value - target) ** 2, (near - target) ** 2))
    count = max(steps, 1)
    means = [sum(x) / count for x in (divergence, policy)]
    means += [sum(error) / max(len(error), 1) / 2, sum(entropy) / count, clipped / max(used, 1)]
    return [means[POLICY] + learn.value * means[VALUE] - price * means[ENTROPY], *means]


@pytest.mark.property
@many
@given(seeds, shares, st.sampled_from([0.0, 0.05, 0.5]), st.sampled_from([None, 0.1, 1.0]))
def test_the_loss_equals_its_definition(seed: int, share: float, apart: float, value_clip: float) -> None:
    """U1: a ratio is p / p of the anchor; one count of steps for all heads; values in units of returns."""
    now, part = judgements(seed, apart=apart, share=share)
    learn = LearnSettings(value_clip=value_clip)
    scale = [0.5, 1.0, 2.0, 7.0]
    loss, numbers = losses(now, part, learn, torch.tensor(scale, dtype=torch.float64), 0.03)
    got = [float(x.detach()) for x in (loss, *numbers)]
    *expected, clipped = by_definition(now, part, learn, scale, 0.03)
    assert got[:-1] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert got[-1] == pytest.approx(clipped, rel=1e-6)


@pytest.mark.property
@many
@given(seeds)
def test_at_the_anchor_the_gradient_is_that_of_the_policy_gradient(seed: int) -> None:
    """U2: there it is -1/n sum_t A_t sum_k grad ln p_k; ratio 1, divergence 0, nothing clipped."""
    actor = Table(seed)
    part = part_of(actor, seed)
    now = actor.judge({}, part.heads)
    simple = -(part.advantage.unsqueeze(-1) * now.log_probability * part.used).sum() / (T * N)
    loss, numbers = losses(now, part, LearnSettings(value=0.0), 1.0, 0.0)
    names = [actor.op, actor.slot]
    close(torch.autograd.grad(loss, names, retain_graph=True), torch.autograd.grad(simple, names))
    assert (float(numbers[DIVERGENCE]), float(numbers[CLIPPED])) == (0.0, 0.0)


@pytest.mark.property
@many
@given(seeds, st.sampled_from([0.05, 0.3, 1.0]))
def test_a_clipped_policy_never_gains_more(seed: int, apart: float) -> None:
    """U3: what is gained is at most what the plain ratio gains, step by step."""
    now, part = judgements(seed, apart=apart)
    ratio = (now.log_probability - part.anchor.log_probability).exp()
    plain = (ratio * part.advantage.unsqueeze(-1)).masked_fill(~part.used, 0.0).detach()
    count = part.used.any(dim=-1).sum().clamp(min=1)
    assert float(told(now, part)[POLICY]) >= float(-plain.sum() / count) - 1e-12


@pytest.mark.property
@many
@given(seeds, st.sampled_from([0.1, 0.2, 0.5]))
def test_beyond_the_clip_the_gradient_is_exactly_0_and_nowhere_else(seed: int, clip: float) -> None:
    """U3: where A > 0 and ratio > 1 + c, or A < 0 and ratio < 1 - c; elsewhere it is -ratio A / n."""
    now, part = judgements(seed, apart=0.5)
    loss, _ = losses(now, part, LearnSettings(clip=clip, value=0.0), 1.0, 0.0)
    (gradient,) = torch.autograd.grad(loss, [now.log_probability])
    ratio = (now.log_probability - part.anchor.log_probability).exp().detach()
    advantage = part.advantage.unsqueeze(-1).expand(ratio.shape)
    beyond = ((advantage > 0) & (ratio > 1 + clip)) | ((advantage < 0) & (ratio < 1 - clip)) | ~part.used
    count = part.used.any(dim=-1).sum().clamp(min=1)
    assert not gradient[beyond].any()
    close(gradient[~beyond], (-ratio * advantage / count)[~beyond])


@pytest.mark.property
@many
@given(seeds, st.floats(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))
def test_the_divergence_is_0_at_the_anchor_and_above_it_elsewhere(seed: int, apart: float) -> None:
    """U4: e^x - 1 - x >= 0, and 0 at x = 0 alone."""
    now, part = judgements(seed, apart=0.0, share=1.0)
    assert float(told(now, part)[DIVERGENCE]) == 0.0
    at = (seed % T, seed % N, seed % 7)
    moved = now.log_probability.detach().clone()
    moved[at] += apart
    got = float(told(now._replace(log_probability=moved), part)[DIVERGENCE])
    x = float(moved[at] - part.anchor.log_probability[at])
    assert got == pytest.approx((math.exp(x) - 1 - x) / (T * N), rel=1e-9, abs=1e-15)
    assert (got > 0) == (abs(x) > 1e-7) or abs(x) < 1e-7


@pytest.mark.property
@many
@given(seeds, shares)
def test_divergences_of_heads_add_up(seed: int, share: float) -> None:
    """U5: it is the sum over heads, not their average; a head that is not used adds nothing."""
    now, part = judgements(seed, share=share)
    steps = int(part.used.any(dim=-1).sum())
    alone = 0.0
    for k in range(7):
        only = part.used & (torch.arange(7) == k)
        count = max(int(only.any(dim=-1).sum()), 1)
        alone += count * float(told(now, attrs.evolve(part, used=only))[DIVERGENCE])
    assert float(told(now, part)[DIVERGENCE]) == pytest.approx(alone / max(steps, 1), rel=1e-12, abs=1e-15)


@pytest.mark.property
@many
@given(seeds, st.sampled_from([-1e6, 0.0, 1e6]))
def test_what_was_not_chosen_or_not_played_counts_nowhere(seed: int, content: float) -> None:
    """U6, B1': loss and gradients are the same bits, whatever unused heads and empty rows are filled with."""
    now, part = judgements(seed)
    idle = part.played & ~part.used.any(dim=-1)
    other = attrs.evolve(
        part,
        anchor=part.anchor._replace(
            log_probability=part.anchor.log_probability.masked_fill(~part.used, min(content, 0.0)),
            value=part.anchor.value.masked_fill(~part.played, content),
        ),
        advantage=part.advantage.masked_fill(~part.played | idle, content),
        target=part.target.masked_fill(~part.played, content),
    )
    found = []
    for judged, experience in ((now, part), (now, other)):
        loss, numbers = losses(judged, experience, LEARN, 1.0, 0.1)
        found.append([loss, numbers, *torch.autograd.grad(loss, list(now))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not found[0][2][~part.used].any()
    assert not found[0][3][~part.used].any()
    assert not found[0][4][~part.played].any()


@pytest.mark.property
@many
@given(seeds, shares)
def test_every_choice_of_a_step_weighs_the_same(seed: int, share: float) -> None:
    """U7: at ratio 1, dL / d ln p_k of step t is -A_t / n for every head that was used, however rarely."""
    now, part = judgements(seed, apart=0.0, share=share)
    loss, _ = losses(now, part, LearnSettings(value=0.0), 1.0, 0.0)
    (gradient,) = torch.autograd.grad(loss, [now.log_probability])
    count = part.used.any(dim=-1).sum().clamp(min=1)
    expected = (-part.advantage / count).unsqueeze(-1).expand(gradient.shape)
    close(gradient, expected.masked_fill(~part.used, 0.0))


@pytest.mark.property
@many
@given(seeds, st.sampled_from([0.1, 0.5, 2.0]), st.sampled_from([0.5, 1.0, 3.0]))
def test_clipping_values_never_makes_the_error_smaller(seed: int, clip: float, scale: float) -> None:
    """U8: at least the plain error; the same where no value has moved further than the clip."""
    now, part = judgements(seed)
    plain, clipped = (
        told(now, part, LearnSettings(value_clip=limit), scale)[VALUE] for limit in (None, clip)
    )
    assert float(clipped) >= float(plain) - 1e-12
    near = part.anchor.value + scale * clip * torch.tanh(now.value.detach()) * 0.999
    one, other = (
        told(now._replace(value=near), part, LearnSettings(value_clip=limit), scale)[VALUE]
        for limit in (None, clip)
    )
    close(one, other)


@pytest.mark.property
@many
@given(seeds)
def test_a_value_that_has_moved_too_far_towards_its_target_is_not_pulled_on(seed: int) -> None:
    """U8: beyond the clip its gradient is exactly 0, unless it has gone past the target or away from it."""
    now, part = judgements(seed, share=1.0)
    learn = LearnSettings(value_clip=0.1, value=1.0)
    (gradient,) = torch.autograd.grad(losses(now, part, learn, 1.0, 0.0)[0], [now.value])
    moved, left = now.value - part.anchor.value, part.target - part.anchor.value
    further = (moved.abs() > 0.1) & ((now.value - part.target).abs() < (left - 0.1 * moved.sign()).abs())
    assert not gradient[further].any()
    close(gradient[~further], ((now.value - part.target) / (T * N)).detach()[~further])


def test_a_clipped_value_by_hand() -> None:
    """In units of 2, from 0 to 3 is 1.5, of which 0.5 count.

    With the target 2, (0.5 - 1)^2 is (1.5 - 1)^2; with the target 4, (0.5 - 2)^2 is larger than (1.5 - 2)^2.
    """
    now, part = judgements(0, 1, 1, share=1.0)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    for target, plain, clipped in ((2.0, 0.125, 0.125), (4.0, 0.125, 1.125)):
        here = attrs.evolve(part, target=zero + target, anchor=part.anchor._replace(value=zero))
        moved = now._replace(value=zero + 3.0)
        for limit, expected in ((None, plain), (0.5, clipped)):
            assert told(moved, here, LearnSettings(value_clip=limit), 2.0)[VALUE].item() == expected


@pytest.mark.property
@many
@given(seeds, st.permutations(range(N)))
def test_the_order_of_environments_does_not_matter(seed: int, order: list[int]) -> None:
    """U9: any permutation of the environments gives the same loss and the same numbers."""
    now, part = judgements(seed)
    scale = torch.linspace(0.5, 2.0, N, dtype=torch.float64)
    moved = Judged(*(values[:, order] for values in now))
    one = losses(now, part, LEARN, scale, 0.1)
    other = losses(moved, part.of(torch.tensor(order)), LEARN, scale[order], 0.1)
    close(one, other, 1e-14)


@pytest.mark.property
@many
@given(seeds, st.floats(1e-3, 1e3))
def test_values_in_another_unit_have_the_same_error(seed: int, unit: float) -> None:
    """N8: values, targets and the scale in another unit change nothing; a scale for each or one for all."""
    now, part = judgements(seed)
    learn = LearnSettings(value_clip=0.3)
    other = attrs.evolve(
        part, target=unit * part.target, anchor=part.anchor._replace(value=unit * part.anchor.value)
    )
    close(
        told(now._replace(value=unit * now.value), other, learn, unit)[VALUE], told(now, part, learn)[VALUE]
    )
    each = torch.full((N,), unit, dtype=torch.float64)
    close(told(now, part, learn, each), told(now, part, learn, unit))


@pytest.mark.property
@many
@given(seeds, st.floats(0.01, 1.0))
def test_certainty_has_a_price_where_there_is_a_choice(seed: int, price: float) -> None:
    """The gradient is -price / n for the entropy of every head that was used, and 0 for others."""
    now, part = judgements(seed)
    loss, _ = losses(now, part, LEARN, 1.0, price)
    (gradient,) = torch.autograd.grad(loss, [now.entropy])
    count = int(part.used.any(dim=-1).sum().clamp(min=1))
    close(gradient, -price / count * part.used.double())


def test_a_ratio_that_has_run_away_stays_finite() -> None:
    now, part = judgements(0, share=1.0)
    far = now._replace(log_probability=part.anchor.log_probability + 500.0)
    loss, numbers = losses(far, part, LEARN, 1.0, 0.0)
    assert bool(loss.isfinite())
    assert numbers[DIVERGENCE].item() == pytest.approx(7 * (math.exp(20.0) - 21.0), rel=1e-9)
