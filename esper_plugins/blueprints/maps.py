"""Blueprints for feature maps `[B, C, H, W]`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.plugin import Site


def norm(site: Site) -> nn.Module:
    """A normalised copy of the input, scaled and shifted per channel: 2 C parameters."""
    return NormalisedShift(site.width)


def depthwise(site: Site) -> nn.Module:
    """A 3 x 3 filter per channel, 0 at birth: 10 C parameters."""
    return _zeroed(nn.Conv2d(site.width, site.width, 3, padding=1, groups=site.width))


def conv_light(site: Site) -> nn.Module:
    """A 3 x 3 convolution of the rectified, normalised input, 0 at birth: 9 C^2 + C parameters."""
    return PreActivated(_zeroed(nn.Conv2d(site.width, site.width, 3, padding=1)), groups_of(site.width))


class NormalisedShift(nn.Module):
    """s * (x - mean) / sd + t per channel, over groups of channels and all positions; s = t = 0 at birth."""

    def __init__(self, width: int) -> None:
        """Args: width: C."""
        super().__init__()
        self.groups = groups_of(width)
        self.scale = nn.Parameter(torch.zeros(width, 1, 1))
        self.shift = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The change, `[B, C, H, W]`."""
        return self.scale * F.group_norm(x, self.groups) + self.shift


class PreActivated(nn.Module):
    """A layer behind a group normalisation without parameters and a rectifier."""

    def __init__(self, layer: nn.Module, groups: int) -> None:
        """Args: layer: what is applied; groups: of the normalisation."""
        super().__init__()
        self.layer = layer
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """The change, `[B, C, H, W]`."""
        change: Tensor = self.layer(torch.relu(F.group_norm(x, self.groups)))
        return change


def groups_of(width: int) -> int:
    """Groups of a normalisation: the most, up to 8, that divide the width and hold two channels or more."""
    return max(g for g in range(1, 9) if width % g == 0 and (g == 1 or width // g >= 2))


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
