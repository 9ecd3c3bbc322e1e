"""Update: proximal policy optimisation (Schulman et al. 2017) over whole episodes of some environments.

With p the probability of what was chosen, k the heads that the operation uses, and n the steps at which
there was a choice, all under one denominator, so that a head that is rarely used is not weighed up:

    ratio_k = p_k / p_k of the anchor
    policy  = -1/n sum_t sum_k min(ratio_k A, clip(ratio_k, 1 - c, 1 + c) A)
    value   =  1/2 mean_t ((V - target) / scale)^2
    entropy =  1/n sum_t sum_k H_k,   each in [0, 1]
    loss    = policy + c_v value - c_e entropy

The anchor is the policy that played, evaluated once more before the first step: a recurrent network that is
stepped and one that is run over a sequence differ in float32. Passes stop before the step at which the
divergence from the anchor, mean_t sum_k (ratio_k - 1 - ln ratio_k), would exceed its limit.

Role: the last phase of a round; tensors in place, numbers out, read once at the end.
Neighbours: `phases.advantage` before it; a policy brings an `Actor`, settings come from `state.settings`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from esper_core.phases.advantage import gae, normalise
from esper_core.rules.randomness import Purpose, permutations
from esper_core.state.arrays import Ints
from esper_core.state.rollout import Rollout
from esper_core.state.settings import LearnSettings

LARGEST_LOG_RATIO = 20.0
"""A choice that is e^20 times as probable as it was has long been clipped; the exponential stays finite."""


class Judged(NamedTuple):
    """What an actor says of choices that were made.

    Attributes:
        log_probability: `[T, N, 7]` of every head's choice; 0 where the head was not used.
        entropy: `[T, N, 7]` in [0, 1]; 0 where the head was not used.
        value: `[T, N]` expected return from here on.
    """

    log_probability: Tensor
    entropy: Tensor
    value: Tensor


class Actor(Protocol):
    """A policy that can be differentiated."""

    def judge(self, trace: Mapping[str, Tensor], heads: Tensor) -> Judged:
        """Say how probable choices were.

        Args:
            trace: `[T, N, ...]` by name, what the policy noted when it chose.
            heads: `[T, N, 7]` what it chose.
        """
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is learned."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class Experience:
    """A rollout as tensors, with what follows from it.

    Attributes:
        trace: `[T, N, ...]` by name.
        heads: `[T, N, 7]`.
        used: `[T, N, 7]` the head had more than one choice.
        anchor: of the policy that played.
        advantage: `[T, N]`, normalised over steps with a choice.
        target: `[T, N]` of the values.
    """

    trace: Mapping[str, Tensor]
    heads: Tensor
    used: Tensor
    anchor: Judged
    advantage: Tensor
    target: Tensor

    def of(self, envs: Tensor) -> "Experience":
        """The part of some environments."""
        return Experience(
            trace={name: values[:, envs] for name, values in self.trace.items()},
            heads=self.heads[:, envs],
            used=self.used[:, envs],
            anchor=Judged(*(values[:, envs] for values in self.anchor)),
            advantage=self.advantage[:, envs],
            target=self.target[:, envs],
        )


@torch.no_grad()
def experience(actor: Actor, rollout: Rollout, used: Tensor, learn: LearnSettings) -> Experience:
    """Evaluate the anchor, and estimate advantages.

    Args:
        actor: that played.
        rollout: what it did and was paid.
        used: `[T, N, 7]` the head had more than one choice.
        learn: gives gamma and lambda.
    """
    trace = {name: torch.from_numpy(values) for name, values in rollout.trace.items()}
    heads = torch.from_numpy(rollout.heads)
    # what an actor says may be a view of what is about to be learned
    anchor = Judged(*(values.clone() for values in actor.judge(trace, heads)))
    value = anchor.value.to(torch.float64)
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    terminated = torch.from_numpy(rollout.terminated)
    advantage, target = gae(
        torch.from_numpy(rollout.reward),
        value,
        following,
        terminated,
        torch.zeros_like(terminated),
        learn.gamma,
        learn.trace,
    )
    counted = used.any(dim=-1)
    dtype = anchor.value.dtype
    return Experience(
        trace=trace,
        heads=heads,
        used=used,
        anchor=anchor,
        advantage=normalise(advantage, counted).to(dtype),
        target=target.to(dtype),
    )


def improve(
    actor: Actor,
    optimizer: torch.optim.Optimizer,
    played: Experience,
    learn: LearnSettings,
    *,
    scale: float,
    keys: tuple[int, int],
    progress: float,
) -> dict[str, float]:
    """Take the steps of a round.

    Args:
        actor: changed in place.
        optimizer: of its parameters; its learning rate is set.
        played: what it learns from.
        learn: how.
        scale: unit of returns that the value's error is measured in.
        keys: root seed and round, which key the order of environments.
        progress: from 0 in the run's first round to 1 in its last.

    Returns:
        Numbers about the round: losses, entropy, divergence, share of clipped choices, gradient norm, steps
        taken, steps left out because something was not finite, and the share of the targets' variance that
        the values explained.
    """
    for group in optimizer.param_groups:
        group["lr"] = learn.lr * _left(learn.lr_end, progress)
    price = learn.entropy * _left(learn.entropy_end, progress)
    told: list[Tensor] = []
    skipped, diverged = 0, False
    for envs in _minibatches(played.heads.shape[1], learn, keys):
        part = played.of(envs)
        loss, numbers = losses(actor.judge(part.trace, part.heads), part, learn, scale, price)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(actor.parameters()), learn.max_norm)
        # one read decides: a step on what is not finite would lose the policy for good
        divergence, *finite = torch.stack([numbers[0], loss.detach(), norm]).tolist()
        if not np.isfinite([divergence, *finite]).all():
            skipped += 1
            continue
        told.append(torch.cat([numbers, norm.detach().reshape(1)]))
        diverged = divergence > learn.kl_limit
        if diverged:
            break
        optimizer.step()
    names = ("divergence", "policy_loss", "value_loss", "entropy", "clipped", "gradient_norm")
    means = torch.stack(told).mean(dim=0).tolist() if told else [float("nan")] * len(names)
    return {
        **dict(zip(names, means, strict=True)),
        "explained": _explained(played),
        "steps": float(len(told) - diverged),
        "skipped": float(skipped),
    }


def losses(
    now: Judged, part: Experience, learn: LearnSettings, scale: float, price: float
) -> tuple[Tensor, Tensor]:
    """The loss, and what is told about it.

    Args:
        now: the choices as the actor judges them now.
        part: what they were, and what came of them.
        learn: clip and weights.
        scale: unit of returns.
        price: of certainty, c_e.

    Returns:
        The loss, and `[5]`: divergence, policy loss, value loss, entropy, share of clipped choices.
    """
    count = part.used.any(dim=-1).sum().clamp(min=1)
    log_ratio = (now.log_probability - part.anchor.log_probability).clamp(
        -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO
    )
    ratio = log_ratio.exp()
    advantage = part.advantage.unsqueeze(-1)
    gained = torch.minimum(ratio * advantage, ratio.clamp(1.0 - learn.clip, 1.0 + learn.clip) * advantage)
    policy = -gained.masked_fill(~part.used, 0.0).sum() / count
    value = ((now.value - part.target) / scale).square().mean() / 2.0
    entropy = now.entropy.masked_fill(~part.used, 0.0).sum() / count
    loss = policy + learn.value * value - price * entropy
    with torch.no_grad():
        divergence = (ratio - 1.0 - log_ratio).masked_fill(~part.used, 0.0).sum() / count
        clipped = ((ratio - 1.0).abs() > learn.clip) & part.used
        share = clipped.sum() / part.used.sum().clamp(min=1)
    return loss, torch.stack([divergence, *(t.detach() for t in (policy, value, entropy)), share])


def _minibatches(envs: int, learn: LearnSettings, keys: tuple[int, int]) -> Iterator[Tensor]:
    """Environments of every step: each pass takes all of them, in an order of its own."""
    root, round_index = keys
    for number in range(learn.passes):
        order: Ints = permutations(envs, root, Purpose.MINIBATCHES, round_index, number)
        for piece in np.array_split(order, min(envs, learn.minibatches)):
            yield torch.from_numpy(np.sort(piece))


def _left(end: float, progress: float) -> float:
    """Linear from 1 to `end`."""
    return 1.0 + (end - 1.0) * progress


def _explained(played: Experience) -> float:
    """1 - Var(target - value) / Var(target); NaN where all targets are equal."""
    variance = played.target.var(correction=0)
    left = (played.target - played.anchor.value).var(correction=0)
    return float(torch.where(variance > 0, 1.0 - left / variance, torch.nan))
