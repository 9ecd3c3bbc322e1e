"""A seed that scales and shifts each channel, squashed: two numbers a channel."""

import torch
from torch import Tensor, nn

from esper_core.plugin import Site


class Ghost(nn.Module):
    """`delta(x) = scale * tanh(x) + shift`, channel by channel.

    Both parameters are zero at birth, so the change is exactly zero; their gradients are not, because each
    enters linearly.
    """

    def __init__(self, width: int) -> None:
        """Make a seed for `width` channels."""
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, width]` or `[B, width, H, W]` to the same shape."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return self.scale.view(shape) * torch.tanh(x) + self.shift.view(shape)


def build(site: Site) -> Ghost:
    """Build the seed for a site."""
    return Ghost(site.width)
