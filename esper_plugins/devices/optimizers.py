"""Optimizers over blocks: one update of R rows at once, with a mask of the rows that take it.

A row that is masked out keeps its parameters, its state and its step count bit for bit, whatever its
gradient is: it forgets nothing, its rate is 0, and its gradient is cleared first, because 0 * NaN is NaN.

Role: the arithmetic of `sgd` and `adamw` as torch.optim defines them, over an explicit state.
Neighbours: `blocks` holds the state, `gradients` clips before.
"""

import torch
from torch import Tensor

from esper_core.plugin import OptimizerSettings
from esper_plugins.devices.blocks import Block

STATE = {"sgd": ("momentum",), "adamw": ("first", "second")}
"""Names of the state tensors of every optimizer."""
AT_ONCE = 2**17
"""Numbers that a CPU updates at once: few enough for everything in between to stay in its caches."""


def step(block: Block, gradient: Tensor, settings: OptimizerSettings, rate: float, takes: Tensor) -> None:
    """Update a block in place.

    Args:
        block: parameters and state.
        gradient: `[R, P]`, clipped; finite in rows that are updated.
        settings: of the optimizer.
        rate: learning rate as a fraction of the settings'.
        takes: `[R]` rows that are updated.
    """
    update = _adamw if settings.name == "adamw" else _sgd
    count = max(1, AT_ONCE // block.values.shape[1]) if block.values.is_cpu else block.rows
    for start in range(0, block.rows, count):
        rows = slice(start, start + count)
        update(block.part(rows), gradient[rows], settings, rate * settings.lr, takes[rows].unsqueeze(1))
    block.steps.add_(takes)


def _sgd(block: Block, gradient: Tensor, settings: OptimizerSettings, lr: float, takes: Tensor) -> None:
    """m' = momentum m + g + decay p;  p' = p - lr m'."""
    if settings.weight_decay:
        gradient = gradient.add(block.values, alpha=settings.weight_decay)
    kept, taken = _weights(takes, settings.momentum, block.values)
    moment = block.state["momentum"].mul_(kept).add_(_cleared(gradient, taken))
    block.values.addcmul_(moment, taken, value=-lr)


def _adamw(block: Block, gradient: Tensor, settings: OptimizerSettings, lr: float, takes: Tensor) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, with bias correction per row.

    With c1 and c2 the corrections, p' = (1 - lr decay) p - lr (sqrt(c2) / c1) m / (sqrt(v) + eps sqrt(c2)).
    """
    beta1, beta2 = settings.beta1, settings.beta2
    t = (block.steps.unsqueeze(1) + 1).to(block.values.dtype)
    kept, taken = _weights(takes, beta1, block.values)
    gradient = _cleared(gradient, taken)
    first = block.state["first"].mul_(kept).add_(gradient, alpha=1 - beta1)
    kept, _ = _weights(takes, beta2, block.values)
    second = block.state["second"].mul_(kept).addcmul_(gradient, gradient, value=1 - beta2)
    root = (1 - beta2**t).sqrt_()
    denominator = second.sqrt().add_(settings.eps * root)
    if settings.weight_decay:
        kept, _ = _weights(takes, 1 - lr * settings.weight_decay, block.values)
        block.values.mul_(kept)
    block.values.addcdiv_(first * (taken * root / (1 - beta1**t)), denominator, value=-lr)


def _weights(takes: Tensor, memory: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """What every row keeps, `memory` or everything, and what it takes, 1 or nothing; both `[R, 1]`."""
    taken = takes.to(like.dtype)
    return torch.where(takes, memory, torch.ones_like(taken)), taken


def _cleared(gradient: Tensor, taken: Tensor) -> Tensor:
    """The gradient, and 0 in rows that are not updated."""
    return (gradient * taken).nan_to_num_(0.0, 0.0, 0.0)
