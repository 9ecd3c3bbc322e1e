"""What the governor remembers about every host, and what it may find.

Role: the recent healthy losses of N environments and the anomalies that are pending. Empty places are NaN.
Neighbours: `rules.governor` is the only module that moves it on.
"""

from enum import IntEnum

import attrs
import numpy as np

from esper_core.state.arrays import Floats, Ints, expect_shape


class Verdict(IntEnum):
    """What the governor finds after an epoch; anything but NONE is a panic of that environment.

    NONFINITE: the validation loss or the score is not a finite number. COLLAPSE: a host that had learned
    fell back to knowing nothing. DIVERGENCE: the loss stayed far above what it used to be.
    """

    NONE = 0
    NONFINITE = 1
    COLLAPSE = 2
    DIVERGENCE = 3


@attrs.frozen(kw_only=True, eq=False)
class Vitals:
    """Memory of the governor for N environments and a window of W epochs.

    Attributes:
        history: `[N, W]` validation losses of the last healthy epochs (units of the task's loss), the newest
            last; NaN where there is none yet.
        strikes: `[N]` consecutive anomalous epochs up to now.
    """

    history: Floats
    strikes: Ints

    def __attrs_post_init__(self) -> None:
        """Refuse arrays that do not fit together."""
        if self.history.ndim != 2:
            raise ValueError(f"Vitals.history must be [N, W], got shape {self.history.shape}")
        expect_shape(self, "strikes", self.strikes, self.history.shape[:1])

    @classmethod
    def unknown(cls, envs: int, window: int) -> "Vitals":
        """Nothing has been seen, for N = `envs` and W = `window`."""
        return cls(history=np.full((envs, window), np.nan), strikes=np.zeros(envs, np.int64))
