"""Categorical choices among K, of which some are masked, with a floor under the probability of the others.

With n valid entries and eps = min(floor, 1 / n):

    pi = softmax of the valid logits        p = (1 - n eps) pi + eps    on valid entries, 0 on the others

The floor is exact and p is ordered as the logits are. Where one entry dominates, the others keep a gradient,
which shrinks with pi as in any softmax; a floor that replaces small probabilities would leave them none.

A mask without a valid entry gives a row of zeros: its log-probability and its entropy are 0, no gradient
comes from it, and what is sampled from it is entry 0, which means nothing. A logit that is masked may be
anything; one that is valid may be infinite, and is then as the largest or smallest number.

Role: kernels, tensors in and tensors out, in float32 or float64, without a host synchronisation.
Neighbours: learned policies choose with them and learners differentiate them; masks come from `rules`, and
uniforms from `rules.randomness`.
"""

import torch
from torch import Tensor


def probabilities(logits: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Probabilities of the valid entries.

    Args:
        logits: `[..., K]`, float32 or float64.
        mask: `[..., K]` bool, which entries are valid.
        floor: the least probability of a valid entry; where 1 / n is less, all of them get that.

    Returns:
        `[..., K]`, exactly 0 where masked.
    """
    limits = torch.finfo(logits.dtype)
    # NaN where nothing is valid: neither that nor its gradient gets past the two selections by the mask
    pi = torch.where(mask, logits.clamp(limits.min, limits.max), -torch.inf).softmax(dim=-1)
    n = mask.sum(dim=-1, keepdim=True).to(logits.dtype)
    eps = n.reciprocal().clamp(max=floor)
    return ((1.0 - n * eps) * pi + eps).masked_fill(~mask, 0.0)


def log_probability(probabilities: Tensor, action: Tensor) -> Tensor:
    """Logarithm of the probability of a choice.

    Args:
        probabilities: `[..., K]`.
        action: `[...]` int64.

    Returns:
        `[...]`; 0 where nothing is valid. Never -inf: a probability below the smallest normal number counts
        as that number, and has no gradient.
    """
    chosen = probabilities.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    return _log(chosen).masked_fill((probabilities == 0).all(dim=-1), 0.0)


def entropy(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Entropy as a share of what n valid entries can have: -sum p ln p / ln n.

    Args:
        probabilities: `[..., K]`.
        mask: `[..., K]` bool, which entries are valid.

    Returns:
        `[...]` in [0, 1]: 1 where all valid entries are alike, 0 where at most one is valid.
    """
    nats = -(probabilities * _log(probabilities)).sum(dim=-1)
    # a single valid entry has probability 1, exactly, so that it has 0 nats
    return nats / mask.sum(dim=-1).clamp(min=2).to(nats.dtype).log()


def sample(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Choose by the inverse of the cumulated probabilities.

    Args:
        probabilities: `[..., K]`.
        uniform: `[...]` in [0, 1).

    Returns:
        `[...]` int64: the first entry whose cumulated probability exceeds the uniform; never one whose
        probability is 0.
    """
    # a parallel sum may round up from an entry to the next even where that one adds 0
    cumulated = probabilities.cumsum(dim=-1).masked_fill(probabilities == 0, 0.0)
    # the sum is not quite 1, and in float32 a uniform may round up to 1: both would choose beyond the end
    total = cumulated.amax(dim=-1)
    below_one = 1.0 - torch.finfo(probabilities.dtype).eps / 2
    threshold = uniform.to(probabilities.dtype).clamp(max=below_one) * total
    return (cumulated > threshold.unsqueeze(-1)).to(torch.int8).argmax(dim=-1)


def _log(probabilities: Tensor) -> Tensor:
    """A logarithm that is finite at 0, and flat there."""
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
