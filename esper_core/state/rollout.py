"""A rollout: what N environments did and were paid, epoch by epoch.

Role: fixed `[T, N]` buffers of an episode, filled a row per epoch.
Neighbours: `phases.collect` fills it, summaries and learners read it.
"""

import attrs
import numpy as np

from esper_core.state.actions import HEADS, Decision, Op
from esper_core.state.arrays import Floats, Ints
from esper_core.state.signals import HostSignals


@attrs.frozen(kw_only=True, eq=False)
class Rollout:
    """An episode of T epochs and N environments.

    Attributes:
        heads: `[T, N, 7]` decisions, in the order of `HEADS`.
        refused: `[T, N]` of `Refusal`.
        reward: `[T, N]`.
        score: `[T, N]` validation score after the epoch.
        committed: `[T, N]` validation score of what would ship.
    """

    heads: Ints
    refused: Ints
    reward: Floats
    score: Floats
    committed: Floats

    @classmethod
    def empty(cls, epochs: int, envs: int) -> "Rollout":
        """Buffers for an episode."""
        shape = (epochs, envs)
        return cls(
            heads=np.zeros((*shape, len(HEADS)), np.int64),
            refused=np.zeros(shape, np.int64),
            reward=np.zeros(shape),
            score=np.full(shape, np.nan),
            committed=np.full(shape, np.nan),
        )

    def record(
        self, epoch: int, decision: Decision, refused: Ints, reward: Floats, signals: HostSignals
    ) -> None:
        """Fill the row of an epoch, in place."""
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
