"""Optimizers over blocks: one update of R rows at once, with a mask of the rows that take it.

A row that is masked out keeps its parameters, its state and its step count bit for bit, whatever its
gradient is: the update is selected, never multiplied by 0.

Role: the arithmetic of `sgd` and `adamw` as torch.optim defines them, over an explicit state.
Neighbours: `blocks` holds the state, `gradients` clips before.
"""

import torch
from torch import Tensor

from esper_core.plugin import OptimizerSettings
from esper_plugins.devices.blocks import Block

STATE = {"sgd": ("momentum",), "adamw": ("first", "second")}
"""Names of the state tensors of every optimizer."""


def step(block: Block, gradient: Tensor, settings: OptimizerSettings, rate: float, takes: Tensor) -> None:
    """Update a block in place.

    Args:
        block: parameters and state.
        gradient: `[R, P]`, clipped.
        settings: of the optimizer.
        rate: learning rate as a fraction of the settings'.
        takes: `[R]` rows that are updated.
    """
    update = _adamw if settings.name == "adamw" else _sgd
    chosen = takes.unsqueeze(1)
    steps = block.steps + 1
    values, state = update(block, gradient, settings, rate * settings.lr, steps)
    torch.where(chosen, values, block.values, out=block.values)
    for name, new in state.items():
        torch.where(chosen, new, block.state[name], out=block.state[name])
    torch.where(takes, steps, block.steps, out=block.steps)


def _sgd(
    block: Block, gradient: Tensor, settings: OptimizerSettings, lr: float, steps: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """m' = momentum m + g + decay p;  p' = p - lr m'."""
    if settings.weight_decay:
        gradient = gradient.add(block.values, alpha=settings.weight_decay)
    moment = block.state["momentum"].mul(settings.momentum).add_(gradient)
    return block.values.add(moment, alpha=-lr), {"momentum": moment}


def _adamw(
    block: Block, gradient: Tensor, settings: OptimizerSettings, lr: float, steps: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loshchilov and Hutter 2019, algorithm 2, with bias correction per row."""
    beta1, beta2 = settings.beta1, settings.beta2
    t = steps.unsqueeze(1).to(block.values.dtype)
    first = block.state["first"].mul(beta1).add_(gradient, alpha=1 - beta1)
    second = block.state["second"].mul(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (second / (1 - beta2**t)).sqrt_().add_(settings.eps)
    change = first / (1 - beta1**t) / denominator
    values = block.values.mul(1 - lr * settings.weight_decay).add_(change, alpha=-lr)
    return values, {"first": first, "second": second}
