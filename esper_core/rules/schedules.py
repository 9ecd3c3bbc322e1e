"""Learning-rate schedules: the rate of every step of an epoch as a fraction of the settings' rate.

Role: pure; the clock is the step within the episode, the same for host and seeds.
Neighbours: `phases.collect` puts the rates into the plan.
"""

import numpy as np

from esper_core.state.arrays import Floats
from esper_core.state.settings import TrainSettings


def rates(settings: TrainSettings, epoch: int, steps: int) -> Floats:
    """Rates of an epoch's steps.

    With p the fraction of the episode's steps that lie behind: constant 1; linear 1 - q; cosine
    (1 + cos(pi q)) / 2, where q = (p - w) / (1 - w) is the progress after a warm-up of share w, during which
    the rate rises linearly to 1.

    Args:
        settings: shape and length.
        epoch: number of the epoch, from 0.
        steps: per epoch.

    Returns:
        `[steps]` in [0, 1].
    """
    progress = (epoch * steps + np.arange(steps)) / (settings.epochs * steps)
    warmup = settings.warmup
    after = np.clip((progress - warmup) / (1.0 - warmup), 0.0, 1.0)
    decay = {
        "constant": np.ones_like(after),
        "linear": 1.0 - after,
        "cosine": (1.0 + np.cos(np.pi * after)) / 2.0,
    }[settings.schedule]
    if warmup == 0.0:
        return decay
    # the first step of a warm-up moves a little, or it would be wasted
    rising = (progress + 1.0 / (settings.epochs * steps)) / warmup
    return np.where(progress < warmup, np.minimum(rising, 1.0), decay)
