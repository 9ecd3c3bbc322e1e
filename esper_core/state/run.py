"""Where a run stands between two rounds: everything that influences what comes next, and its history.

Role: what a checkpoint holds beside tensors. Nothing random is in it: randomness comes from keys.
Neighbours: `runner.loop` moves it, `runner.checkpoint` writes and reads it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from esper_core.state.arrays import Floats, Ints
from esper_core.state.rollout import Rollout


def best_of(scores: Floats) -> int:
    """Position of the highest score, the first of equals; unknown ones lose."""
    return int(np.argmax(np.where(np.isnan(scores), -np.inf, scores)))


@attrs.frozen(kw_only=True)
class RoundSummary:
    """What a round of N episodes came to; plain numbers, one per environment.

    Attributes:
        round_index: number of the round, from 0.
        modes: name of the reward mode that paid the environment.
        returns: sum of rewards.
        score: validation score of the live network after the last epoch.
        committed: validation score of what would ship.
        parameters: added by committed seeds.
        operations: how often each of the operations was carried out, in the order of `Op`.
        rollbacks: how often the governor rolled the environment back.
        learning: what the policy tells about its learning; empty where it does not learn.
    """

    round_index: int
    modes: tuple[str, ...]
    returns: tuple[float, ...]
    score: tuple[float, ...]
    committed: tuple[float, ...]
    parameters: tuple[int, ...]
    operations: tuple[tuple[int, ...], ...]
    rollbacks: tuple[int, ...]
    learning: Mapping[str, float]

    @classmethod
    def of(
        cls,
        round_index: int,
        rollout: Rollout,
        modes: Sequence[str],
        parameters: Ints,
        learning: Mapping[str, float],
    ) -> "RoundSummary":
        """Summarise a finished episode.

        Args:
            round_index: number of the round, from 0.
            rollout: of the episode.
            modes: names of all reward modes.
            parameters: `[N]` added by committed seeds.
            learning: what the policy tells.
        """
        return cls(
            round_index=round_index,
            modes=tuple(modes[group] for group in rollout.group.tolist()),
            returns=tuple(rollout.reward.sum(axis=0).tolist()),
            score=tuple(rollout.score[-1].tolist()),
            committed=tuple(rollout.committed[-1].tolist()),
            parameters=tuple(parameters.tolist()),
            operations=tuple(tuple(row) for row in rollout.operations().tolist()),
            rollbacks=tuple((rollout.verdict != 0).sum(axis=0).tolist()),
            learning=dict(learning),
        )

    def of_mode(self, mode: str) -> "RoundSummary":
        """The part of the environments that a reward mode paid."""
        kept = [env for env, paid in enumerate(self.modes) if paid == mode]
        columns: dict[str, Any] = {
            name: tuple(values[env] for env in kept)
            for name, values in attrs.asdict(self, recurse=False).items()
            if isinstance(values, tuple)
        }
        return attrs.evolve(self, **columns)

    @property
    def best(self) -> int:
        """Position of the environment whose shipped network scores best; the first of equals."""
        return best_of(np.asarray(self.committed))


@attrs.frozen(kw_only=True)
class RunState:
    """A run between two rounds.

    Attributes:
        rounds_done: rounds that are complete.
        history: one summary per round.
    """

    rounds_done: int = 0
    history: tuple[RoundSummary, ...] = ()
