"""Hosts of the built-in tasks."""

from typing import Literal, cast

import torch
from attrs import frozen
from torch import Tensor, nn

from esper_core.plugin import Host, Site


@frozen(kw_only=True)
class MLPShape:
    """Shape of an `MLPHost`.

    Attributes:
        inputs: features of a sample.
        classes: outputs.
        width: units of every block.
        blocks: number of blocks.
        narrow: which block is too narrow; "random" draws it from torch's generator; None for none of them.
        narrow_width: units of that block that live.
    """

    inputs: int
    classes: int
    width: int
    blocks: int
    narrow: int | Literal["random"] | None = None
    narrow_width: int = 1


def mlp(shape: MLPShape) -> "MLPHost":
    """Build an `MLPHost`."""
    return MLPHost(shape)


def narrow_site(host: Host) -> str | None:
    """Name of the site across the narrow block of an `MLPHost`; None if no block is narrow."""
    narrow = cast(MLPHost, host).narrow
    return None if narrow is None else host.sites[narrow].name


def initialise(layer: nn.Linear) -> nn.Linear:
    """Weights that keep the size of features through many blocks without shortcuts (He et al. 2015)."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """relu(W x + b), with units that may be dead.

    A dead unit is 0 for every input and has no gradient: its parameters are there and do nothing.
    """

    alive: Tensor

    def __init__(self, inputs: int, width: int, alive: int) -> None:
        """Args: inputs: features read; width: units; alive: units that live."""
        super().__init__()
        self.layer = initialise(nn.Linear(inputs, width))
        self.register_buffer("alive", (torch.arange(width) < alive).to(torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        """Features, `[B, width]`."""
        return torch.relu(self.layer(x)) * self.alive


class MLPHost(Host):
    """A stem, blocks of equal width without shortcuts, and a linear read-out.

    Every block has a site across it: a seed there reads what the block reads, so that it can carry past a
    narrow block what the block cannot.

    Attributes:
        segments: the stem, the blocks and the read-out.
        sites: `block0`, `block1`, ...
        narrow: index of the narrow block; None if there is none.
    """

    narrow: int | None

    def __init__(self, shape: MLPShape) -> None:
        """Draw the weights, and the narrow block if it is random."""
        super().__init__()
        self.narrow = int(torch.randint(shape.blocks, ())) if shape.narrow == "random" else shape.narrow
        stem = nn.Sequential(initialise(nn.Linear(shape.inputs, shape.width)), nn.ReLU())
        blocks = [
            Block(shape.width, shape.width, shape.narrow_width if b == self.narrow else shape.width)
            for b in range(shape.blocks)
        ]
        self.segments = nn.ModuleList([stem, *blocks, nn.Linear(shape.width, shape.classes)])
        self.sites = tuple(
            Site(name=f"block{b}", after=b + 1, kind="vector", width=shape.width, across=True)
            for b in range(shape.blocks)
        )
