"""A rollout: what N environments did and were paid, epoch by epoch.

Role: fixed `[T, N]` buffers of an episode, filled a row per epoch.
Neighbours: `phases.collect` fills it, summaries and learners read it.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from esper_core.state.actions import HEADS, Decision, Op
from esper_core.state.arrays import Bools, Floats, Ints
from esper_core.state.signals import HostSignals


@attrs.frozen(kw_only=True, eq=False)
class Rollout:
    """An episode of T epochs and N environments.

    Esper's own episodes all have T epochs, and end by terminations. Other loops may cut segments from
    outside, begin new ones in the middle, and leave rows of an environment empty.

    Attributes:
        played: `[T, N]` the row was filled; what stands in others means nothing.
        heads: `[T, N, 7]` decisions, in the order of `HEADS`.
        refused: `[T, N]` of `Refusal`.
        reward: `[T, N]`.
        score: `[T, N]` validation score after the epoch.
        committed: `[T, N]` validation score of what would ship.
        terminated: `[T, N]` a segment ended with this epoch, and nothing follows.
        truncated: `[T, N]` a segment was cut from outside after this epoch, and would have gone on.
        verdict: `[T, N]` of `Verdict`, why the governor rolled the environment back.
        trace: `[T, N, ...]` by name: what the policy noted of its choices, from its first epoch on.
        group: `[N]` number of the reward mode that pays the environment.
    """

    played: Bools
    heads: Ints
    refused: Ints
    reward: Floats
    score: Floats
    committed: Floats
    terminated: Bools
    truncated: Bools
    verdict: Ints
    trace: dict[str, NDArray[Any]]
    group: Ints

    @classmethod
    def empty(cls, epochs: int, envs: int, group: Ints | None = None) -> "Rollout":
        """Buffers for an episode of T = `epochs` and N = `envs`; absent `group` means one mode for all."""
        shape = (epochs, envs)
        return cls(
            played=np.zeros(shape, np.bool_),
            heads=np.zeros((*shape, len(HEADS)), np.int64),
            refused=np.zeros(shape, np.int64),
            reward=np.zeros(shape),
            score=np.full(shape, np.nan),
            committed=np.full(shape, np.nan),
            terminated=np.zeros(shape, np.bool_),
            truncated=np.zeros(shape, np.bool_),
            verdict=np.zeros(shape, np.int64),
            trace={},
            group=np.zeros(envs, np.int64) if group is None else group,
        )

    def record(
        self,
        epoch: int,
        decision: Decision,
        trace: Mapping[str, NDArray[Any]],
        refused: Ints,
        reward: Floats,
        signals: HostSignals,
        verdict: Ints,
    ) -> None:
        """Fill the row of an epoch, in place; a segment ends with a verdict and with the episode.

        Args:
            epoch: from 0.
            decision: of every environment.
            trace: `[N, ...]` by name, what the policy noted.
            refused: `[N]` of `Refusal`.
            reward: `[N]`.
            signals: after the epoch.
            verdict: `[N]` of `Verdict`.
        """
        for name, column in trace.items():
            if name not in self.trace:
                self.trace[name] = np.zeros((len(self.reward), *column.shape), column.dtype)
            self.trace[name][epoch] = column
        self.played[epoch] = True
        self.terminated[epoch] = (verdict != 0) | (epoch == len(self.reward) - 1)
        self.verdict[epoch] = verdict
        self.heads[epoch] = np.stack([getattr(decision, head) for head in HEADS], axis=1)
        self.refused[epoch] = refused
        self.reward[epoch] = reward
        self.score[epoch] = signals.score
        self.committed[epoch] = signals.committed

    def operations(self) -> Ints:
        """`[N, 6]` how often every operation was carried out."""
        done = np.where(self.refused == 0, self.heads[:, :, 0], int(Op.WAIT))
        counts: Ints = (done[:, :, None] == np.arange(len(Op))).sum(axis=0)
        return counts
