"""The update: what a step does to a policy, at float64 where it is mathematics."""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper_core.model.categorical import entropy, log_probability, probabilities, sample
from esper_core.phases.update import Experience, Judged, experience, improve, losses
from esper_core.state.rollout import Rollout
from esper_core.state.settings import LearnSettings

torch.set_num_threads(1)

FLOOR = 0.01
OPS = 6
T, N = 5, 4


class Table(nn.Module):
    """A policy that sees nothing: logits of the operation and of the slot, and one value."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.op = nn.Parameter(torch.randn(OPS, generator=draw, dtype=dtype))
        self.slot = nn.Parameter(torch.randn(3, generator=draw, dtype=dtype))
        self.value = nn.Parameter(torch.zeros((), dtype=dtype))

    def heads(self, lead: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Probabilities and mask of the two heads that are used."""
        found = []
        for logits in (self.op, self.slot):
            wide = logits.expand(*lead, -1)
            mask = torch.ones(wide.shape, dtype=torch.bool)
            found.append((probabilities(wide, mask, FLOOR), mask))
        return found

    def judge(self, trace: Mapping[str, Tensor], heads: Tensor) -> Judged:
        lead = tuple(heads.shape[:2])
        said = [
            (log_probability(p, heads[..., k]), entropy(p, mask))
            for k, (p, mask) in enumerate(self.heads(lead))
        ]
        unused = self.op.new_zeros(*lead, len(USED) - len(said))
        log_p, h = (
            torch.cat([torch.stack(values, dim=-1), unused], dim=-1) for values in zip(*said, strict=True)
        )
        return Judged(log_p, h, self.value.expand(lead))


USED = torch.tensor([True, True, False, False, False, False, False])


def part_of(actor: Table, seed: int = 0, counted: Tensor | None = None) -> Experience:
    """Choices of the actor and advantages at random."""
    draw = np.random.default_rng(seed)
    heads = torch.from_numpy(
        np.stack([draw.integers(0, k, (T, N)) for k in (OPS, 3, 1, 1, 1, 1, 1)], axis=-1)
    )
    used = USED.expand(T, N, 7) if counted is None else USED & counted.unsqueeze(-1)
    with torch.no_grad():
        anchor = Judged(*(values.clone() for values in actor.judge({}, heads)))
    numbers = torch.from_numpy(draw.normal(size=(2, T, N)))
    return Experience(
        trace={}, heads=heads, used=used, anchor=anchor, advantage=numbers[0], target=numbers[1]
    )


def gradient(actor: Table, part: Experience, learn: LearnSettings, price: float = 0.0) -> dict[str, Tensor]:
    loss, _ = losses(actor.judge({}, part.heads), part, learn, 1.0, price)
    grads = torch.autograd.grad(loss, list(actor.parameters()))
    return dict(zip(("op", "slot", "value"), grads, strict=True))


@pytest.mark.property
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_at_the_anchor_the_gradient_is_that_of_the_policy_gradient(seed: int) -> None:
    """-1/n sum_t A_t sum_k grad ln p_k: the ratio is 1 there, and heads count alike, however often used."""
    actor = Table(seed)
    part = part_of(actor, seed)
    now = actor.judge({}, part.heads)
    simple = -(part.advantage.unsqueeze(-1) * now.log_probability * part.used).sum() / (T * N)
    expected = torch.autograd.grad(simple, [actor.op, actor.slot])
    found = gradient(actor, part, LearnSettings(value=0.0))
    for name, grad in zip(("op", "slot"), expected, strict=True):
        torch.testing.assert_close(found[name], grad, rtol=1e-12, atol=1e-12)
    _, told = losses(now, part, LearnSettings(), 1.0, 0.0)
    assert float(told[0]) == 0.0
    assert float(told[4]) == 0.0


@pytest.mark.property
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_steps_without_a_choice_change_nothing(seed: int) -> None:
    """Whatever their advantages and choices are, the loss of the policy and its gradient are the same."""
    actor = Table(seed)
    counted = torch.from_numpy(np.random.default_rng(seed).random((T, N)) < 0.5)
    part = part_of(actor, seed, counted)
    other = attrs.evolve(part, advantage=torch.where(counted, part.advantage, 1e6))
    learn = LearnSettings(value=0.0)
    one, two = (gradient(actor, p, learn, price=0.1) for p in (part, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("advantage", "push"), [(1.0, 1.0), (-1.0, -1.0)])
def test_beyond_the_clip_nothing_is_gained(advantage: float, push: float) -> None:
    """The gradient is exactly 0 where the ratio has left the trust region on the advantage's own side."""
    actor = Table()
    part = part_of(actor)
    part = attrs.evolve(part, advantage=torch.full((T, N), advantage, dtype=torch.float64))
    moved = attrs.evolve(
        part, anchor=part.anchor._replace(log_probability=part.anchor.log_probability - 0.3 * push)
    )
    assert not any(g.any() for g in gradient(actor, moved, LearnSettings(value=0.0)).values())
    back = attrs.evolve(
        part, anchor=part.anchor._replace(log_probability=part.anchor.log_probability + 0.3 * push)
    )
    assert gradient(actor, back, LearnSettings(value=0.0))["op"].any()


def test_the_value_is_measured_in_units_of_returns() -> None:
    actor = Table()
    part = part_of(actor)
    learn = LearnSettings()
    now = actor.judge({}, part.heads)
    one, two = (losses(now, part, learn, scale, 0.0)[1][2] for scale in (1.0, 2.0))
    assert float(one) == pytest.approx(float((part.target**2).mean() / 2))
    assert float(two) == pytest.approx(float(one) / 4)


def test_the_divergence_adds_up_over_heads() -> None:
    actor, other = Table(0), Table(1)
    part = part_of(actor)
    now = other.judge({}, part.heads)
    _, told = losses(now, part, LearnSettings(), 1.0, 0.0)
    ratio = (now.log_probability - part.anchor.log_probability)[..., :2]
    expected = (ratio.exp() - 1 - ratio).sum(dim=-1).mean()
    assert told[0].item() == pytest.approx(expected.item(), rel=1e-12)
    assert float(told[0]) > 0


def adam(actor: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(actor.parameters(), 1e-2)


def take(actor: Table, optimizer: torch.optim.Optimizer, part: Experience, **learn: Any) -> dict[str, float]:
    settings_ = LearnSettings(**{"lr": 0.05, "minibatches": 1, **learn})
    return improve(actor, optimizer, part, settings_, scale=1.0, keys=(0, 0), progress=0.0)


def test_passes_stop_before_the_step_that_would_go_too_far() -> None:
    actor = Table()
    part = part_of(actor)
    told = take(actor, adam(actor), part, passes=50, kl_limit=0.01)
    assert 1 <= told["steps"] < 50
    alone = Table()
    again = take(alone, adam(alone), part, passes=int(told["steps"]), kl_limit=1e9)
    assert again["steps"] == told["steps"]
    assert torch.equal(alone.op, actor.op)


def test_no_gradient_is_longer_than_its_limit() -> None:
    """With plain gradient descent at rate 1 a step is its gradient; what is told is its length before."""
    actor, before = Table(), Table()
    optimizer = torch.optim.SGD(actor.parameters(), 1.0)
    told = take(actor, optimizer, part_of(actor), lr=1.0, passes=1, max_norm=0.01)
    steps = [(p - b).reshape(-1) for p, b in zip(actor.parameters(), before.parameters(), strict=True)]
    assert torch.cat(steps).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert told["gradient_norm"] > 0.02


@pytest.mark.parametrize("where", ["advantage", "target"])
def test_what_is_not_finite_changes_nothing(where: str) -> None:
    """Parameters and the optimizer's state stay bit for bit."""
    actor = Table()
    optimizer = adam(actor)
    part = part_of(actor)
    take(actor, optimizer, part)
    before = [p.detach().clone() for p in actor.parameters()]
    moments = {k: {n: t.clone() for n, t in s.items()} for k, s in optimizer.state_dict()["state"].items()}
    broken = getattr(part, where).clone()
    broken[0, 0] = torch.nan
    told = take(actor, optimizer, attrs.evolve(part, **{where: broken}))
    assert told["steps"] == 0
    assert told["skipped"] == LearnSettings().passes
    assert all(torch.equal(p, b) for p, b in zip(actor.parameters(), before, strict=True))
    for key, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(tensor, moments[key][name]) for name, tensor in state.items())


def test_an_update_is_a_function_of_its_keys() -> None:
    one, same, other = Table(), Table(), Table()
    part = part_of(one)
    for actor, root in ((one, 0), (same, 0), (other, 1)):
        improve(
            actor,
            adam(actor),
            part,
            LearnSettings(minibatches=3, lr=0.05),
            scale=1.0,
            keys=(root, 0),
            progress=0.0,
        )
    assert torch.equal(one.op, same.op)
    assert not torch.equal(one.op, other.op)


def test_rate_and_price_of_certainty_fall_linearly() -> None:
    actor = Table()
    optimizer = adam(actor)
    part = part_of(actor)
    learn = LearnSettings(lr=0.1, lr_end=0.5)
    improve(actor, optimizer, part, learn, scale=1.0, keys=(0, 0), progress=0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.075)


def played(actor: Table, favoured: int, uniforms: Any) -> Rollout:
    """One round in which one operation is paid and no other."""
    rollout = Rollout.empty(T, N)
    lead = (T, N)
    with torch.no_grad():
        for k, (p, _) in enumerate(actor.heads(lead)):
            rollout.heads[..., k] = sample(p, torch.from_numpy(uniforms[..., k])).numpy()
    rollout.reward[:] = (rollout.heads[..., 0] == favoured).astype(float)
    rollout.terminated[-1] = True
    return rollout


@pytest.mark.parametrize(("favoured", "updates"), [(0, 200), (1, 200), (2, 50), (3, 50), (4, 50), (5, 50)])
def test_entropy_never_collapses(favoured: int, updates: int) -> None:
    """After many updates for one operation every other one still has a chance, and gradients.

    Of the loss, and of its own log-probability: a floor that replaces small probabilities has none there.
    """
    actor = Table(dtype=torch.float32)
    optimizer = adam(actor)
    learn = LearnSettings(lr=0.1, lr_end=1.0, passes=2, minibatches=1)
    draw = np.random.default_rng(0)
    for number in range(updates):
        rollout = played(actor, favoured, draw.random((T, N, 7)))
        part = experience(actor, rollout, USED.expand(T, N, 7), learn)
        improve(actor, optimizer, part, learn, scale=1.0, keys=(0, number), progress=0.0)
    chances = actor.heads((1, 1))[0][0][0, 0]
    assert chances.argmax() == favoured
    assert chances[favoured] > 0.8
    assert float(chances.detach().min()) >= FLOOR * (1 - 1e-6)
    rollout = played(actor, favoured, draw.random((T, N, 7)))
    part = experience(actor, rollout, USED.expand(T, N, 7), learn)
    loss, _ = losses(actor.judge({}, part.heads), part, learn, 1.0, learn.entropy)
    (grad,) = torch.autograd.grad(loss, [actor.op])
    assert (grad != 0).all()
    for op in range(OPS):
        (own,) = torch.autograd.grad(actor.heads(())[0][0][op].log(), [actor.op])
        assert own[op] > 0


def test_advantages_come_from_the_anchor_and_respect_ends() -> None:
    """By hand: gamma 1, lambda 1, values 0: an advantage is the sum of rewards up to the next end."""
    actor = Table()
    rollout = Rollout.empty(4, 1)
    rollout.reward[:, 0] = [1.0, 2.0, 4.0, 8.0]
    rollout.terminated[:, 0] = [False, True, False, True]
    part = experience(actor, rollout, USED.expand(4, 1, 7), LearnSettings(trace=1.0))
    assert part.target[:, 0].tolist() == [3.0, 2.0, 12.0, 8.0]
    raw = torch.tensor([3.0, 2.0, 12.0, 8.0], dtype=torch.float64)
    expected = (raw - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(part.advantage[:, 0], expected)
