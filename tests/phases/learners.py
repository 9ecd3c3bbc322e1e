"""Actors that are small enough to be seen through, and experience made by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper_core.model.categorical import entropy, log_probability, probabilities
from esper_core.phases.update import Experience, Judged, improve
from esper_core.state.actions import HEADS
from esper_core.state.settings import LearnSettings

FLOOR = 0.01
OPS = 6
T, N = 5, 4
USED = torch.tensor([True, True, False, False, False, False, False])
"""The heads that `Table` chooses."""


class Table(nn.Module):
    """A policy that sees nothing: logits of the operation and of the slot, and one value."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.op = nn.Parameter(torch.randn(OPS, generator=draw, dtype=dtype))
        self.slot = nn.Parameter(torch.randn(3, generator=draw, dtype=dtype))
        self.value = nn.Parameter(torch.zeros((), dtype=dtype))

    def heads(self, lead: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Probabilities and mask of the two heads that are used."""
        found = []
        for logits in (self.op, self.slot):
            wide = logits.expand(*lead, -1)
            mask = torch.ones(wide.shape, dtype=torch.bool)
            found.append((probabilities(wide, mask, FLOOR), mask))
        return found

    def judge(self, trace: Mapping[str, Tensor], heads: Tensor) -> Judged:
        lead = tuple(heads.shape[:2])
        said = [
            (log_probability(p, heads[..., k]), entropy(p, mask))
            for k, (p, mask) in enumerate(self.heads(lead))
        ]
        unused = self.op.new_zeros(*lead, len(USED) - len(said))
        log_p, h = (
            torch.cat([torch.stack(values, dim=-1), unused], dim=-1) for values in zip(*said, strict=True)
        )
        return Judged(log_p, h, self.value.expand(lead))


class Told(nn.Module):
    """A policy whose values are what its trace says; it has no choice."""

    def judge(self, trace: Mapping[str, Tensor], heads: Tensor) -> Judged:
        nothing = torch.zeros(heads.shape, dtype=torch.float64)
        return Judged(nothing, nothing, trace["value"])


def part_of(actor: Table, seed: int = 0, counted: Tensor | None = None) -> Experience:
    """Choices of the actor and advantages at random."""
    draw = np.random.default_rng(seed)
    heads = torch.from_numpy(
        np.stack([draw.integers(0, k, (T, N)) for k in (OPS, 3, 1, 1, 1, 1, 1)], axis=-1)
    )
    used = USED.expand(T, N, 7) if counted is None else USED & counted.unsqueeze(-1)
    with torch.no_grad():
        anchor = Judged(*(values.clone() for values in actor.judge({}, heads)))
    numbers = torch.from_numpy(draw.normal(size=(2, T, N))).to(actor.op.dtype)
    return Experience(
        trace={},
        heads=heads,
        played=torch.ones(T, N, dtype=torch.bool),
        used=used,
        anchor=anchor,
        advantage=numbers[0],
        target=numbers[1],
    )


def judgements(
    seed: int, steps: int = T, envs: int = N, apart: float = 0.3, share: float = 0.7
) -> tuple[Judged, Experience]:
    """What somebody says of choices, and what the anchor said; unused heads and empty rows say nothing.

    Args:
        seed: of everything.
        steps: T.
        envs: N.
        apart: spread of the logarithms of the ratios.
        share: of heads that are used, and of rows that were played.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    wide = (steps, envs, len(HEADS))
    played = torch.rand(steps, envs, generator=draw) < share
    used = (torch.rand(wide, generator=draw) < share) & played.unsqueeze(-1)
    before = -normal(*wide).abs()
    now = Judged(
        log_probability=torch.where(used, before + apart * normal(*wide), 0.0).requires_grad_(),
        entropy=torch.where(used, torch.rand(wide, generator=draw).double(), 0.0).requires_grad_(),
        value=normal(steps, envs).requires_grad_(),
    )
    part = Experience(
        trace={},
        heads=torch.zeros(wide, dtype=torch.int64),
        played=played,
        used=used,
        anchor=Judged(torch.where(used, before, 0.0), torch.zeros(wide), normal(steps, envs)),
        advantage=normal(steps, envs),
        target=normal(steps, envs),
    )
    return now, part


def adam(actor: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(actor.parameters(), 1e-2)


def take(
    actor: Any,
    optimizer: torch.optim.Optimizer,
    part: Experience,
    keys: tuple[int, int] = (0, 0),
    **learn: Any,
) -> dict[str, float]:
    """An update at the run's first round, in units of 1."""
    settings = LearnSettings(**{"lr": 0.05, "minibatches": 1, **learn})
    return improve(actor, optimizer, part, settings, scale=1.0, keys=keys, progress=0.0)
