"""What was measured about each seed: the evidence that gates and policies read.

Role: one record of `[N, S]` arrays. Unknown is NaN, and NaN never opens a gate: a measurement that was not
taken is neither healthy nor zero.
Neighbours: `phases.validate` and the device's gradient statistics fill it, `rules.gates` reads it.
"""

import attrs
import numpy as np

from esper_core.state.arrays import Floats, Ints, expect_table


@attrs.frozen(kw_only=True, eq=False)
class Evidence:
    """Measurements of the last epoch; every array is `[N, S]`.

    Attributes:
        contribution: score with all seeds minus score without this one (units of the score).
        contribution_error: its standard error.
        velocity: moving average of the contribution's change per epoch.
        shapley: the seed's Shapley share of the score that the seeds add.
        shapley_error: its standard error.
        measured: epochs since the contribution was measured; -1 if never.
        health: gradient health in [0, 1] over all sampled batches of the epoch.
        gradient_norm: root mean square over the sampled batches of the seed's gradient norm.
        gradient_ratio: moving average of seed-to-host gradient norm, each per square root of parameters.
        nonfinite: sampled batches whose gradient was not finite.
        contact: relative rise of the validation loss if the ramp began now.
        rank: effective rank of the features behind the slot, as a share of its width; measured on request,
            whether or not a seed is there.
        orthogonality: in how many directions the loss wants these features to move, in [0, 1]; on request.
    """

    contribution: Floats
    contribution_error: Floats
    velocity: Floats
    shapley: Floats
    shapley_error: Floats
    measured: Ints
    health: Floats
    gradient_norm: Floats
    gradient_ratio: Floats
    nonfinite: Ints
    contact: Floats
    rank: Floats
    orthogonality: Floats

    def __attrs_post_init__(self) -> None:
        """Refuse arrays of unequal shape."""
        expect_table(self, self.contribution.shape)

    @classmethod
    def unknown(cls, envs: int, slots: int) -> "Evidence":
        """Nothing has been measured, for N = `envs` and S = `slots`."""
        shape = (envs, slots)
        ints = ("measured", "nonfinite")
        floats = {a.name: np.full(shape, np.nan) for a in attrs.fields(cls) if a.name not in ints}
        return cls(
            **floats,
            measured=np.full(shape, -1, np.int64),
            nonfinite=np.zeros(shape, np.int64),
        )
