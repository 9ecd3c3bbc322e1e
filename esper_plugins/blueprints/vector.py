"""Blueprints for vectors `[B, C]`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.plugin import Site
from esper_plugins.blueprints.settings import LowRank


def linear(site: Site) -> nn.Module:
    """W x + b with W = 0 and b = 0 at birth: C^2 + C parameters, each with gradient at once."""
    layer = nn.Linear(site.width, site.width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def lowrank(site: Site, settings: LowRank) -> nn.Module:
    """A bottleneck of `rank` hidden units: 2 C rank + rank + C parameters."""
    return MirroredBottleneck(site.width, settings.rank)


class MirroredBottleneck(nn.Module):
    """U gelu(D x + c) - U' gelu(D' x + c') + b, where the second half is a copy of the first at birth.

    The halves cancel exactly, yet both have gradient in every parameter, where a zero-initialised U
    would leave D without. The activation is smooth, so that no hidden unit can be dead from birth.
    """

    def __init__(self, width: int, rank: int) -> None:
        """Draw one half and copy it.

        Args:
            width: C.
            rank: hidden units of both halves together; even.
        """
        super().__init__()
        half = rank // 2
        self.down, self.mirror_down = nn.Linear(width, half), nn.Linear(width, half)
        self.up, self.mirror_up = nn.Linear(half, width, bias=False), nn.Linear(half, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.mirror_down.load_state_dict(self.down.state_dict())
        self.mirror_up.load_state_dict(self.up.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """The change, `[B, C]`."""
        one: Tensor = self.up(F.gelu(self.down(x)))
        other: Tensor = self.mirror_up(F.gelu(self.mirror_down(x)))
        return one - other + self.bias
