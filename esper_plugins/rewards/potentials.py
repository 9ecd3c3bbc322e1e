"""Potentials: what they pay over a segment depends on where it began, and on nothing else."""

from math import inf

import numpy as np

from esper_core.plugin import PLANTED, Floats, Potential, Stage, Standing
from esper_plugins.rewards.settings import Stages


def score() -> Potential:
    """The live network's validation score."""
    return Potential(units="score", low=-inf, high=inf, needs={"score"}, level=lambda at: at.signals.score)


def stage(settings: Stages) -> Potential:
    """How far every seed has come: a level for its stage, and a little for every epoch in it.

    phi = level[stage] + min(per_epoch * dwell, at_most)        0 without a seed
    """
    levels = np.zeros(len(Stage))
    levels[Stage.TRAINING] = settings.training
    levels[Stage.BLENDING] = settings.blending
    levels[Stage.HOLDING] = settings.holding
    levels[Stage.FOSSILIZED] = settings.fossilized

    def level(at: Standing) -> Floats:
        dwelt = np.minimum(settings.per_epoch * at.slots.dwell, settings.at_most)
        return np.where(at.slots.within(PLANTED), levels[at.slots.stage] + dwelt, 0.0)

    return Potential(units="stages", low=0.0, high=float(levels.max()) + settings.at_most, level=level)
