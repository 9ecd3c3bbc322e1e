"""Forms: what some modules compute, written for R rows at once in as few operations as it takes.

A form must equal its module, row by row; `rowwise` takes `torch.vmap` for everything that has none.

Role: speed, and nothing else. Neighbours: `rowwise` looks forms up by the exact type of a module, `trial`
compares them with the modules themselves at the start of a run.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_plugins.blueprints.vector import MirroredBottleneck
from esper_plugins.tasks.hosts import Block

Form = Callable[[Any, Mapping[str, Tensor], str, Tensor], Tensor]
"""`(module, tensors by name, prefix of the module's names, inputs [R, B, ...]) -> [R, B, ...]`."""


def affine(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """W x + b.

    Args:
        weight: `[R, O, I]`.
        bias: `[R, O]`; None for none.
        x: `[R, ..., I]`.

    Returns:
        `[R, ..., O]`.
    """
    flat = x if x.dim() == 3 else x.flatten(1, -2)
    across = weight.mT
    y = torch.bmm(flat, across) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, across)
    return y if x.dim() == 3 else y.unflatten(1, x.shape[1:-1])


def linear(module: nn.Linear, tensors: Mapping[str, Tensor], path: str, x: Tensor) -> Tensor:
    """Of `nn.Linear`."""
    return affine(tensors[f"{path}weight"], tensors.get(f"{path}bias"), x)


def elementwise(module: nn.Module, tensors: Mapping[str, Tensor], path: str, x: Tensor) -> Tensor:
    """Of a function of single numbers: the module itself."""
    y: Tensor = module(x)
    return y


def block(module: Block, tensors: Mapping[str, Tensor], path: str, x: Tensor) -> Tensor:
    """Of a block of the built-in host."""
    h = affine(tensors[f"{path}layer.weight"], tensors[f"{path}layer.bias"], x)
    alive = tensors[f"{path}alive"].unsqueeze(1)
    return torch.relu_(h) * alive if h.requires_grad else torch.relu_(h).mul_(alive)


def bottleneck(module: MirroredBottleneck, tensors: Mapping[str, Tensor], path: str, x: Tensor) -> Tensor:
    """Of `esper/lowrank`: both halves as one."""
    names = (f"{path}{half}" for half in ("down", "mirror_down", "up", "mirror_up"))
    down, mirror_down, up, mirror_up = names
    into = torch.cat([tensors[f"{down}.weight"], tensors[f"{mirror_down}.weight"]], dim=1)
    shift = torch.cat([tensors[f"{down}.bias"], tensors[f"{mirror_down}.bias"]], dim=1)
    out = torch.cat([tensors[f"{up}.weight"], -tensors[f"{mirror_up}.weight"]], dim=2)
    return affine(out, tensors[f"{path}bias"], F.gelu(affine(into, shift, x)))


FORMS: dict[type[nn.Module], Form] = {
    nn.Linear: linear,
    nn.ReLU: elementwise,
    nn.GELU: elementwise,
    nn.Tanh: elementwise,
    nn.Identity: elementwise,
    Block: block,
    MirroredBottleneck: bottleneck,
}
"""By type of module."""
