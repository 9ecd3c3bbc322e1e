"""Update: proximal policy optimisation (Schulman et al. 2017) over whole episodes of some environments.

With p the probability of what was chosen, k the heads that the operation uses, and n the steps at which
there was a choice, all under one denominator, so that a head that is rarely used is not weighed up:

    ratio_k = p_k / p_k of the anchor
    policy  = -1/n sum_t sum_k min(ratio_k A, clip(ratio_k, 1 - c, 1 + c) A)
    value   =  1/2 mean_t max((V - target)^2, (V_c - target)^2) / scale^2
    entropy =  1/n sum_t sum_k H_k,   each in [0, 1]
    loss    = policy + c_v value - c_e entropy

The anchor is the policy that played, evaluated once more before the first step: a recurrent network that is
stepped and one that is run over a sequence differ in float32. V_c is V, moved from the anchor's value by at
most the clip of values. Passes stop before the step at which the divergence from the anchor,
mean_t sum_k (ratio_k - 1 - ln ratio_k), would exceed its limit.

Whether a step is taken is decided where the tensors are: it is computed and, if it is not wanted, undone by
a selection. So nothing is read before the end, at the price of computing steps that are not taken.

Role: the last phase of a round; tensors in place, numbers out, read once at the end.
Neighbours: `phases.advantage` before it; a policy brings an `Actor`, settings come from `state.settings`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from esper_core.phases.advantage import gae, normalise
from esper_core.rules.randomness import Purpose, permutations
from esper_core.state.arrays import Floats, Ints
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
        played: `[T, N]` the step was taken; what the others have counts nowhere.
        used: `[T, N, 7]` the head had more than one choice, in a step that was taken.
        anchor: of the policy that played.
        advantage: `[T, N]`, normalised over the steps with a choice of each group.
        target: `[T, N]` of the values.
    """

    trace: Mapping[str, Tensor]
    heads: Tensor
    played: Tensor
    used: Tensor
    anchor: Judged
    advantage: Tensor
    target: Tensor

    def of(self, envs: Tensor) -> "Experience":
        """The part of some environments."""
        return Experience(
            trace={name: values[:, envs] for name, values in self.trace.items()},
            heads=self.heads[:, envs],
            played=self.played[:, envs],
            used=self.used[:, envs],
            anchor=Judged(*(values[:, envs] for values in self.anchor)),
            advantage=self.advantage[:, envs],
            target=self.target[:, envs],
        )


def experience(
    actor: Actor, rollout: Rollout, used: Tensor, learn: LearnSettings, after: Tensor | None = None
) -> Experience:
    """Evaluate the anchor, and estimate advantages.

    Args:
        actor: that played.
        rollout: what it did and was paid.
        used: `[T, N, 7]` the head had more than one choice.
        learn: gives gamma and lambda.
        after: `[T, N]` value of the state that a truncated step led to, judged with the memory that the actor
            carried there; read where a segment was truncated. Absent where none was.

    Raises:
        ValueError: a segment has no end, or was truncated and `after` is absent or has another shape.
    """
    with torch.no_grad():
        _expect_ends(rollout, after)
        trace = {name: torch.from_numpy(values) for name, values in rollout.trace.items()}
        heads = torch.from_numpy(rollout.heads)
        played, terminated, truncated = (
            torch.from_numpy(flags) for flags in (rollout.played, rollout.terminated, rollout.truncated)
        )
        # what an actor says may be a view of what is about to be learned
        anchor = Judged(*(values.clone() for values in actor.judge(trace, heads)))
        value = anchor.value.to(torch.float64)
        following = torch.cat([value[1:], torch.zeros_like(value[:1])])
        if after is not None:
            following = torch.where(truncated, after.to(following.dtype), following)
        reward = torch.from_numpy(rollout.reward)
        advantage, target = gae(reward, value, following, terminated, truncated, learn.gamma, learn.trace)
        used = used & played.unsqueeze(-1)
        group = torch.from_numpy(rollout.group)
        advantage = normalise(advantage, used.any(dim=-1), group, 1 + int(rollout.group.max()))
        dtype = anchor.value.dtype
        return Experience(
            trace=trace,
            heads=heads,
            played=played,
            used=used,
            anchor=anchor,
            advantage=advantage.to(dtype),
            target=torch.where(played, target, value).to(dtype),
        )


def improve(
    actor: Actor,
    optimizer: torch.optim.Optimizer,
    played: Experience,
    learn: LearnSettings,
    *,
    scale: float | Tensor,
    keys: tuple[int, int],
    progress: float,
) -> dict[str, float]:
    """Take the steps of a round.

    Args:
        actor: changed in place.
        optimizer: of its parameters; its learning rate is set. What it remembers must be tensors that begin
            at 0, as those of Adam and of gradient descent do, and lie where the parameters are.
        played: what it learns from.
        learn: how.
        scale: unit of returns that the value's error is measured in; one for all or `[N]`.
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
    parameters = list(actor.parameters())
    unborn = [p for p in parameters if p not in optimizer.state]
    envs = played.heads.shape[1]
    scale = torch.as_tensor(scale, dtype=played.target.dtype, device=played.target.device).expand(envs)
    going = torch.ones((), dtype=torch.bool, device=played.target.device)
    told = []
    for some in _minibatches(envs, learn, keys):
        part = played.of(some)
        loss, numbers = losses(actor.judge(part.trace, part.heads), part, learn, scale[some], price)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, learn.max_norm)
        # a step on what is not finite would lose the policy for good
        sound = torch.stack([numbers[0], loss.detach(), norm]).isfinite().all()
        near = numbers[0] <= learn.kl_limit
        _step(optimizer, going & sound & near)
        told.append(torch.cat([numbers, torch.stack([norm, going & sound, going & sound & near, going])]))
        going = going & (near | ~sound)
    # the one read of an update
    *rows, explained = torch.cat([torch.stack(told).reshape(-1), _explained(played).reshape(1)]).tolist()
    summary = _summary(np.asarray(rows).reshape(len(told), -1))
    if not summary["steps"]:
        for parameter in unborn:
            optimizer.state.pop(parameter, None)
    return {**summary, "explained": explained}


def _step(optimizer: torch.optim.Optimizer, taken: Tensor) -> None:
    """Take a step, and undo it bit for bit where `taken`, a bool on the device, is false."""
    with torch.no_grad():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        held = [p.clone() for p in parameters]
        remembered = {p: _tensors(optimizer.state.get(p, {})) for p in parameters}
        remembered = {p: {k: t.clone() for k, t in state.items()} for p, state in remembered.items()}
        optimizer.step()
        for parameter, before in zip(parameters, held, strict=True):
            parameter.copy_(torch.where(taken, parameter, before))
            for name, now in _tensors(optimizer.state.get(parameter, {})).items():
                then = remembered[parameter].get(name)
                now.copy_(torch.where(taken, now, torch.zeros_like(now) if then is None else then))


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What an optimizer remembers of a parameter, as far as it is tensors."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _summary(rows: Floats) -> dict[str, float]:
    """Means over the steps that were sound, up to the one that was too far; and how many were taken or not.

    Args:
        rows: `[K, 9]` numbers of `losses`, gradient norm, and 1 where a step was sound, taken, and not behind
            the stop.
    """
    names = ("divergence", "policy_loss", "value_loss", "entropy", "clipped", "gradient_norm")
    numbers, (sound, taken, going) = rows[:, : len(names)], rows[:, len(names) :].T
    means = numbers[sound > 0].mean(axis=0) if sound.any() else np.full(len(names), np.nan)
    return {
        **dict(zip(names, means.tolist(), strict=True)),
        "steps": float(taken.sum()),
        "skipped": float((going - sound).sum()),
    }


def losses(
    now: Judged, part: Experience, learn: LearnSettings, scale: float | Tensor, price: float
) -> tuple[Tensor, Tensor]:
    """The loss, and what is told about it.

    Args:
        now: the choices as the actor judges them now.
        part: what they were, and what came of them.
        learn: clips and weights.
        scale: unit of returns, one for all or `[N]`.
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
    error = _value_error(now.value, part, learn, scale).masked_fill(~part.played, 0.0)
    value = error.sum() / part.played.sum().clamp(min=1) / 2.0
    entropy = now.entropy.masked_fill(~part.used, 0.0).sum() / count
    loss = policy + learn.value * value - price * entropy
    with torch.no_grad():
        divergence = (ratio - 1.0 - log_ratio).masked_fill(~part.used, 0.0).sum() / count
        clipped = ((ratio - 1.0).abs() > learn.clip) & part.used
        share = clipped.sum() / part.used.sum().clamp(min=1)
    return loss, torch.stack([divergence, *(t.detach() for t in (policy, value, entropy)), share])


def _value_error(value: Tensor, part: Experience, learn: LearnSettings, scale: float | Tensor) -> Tensor:
    """`[T, N]` squared errors in units of returns; the larger of two where values are clipped."""
    error = ((value - part.target) / scale).square()
    if learn.value_clip is None:
        return error
    moved = ((value - part.anchor.value) / scale).clamp(-learn.value_clip, learn.value_clip)
    return torch.maximum(error, (moved + (part.anchor.value - part.target) / scale).square())


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


def _explained(played: Experience) -> Tensor:
    """1 - Var(target - value) / Var(target); NaN where all targets are equal."""
    variance = _variance(played.target, played.played)
    left = _variance(played.target - played.anchor.value, played.played)
    return torch.where(variance > 0, 1.0 - left / variance, torch.nan)


def _variance(values: Tensor, counted: Tensor) -> Tensor:
    count = counted.sum().clamp(min=1)
    deviation = values - values.masked_fill(~counted, 0.0).sum() / count
    return deviation.masked_fill(~counted, 0.0).square().sum() / count


def _expect_ends(rollout: Rollout, after: Tensor | None) -> None:
    """Every segment ends, and what follows a truncation is known."""
    shape = rollout.played.shape
    goes_on = np.concatenate([rollout.played[1:], np.zeros((1, shape[1]), np.bool_)])
    open_ends = np.argwhere(rollout.played & ~goes_on & ~rollout.terminated & ~rollout.truncated)
    if len(open_ends):
        raise ValueError(
            "the rollout has nothing behind row {} of environment {}, which is no end: "
            "set `terminated` there, or `truncated` and give `after`".format(*open_ends[0])
        )
    cuts = np.argwhere(rollout.played & rollout.truncated & ~rollout.terminated)
    if after is None and len(cuts):
        raise ValueError(
            "the rollout is truncated at row {} of environment {}: give `after`, [T, N] values of the states "
            "that truncated steps led to, judged with the memory that was carried there".format(*cuts[0])
        )
    if after is not None and after.shape != shape:
        raise ValueError(f"after has shape {tuple(after.shape)}, expected {shape} as the rollout has")
