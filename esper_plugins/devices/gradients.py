"""Gradients of blocks: norms, clipping, and statistics that are turned into numbers once per epoch.

Role: everything between backward and the optimizer's step, in this order: norms, statistics, clip.
Neighbours: `loop` fills gradients, `optimizers` consumes them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_core.plugin import EXPLODING, VANISHING, GradientStatistics
from esper_plugins.devices.blocks import Layout

CLIP_EPSILON = 1e-6
"""Added to a norm before division, as torch.nn.utils.clip_grad_norm_ does."""


def parameter_norms(gradient: Tensor, layout: Layout) -> Tensor:
    """Norm of every named parameter's gradient in every row, `[R, L]` in float64.

    The number of operations depends on the structure, not on R. Squares are taken in float64; float64
    gradients are scaled by their largest entry first, so that no finite norm overflows.
    """
    scale = torch.ones(len(gradient), 1, dtype=torch.float64, device=gradient.device)
    if gradient.dtype == torch.float64:
        largest = gradient.abs().amax(dim=1, keepdim=True)
        scale = torch.where(torch.isfinite(largest) & (largest > 0), largest, scale)
        gradient = gradient / scale
    pieces = gradient.split(layout.sizes, dim=1)
    norms = [torch.linalg.vector_norm(piece, dim=1, dtype=torch.float64) for piece in pieces]
    return torch.stack(norms, dim=1) * scale


def group_norms(norms: Tensor) -> Tensor:
    """Norm of every row's whole gradient, `[R]`, from `[R, L]`."""
    largest = norms.amax(dim=1, keepdim=True)
    scale = torch.where(torch.isfinite(largest) & (largest > 0), largest, torch.ones_like(largest))
    total: Tensor = (norms / scale).square().sum(dim=1).sqrt() * scale.squeeze(1)
    return total


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """`[R]` factors that bring every norm down to `clip`; 1 where it is below or `clip` is 0."""
    if clip == 0.0:
        return torch.ones_like(norms)
    return (clip / (norms + CLIP_EPSILON)).clamp(max=1.0)


class Accumulator:
    """Running statistics of R rows; fixed size, never read inside an epoch."""

    def __init__(self, parameters: Sequence[int], clips: Sequence[float], device: torch.device) -> None:
        """Start at zero.

        Args:
            parameters: named parameters of every row's structure, R numbers.
            clips: of every row's optimizer; 0 counts explosions from the norm `EXPLODING` on.
            device: of the gradients.
        """
        zeros = torch.zeros(len(parameters), dtype=torch.float64, device=device)
        self._limit = zeros.new_tensor([EXPLODING * (clip or 1.0) for clip in clips]).unsqueeze(1)
        self._parameters = zeros.new_tensor(parameters)
        self._there = torch.arange(max(parameters), device=device) < self._parameters.unsqueeze(1)
        self._steps, self._square, self._largest = zeros, zeros.clone(), zeros.clone()
        self._smallest = torch.full_like(zeros, torch.inf)
        self._nonfinite, self._vanished, self._exploded = zeros.clone(), zeros.clone(), zeros.clone()
        self._culprit = torch.full_like(zeros, -1.0)
        self._sampled = zeros.clone()

    def add(self, norms: Tensor, total: Tensor, trained: Tensor, *, sampled: bool) -> None:
        """Take one step; what is not finite counts in every step, norms in sampled ones.

        Args:
            norms: `[R, L]` norms of parameters; 0 behind the last of a row that has fewer than L.
            total: `[R]` norms of whole gradients.
            trained: `[R]` rows that have a gradient; the others are not measured.
            sampled: whether norms are taken in this step.
        """
        finite = torch.isfinite(total)
        self._nonfinite += trained & ~finite
        bad = trained.unsqueeze(1) & ~torch.isfinite(norms)
        first = torch.where(bad.any(dim=1), bad.to(torch.int8).argmax(dim=1), -1)
        self._culprit = torch.where(self._culprit < 0, first.to(torch.float64), self._culprit)
        if not sampled:
            return
        counted = trained & finite
        safe = torch.where(counted, total, torch.zeros_like(total))
        self._sampled += trained
        self._steps += counted
        self._square += safe.square()
        self._largest = torch.maximum(self._largest, safe)
        self._smallest = torch.where(counted, torch.minimum(self._smallest, safe), self._smallest)
        self._vanished += ((norms < VANISHING) & self._there & trained.unsqueeze(1)).sum(dim=1)
        self._exploded += (~(norms <= self._limit) & trained.unsqueeze(1)).sum(dim=1)

    def packed(self) -> Tensor:
        """Everything as `[8, R]`, so that an epoch is read from the device in one transfer."""
        shares = self._sampled.clamp(min=1) * self._parameters.clamp(min=1)
        return torch.stack(
            [
                self._steps,
                self._square,
                self._largest,
                self._smallest,
                self._nonfinite,
                self._vanished / shares,
                self._exploded / shares,
                self._culprit,
            ]
        )


def statistics(packed: NDArray[np.float64]) -> GradientStatistics:
    """The record of `[8, ...]` packed numbers."""
    steps, square, largest, smallest, nonfinite, vanished, exploded, culprit = packed
    return GradientStatistics(
        steps=steps.astype(np.int64),
        square=square,
        largest=largest,
        smallest=smallest,
        nonfinite=nonfinite.astype(np.int64),
        vanished=vanished,
        exploded=exploded,
        culprit=culprit.astype(np.int64),
    )


def unsampled(*shape: int) -> NDArray[np.float64]:
    """Packed statistics of groups that do not exist."""
    empty = np.zeros((8, *shape))
    empty[3] = np.inf
    empty[7] = -1.0
    return empty
