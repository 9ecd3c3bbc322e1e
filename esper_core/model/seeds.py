"""A seed: a blueprint's branch, and the gate that its blend may need.

Role: computes the change that a seed proposes; `model.blending` decides what becomes of it.
Neighbours: blueprints build the branch, pools of a device strategy hold the parameters.
"""

import torch
from torch import Tensor, nn

from esper_core.model.hosts import Site
from esper_core.state.actions import Blend


class Seed(nn.Module):
    """A branch and how it is blended.

    Attributes:
        branch: maps the seed's input to the same shape; exactly 0 at birth.
        blend: of `Blend`.
        gate: for `Blend.GATE`, one logit per sample from the pooled input; else absent.
    """

    def __init__(self, branch: nn.Module, blend: Blend, site: Site) -> None:
        """Wrap a blueprint's module, the `branch`, for one site."""
        super().__init__()
        self.branch = branch
        self.blend = blend
        self.kind = site.kind
        self.gate = nn.Linear(site.width, 1) if blend is Blend.GATE else None

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """The change delta that the seed proposes, same shape as `h`.

        Args:
            x: the seed's input.
            h: the host's features that it would change.
        """
        change: Tensor = self.branch(x)
        if self.blend is Blend.MULTIPLY:
            return h * torch.tanh(change)
        if self.gate is None:
            return change
        opening = torch.sigmoid(self.gate(self._pooled(x)))
        return change * opening.view(-1, *[1] * (change.dim() - 1))

    def _pooled(self, x: Tensor) -> Tensor:
        """Mean over positions, `[B, C]`."""
        if self.kind == "map":
            return x.mean(dim=(2, 3))
        return x.mean(dim=1) if self.kind == "sequence" else x
