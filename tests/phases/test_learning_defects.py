"""What the predecessor learned wrongly: each check here holds for Esper, and fails for what it did."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import USED, Table, Told, adam, judgements, part_of, take
from torch import Tensor

from esper_core.model.categorical import entropy, log_probability, probabilities
from esper_core.phases.advantage import gae
from esper_core.phases.update import Experience, Judged, experience, losses
from esper_core.runner.config import catalogue_for, flatten, load
from esper_core.runner.config.records import Config
from esper_core.runner.setup import assemble
from esper_core.state.actions import HEADS, Decision
from esper_core.state.learner import Moments
from esper_core.state.rollout import Rollout
from esper_core.state.settings import LearnSettings
from esper_core.state.signals import HostSignals
from esper_plugins.policies import pointer
from esper_plugins.policies.lstm import LstmPolicy

torch.set_num_threads(1)

many = settings(max_examples=200, deadline=None)
LEARN = LearnSettings()
DIVERGENCE, POLICY, VALUE, ENTROPY = range(4)


def fails(check: Callable[..., None], *arguments: Any) -> None:
    """The same check, on what the predecessor did."""
    with pytest.raises(AssertionError):
        check(*arguments)


# ---------------------------------------------------------------------------------------------- distributions


def replaced_floor(logits: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Probabilities below the floor become the floor, and the others are scaled once to fill what is left."""
    p = logits.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    low = mask & (p < floor)
    rest = 1.0 - floor * low.sum(dim=-1, keepdim=True)
    scaled = p * rest / p.masked_fill(low, 0.0).sum(dim=-1, keepdim=True)
    return torch.where(low, torch.full_like(p, floor), scaled)


def check_gradients(floored: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """K5: where one of four entries dominates, each log-probability and the entropy have a gradient."""
    mask = torch.ones(4, dtype=torch.bool)
    for action in (0, 1, 2, 3, None):
        logits = torch.tensor([6.0, 0.0, -1.0, 0.5], dtype=torch.float64).requires_grad_()
        p = floored(logits, mask, 0.15)
        value = entropy(p, mask) if action is None else log_probability(p, torch.tensor(action))
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.abs().max() > 1e-6


def check_least(floored: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """K3: no entry has less than the floor."""
    p = floored(torch.tensor([0.05, 0.16, 0.79]).log(), torch.ones(3, dtype=torch.bool), 0.15)
    assert float(p.min()) >= 0.15 - 1e-7


@pytest.mark.defect("B4")
def test_a_floor_leaves_gradients_and_is_one() -> None:
    """A floor that replaces small probabilities has no gradient at all once one action dominates."""
    for check in (check_gradients, check_least):
        check(probabilities)
        fails(check, replaced_floor)


# ---------------------------------------------------------------------------------------------------- entropy


def rarely(share: float) -> tuple[Judged, Experience]:
    """A uniform operation in every step, and a uniform blueprint in a share of them."""
    now, part = judgements(0, steps=100, envs=1, apart=0.0, share=1.0)
    used = torch.zeros_like(part.used)
    used[..., 0] = True
    used[: int(100 * share), :, 2] = True
    return now._replace(entropy=used.double()), attrs.evolve(part, used=used)


def what_is_missing(now: Judged, part: Experience) -> float:
    """Entropy that choices could still gain, of all that have a choice."""
    most = part.used.sum() / part.used.any(dim=-1).sum()
    return float(most - losses(now, part, LEARN, 1.0, 0.0)[1][ENTROPY])


def floor_over_what_was_offered(now: Judged, part: Experience) -> float:
    """0.3 (0.20 - mean)^2 below 0.20, with the mean over all steps in which the head could have been used."""
    mean = float(now.entropy[..., 2].mean())
    return 0.3 * max(0.0, 0.20 - mean) ** 2


def check_satisfied(penalty: Callable[[Judged, Experience], float]) -> None:
    """Where all that have a choice are uniform, nothing is left to ask for."""
    for share in (0.1, 0.5, 1.0):
        assert penalty(*rarely(share)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.defect("B5")
def test_entropy_is_asked_of_those_that_can_have_it() -> None:
    """A floor over every step in which a head might have been used can never be reached."""
    check_satisfied(what_is_missing)
    fails(check_satisfied, floor_over_what_was_offered)


# ------------------------------------------------------------------------------------------------------- ends


def recorded(verdicts: Sequence[int], rewards: Sequence[float] | None = None) -> Rollout:
    """An episode of one environment, as the loop records it; all values are 0."""
    rollout = Rollout.empty(len(verdicts), 1)
    nothing = np.zeros(1, np.int64)
    for t, verdict in enumerate(verdicts):
        decision = Decision(**dict.fromkeys(HEADS, nothing))
        paid = np.asarray([rewards[t] if rewards is not None else float(t == len(verdicts) - 1)])
        rollout.record(
            t,
            decision,
            {"value": np.zeros(1)},
            nothing,
            paid,
            HostSignals.unknown(1),
            np.asarray([verdict]),
        )
    return rollout


def learned(rollout: Rollout, after: Tensor | None = None, **learn: Any) -> Experience:
    used = USED.expand(*rollout.reward.shape, 7)
    settings_ = LearnSettings(**{"gamma": 0.995, "trace": 1.0, **learn})
    return experience(Told(), rollout, used, settings_, after)


def fitted(value: float) -> float:
    """What the value of the last state should be, if it is `value` now and 1 is paid there."""
    return float(learned(recorded([0, 0, 0])).target[-1]) + 0.0 * value


def fitted_to_itself(value: float) -> float:
    """The last step as a truncation, whose next state has the same time and nearly the same features."""
    rollout = recorded([0, 0, 0])
    rollout.terminated[-1], rollout.truncated[-1] = False, True
    return float(learned(rollout, torch.full((3, 1), value, dtype=torch.float64)).target[-1])


def check_stays(fit: Callable[[float], float]) -> None:
    """After a hundred perfect fits the last state is worth what is paid there."""
    value = 0.0
    for _ in range(100):
        value = fit(value)
    assert value == pytest.approx(1.0)


@pytest.mark.defect("B9")
def test_the_end_of_an_episode_is_worth_what_it_pays() -> None:
    """A bootstrap from a state that looks the same lets the value grow without end."""
    check_stays(fitted)
    fails(check_stays, fitted_to_itself)


def forgetful(verdicts: Sequence[int], rewards: Sequence[float]) -> Rollout:
    """The flag of a rollback is cleared by the next healthy epoch, and read after the last one."""
    last = [0] * (len(verdicts) - 1) + [verdicts[-1]]
    return recorded(last, rewards)


def check_closed(record: Callable[[Sequence[int], Sequence[float]], Rollout], at: int) -> None:
    """B2': what is paid behind a rollback changes nothing before it; it is a termination, and counted."""
    verdicts = [int(t == at) for t in range(6)]
    one, other = (record(verdicts, [1.0] * (at + 1) + [later] * (5 - at)) for later in (0.0, 9.0))
    assert one.terminated[at, 0]
    assert int((one.verdict > 0).sum()) == 1
    assert torch.equal(learned(one).target[: at + 1], learned(other).target[: at + 1])
    assert float(learned(one, gamma=1.0).target[0]) == at + 1.0


@pytest.mark.acceptance("RL-01", "X-01")
@pytest.mark.defect("B10")
@pytest.mark.parametrize("at", range(5))
def test_a_rollback_closes_its_segment_at_its_step(at: int) -> None:
    """A rollback before the last epoch was neither an end nor penalised."""
    check_closed(recorded, at)
    fails(check_closed, forgetful, at)


def gae_by_position(
    r: Tensor, v: Tensor, after: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, lam: float
) -> Tensor:
    """A truncation bootstraps in the last row alone; elsewhere the next row's value and advantage follow."""
    later = torch.zeros_like(r[0])
    rows = []
    for t in reversed(range(len(r))):
        last = t == len(r) - 1
        following = torch.where(truncated[t], after[t], 0.0) if last else v[t + 1]
        goes_on = 1.0 - (terminated[t] & ~truncated[t]).to(r.dtype)
        goes_on = torch.ones_like(goes_on) if last else goes_on
        later = r[t] + gamma * following * goes_on - v[t] + gamma * lam * goes_on * later
        rows.append(later)
    return torch.stack(rows[::-1])


def check_cut(estimate: Callable[..., Any]) -> None:
    """By hand: 1 is paid, the episode is cut, and the state behind it is worth 7: 1 + 0.9 * 7."""
    r, v, after = (torch.tensor(x, dtype=torch.float64)[:, None] for x in ([1, 5, 5], [0, 3, 3], [7, 0, 0]))
    cut, over = torch.tensor([[True], [False], [False]]), torch.tensor([[False], [False], [True]])
    got = estimate(r, v, after, over, cut, 0.9, 0.8)
    advantage = got[0] if isinstance(got, tuple) else got
    assert float(advantage[0]) == pytest.approx(7.3)


@pytest.mark.acceptance("RL-04")
@pytest.mark.defect("B11")
def test_a_truncation_in_the_middle_bootstraps_and_nothing_leaks() -> None:
    """The old rule ignored the bootstrap, and took value and advantage of the next episode instead."""
    check_cut(gae)
    fails(check_cut, gae_by_position)


# --------------------------------------------------------------------------------------------------- the loss


def check_ratios_move(learn: LearnSettings) -> None:
    """Within a round the policy leaves its anchor, so that clip and limit have something to do."""
    for limit, stops in ((1e9, False), (1e-4, True)):
        actor = Table()
        chosen = {"passes": learn.passes, "minibatches": learn.minibatches, "lr": 0.2, "kl_limit": limit}
        told = take(actor, adam(actor), part_of(actor), **chosen)
        assert told["divergence"] > 0
        assert (told["steps"] < learn.passes * learn.minibatches) == stops
    assert told["clipped"] > 0


@pytest.mark.defect("B12")
def test_by_default_a_round_is_more_than_one_step_from_its_anchor() -> None:
    """One pass against a new anchor has ratio 1 throughout: clip and limit have nothing to do."""
    check_ratios_move(LearnSettings())
    fails(check_ratios_move, LearnSettings(passes=1, minibatches=1))


def summed(now: Judged, part: Experience) -> float:
    return float(losses(now, part, LEARN, 1.0, 0.0)[1][DIVERGENCE])


@torch.no_grad()
def averaged_over_heads(now: Judged, part: Experience) -> float:
    """Means of heads over their own steps, weighed by their use, over the sum of the weights."""
    x = now.log_probability - part.anchor.log_probability
    count = part.used.sum(dim=(0, 1))
    kl = (x.exp() - 1 - x).masked_fill(~part.used, 0.0).sum(dim=(0, 1)) / count.clamp(min=1)
    return float((count * kl).sum() / count.sum())


def check_joint(divergence: Callable[[Judged, Experience], float]) -> None:
    """U5: heads that are drawn apart diverge as their joint distribution does: by the sum."""
    now, part = judgements(1, share=1.0)
    alone = []
    for k in range(7):
        only = attrs.evolve(part, used=part.used & (torch.arange(7) == k))
        alone.append(divergence(now, only))
    assert divergence(now, part) == pytest.approx(sum(alone), rel=1e-9)


@pytest.mark.defect("B13")
def test_the_divergence_is_that_of_the_whole_decision() -> None:
    """An average over heads reports less the more heads there are."""
    check_joint(summed)
    fails(check_joint, averaged_over_heads)


def one_count(now: Judged, part: Experience) -> Tensor:
    return losses(now, part, LearnSettings(value=0.0), 1.0, 0.0)[0]


def own_counts(now: Judged, part: Experience) -> Tensor:
    """Every head is averaged over the steps that it was used in."""
    ratio = (now.log_probability - part.anchor.log_probability).exp()
    gained = (ratio * part.advantage.unsqueeze(-1)).masked_fill(~part.used, 0.0)
    return -(gained.sum(dim=(0, 1)) / part.used.sum(dim=(0, 1)).clamp(min=1)).sum()


def check_weights(loss: Callable[[Judged, Experience], Tensor]) -> None:
    """U7: a choice of a rare head moves its logarithm as far as one of a common head."""
    now, part = judgements(2, steps=100, envs=1, apart=0.0, share=1.0)
    used = part.used.clone()
    used[10:, :, 2] = False
    (gradient,) = torch.autograd.grad(loss(now, attrs.evolve(part, used=used)), [now.log_probability])
    push = (gradient / part.advantage.unsqueeze(-1))[used]
    assert float(push.max() - push.min()) < 1e-9


@pytest.mark.defect("B14")
def test_a_rare_head_does_not_weigh_more() -> None:
    """A head that was used in a tenth of the steps had ten times the weight in each."""
    check_weights(one_count)
    fails(check_weights, own_counts)


def value_loss(now: Judged, part: Experience) -> float:
    return float(losses(now, part, LEARN, 1.0, 0.0)[1][VALUE])


@torch.no_grad()
def unmasked(now: Judged, part: Experience) -> float:
    """An auxiliary loss over all rows of the buffer."""
    return float((now.value - part.target).square().mean())


def check_blind(loss: Callable[[Judged, Experience], float]) -> None:
    """B1': rows that were not played may hold anything."""
    now, part = judgements(3, share=0.5)
    stale = attrs.evolve(part, target=part.target.masked_fill(~part.played, 1e3))
    assert loss(now, part) == loss(now, stale)


@pytest.mark.defect("B21")
def test_no_loss_reads_rows_that_were_not_played() -> None:
    """Rows of earlier rollouts leaked into an auxiliary loss after short episodes."""
    check_blind(value_loss)
    fails(check_blind, unmasked)


# ----------------------------------------------------------------------------------------------------- scales


def as_paid(rewards: Sequence[float]) -> list[float]:
    """What every step adds to the return that is learned from."""
    target = learned(recorded([0] * len(rewards), rewards), gamma=1.0).target[:, 0].tolist()
    return [one - other for one, other in zip(target, [*target[1:], 0.0], strict=True)]


def scaled_as_they_come(rewards: Sequence[float]) -> list[float]:
    """Divided by the deviation of the rewards so far, within 10; the first as it is."""
    paid, seen = [], []
    for reward in rewards:
        seen.append(reward)
        std = float(np.std(seen, ddof=1)) if len(seen) > 1 else 1.0
        paid.append(float(np.clip(reward / max(1e-8, std), -10, 10)))
    return paid


def check_cancels(pay: Callable[[Sequence[float]], list[float]]) -> None:
    """What is paid and taken back is worth nothing; what is paid alike is worth the same."""
    assert sum(pay([0.5, 0.25, -0.5, 0.75, -1.0])) == pytest.approx(0.0, abs=1e-12)
    assert pay([1.0, 1.0, 1.0, 2.0]) == pytest.approx([1.0, 1.0, 1.0, 2.0])


@pytest.mark.defect("B18")
def test_the_unit_of_rewards_stays_as_it_is_within_an_episode() -> None:
    """A running scale breaks every cancellation, and early rewards that are alike saturate at 10."""
    check_cancels(as_paid)
    assert scaled_as_they_come([1.0, 1.0, 1.0, 2.0]) == pytest.approx([1.0, 10.0, 10.0, 4.0])
    fails(check_cancels, scaled_as_they_come)


def check_neutral(gamma: float, of_potentials: float) -> None:
    """G10: a potential that is 0 at the end changes no advantage."""
    draw = torch.Generator().manual_seed(0)
    r, v, after, phi, next_phi = torch.randn(5, 6, 2, generator=draw, dtype=torch.float64)
    over = torch.zeros(6, 2, dtype=torch.bool)
    over[-1] = True
    next_phi = next_phi.masked_fill(over, 0.0)
    plain, _ = gae(r, v, after, over, over & False, gamma, 0.95)
    shaped = r + of_potentials * next_phi - phi
    got, _ = gae(shaped, v - phi, after - next_phi, over, over & False, gamma, 0.95)
    torch.testing.assert_close(got, plain, rtol=1e-9, atol=1e-9)


def settings_of(*sets: str) -> Config:
    """Of `spirals`, with a policy that learns."""
    return load("spirals", sets=sets, flags={"policy": "lstm"}, catalogue=catalogue_for("spirals"))


@pytest.mark.defect("B19")
def test_there_is_one_gamma() -> None:
    """P10: rewards are paid with the discount that the policy learns with; nobody else has one."""
    config = settings_of("learn.gamma=0.9")
    assert [keys for keys, _ in flatten(config) if keys[-1] in ("gamma", "discount")] == [("learn", "gamma")]
    cast = assemble(config, catalogue_for("spirals")).cast
    assert isinstance(cast.policy, LstmPolicy)
    assert cast.gamma is cast.policy._context.learn.gamma is config.learn.gamma
    assert cast.gamma == 0.9
    check_neutral(cast.policy._context.learn.gamma, cast.gamma)
    fails(check_neutral, 0.995, 0.99)


def merged(batch: np.ndarray[Any, Any]) -> Callable[[Any], Any]:
    moments = Moments.none(1).merge(batch)
    return lambda x: moments.normalise(x, 10.0)


def averaged(batch: np.ndarray[Any, Any]) -> Callable[[Any], Any]:
    """An exponential average with memory 0.99 that begins with mean 0 and variance 1."""
    mean, apart = 0.01 * batch.mean(), batch.mean()
    std = math.sqrt(0.99 + 0.01 * batch.var() + 0.99 * 0.01 * apart**2)
    return lambda x: np.clip((x - mean) / std, -10.0, 10.0)


def check_first_batch(take_in: Callable[[Any], Callable[[Any], Any]]) -> None:
    """N4: after one rollout, what was seen in it has mean 0 and deviation 1."""
    batch = np.random.default_rng(0).normal(200.0, 3.0, (500, 1))
    got = take_in(batch)(batch)
    assert abs(got.mean()) < 1e-9
    assert got.std() == pytest.approx(1.0)


def check_values_stay(rescale: Callable[[pointer.PointerNet, Tensor, Tensor], None]) -> None:
    """N7: another unit of returns changes no value."""
    policy = assemble(settings_of(), catalogue_for("spirals")).cast.policy
    assert isinstance(policy, LstmPolicy)
    network = policy._network
    summary = torch.randn(3, 1, network.op.in_features, generator=torch.Generator().manual_seed(0))
    codes, group = pointer.Codes(summary, summary), torch.zeros(3, 1, dtype=torch.int64)
    with torch.no_grad():
        before = network.values(codes, group)
        rescale(network, torch.tensor([0.3]), torch.tensor([7.0]))
        torch.testing.assert_close(network.values(codes, group), before, rtol=1e-4, atol=1e-5)


def change_the_scale_alone(network: pointer.PointerNet, mean: Tensor, std: Tensor) -> None:
    network.value_std.copy_(std)


@pytest.mark.defect("B22")
def test_normalisers_know_what_was_seen_and_new_units_change_no_value() -> None:
    """An average from (0, 1) had come 63 % of the way after 100 rollouts; values jumped with their unit."""
    check_first_batch(merged)
    fails(check_first_batch, averaged)
    check_values_stay(pointer.PointerNet.rescale)
    fails(check_values_stay, change_the_scale_alone)


@pytest.mark.property
@many
@given(st.integers(0, 10**6), st.floats(0.5, 0.995))
def test_with_one_gamma_every_potential_is_neutral(seed: int, gamma: float) -> None:
    """P10: whatever gamma is, as long as it is the same."""
    check_neutral(gamma, gamma)
