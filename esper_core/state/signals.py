"""What a host's training shows from outside: losses and scores, epoch by epoch.

Role: `[N]` curves of the epoch that just ended plus what has to be remembered of the ones before.
Neighbours: `phases.collect` fills it, `rules.observation` and policies read it.
"""

import attrs
import numpy as np

from esper_core.state.arrays import Floats, Ints, expect_table


@attrs.frozen(kw_only=True, eq=False)
class HostSignals:
    """Signals of N environments; every array is `[N]`. Losses are means over samples.

    Attributes:
        train_loss: mean training loss of the last epoch; NaN before the first.
        loss: mean validation loss of the live network.
        score: validation score of the live network (the task's units).
        committed: validation score with committed seeds only: what would ship now.
        best: best `score` so far.
        plateau: epochs since `best` last rose.
    """

    train_loss: Floats
    loss: Floats
    score: Floats
    committed: Floats
    best: Floats
    plateau: Ints

    def __attrs_post_init__(self) -> None:
        """Refuse arrays of unequal length."""
        expect_table(self, self.score.shape)

    @classmethod
    def unknown(cls, envs: int) -> "HostSignals":
        """Nothing has been measured, for N = `envs`."""
        nan = {a.name: np.full(envs, np.nan) for a in attrs.fields(cls) if a.name != "plateau"}
        return cls(**nan, plateau=np.zeros(envs, np.int64))
