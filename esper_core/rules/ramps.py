"""Ramps: how a seed's influence moves from one value to another, computed from its schedule.

Role: the only place that turns a schedule into an influence. Nothing is integrated over time, so a ramp is
exact at its ends and monotone between them.
Neighbours: `rules.lifecycle` sets schedules and advances them, device plans read influences.
"""

import attrs
import numpy as np
from numpy.typing import ArrayLike

from esper_core.state.actions import Curve
from esper_core.state.arrays import Floats
from esper_core.state.slots import BLENDED, SlotTable, Stage

STEEPNESS = {Curve.SIGMOID_GENTLE: 6.0, Curve.SIGMOID: 12.0, Curve.SIGMOID_SHARP: 24.0}
"""Steepness k of the sigmoid curves, per length of the ramp."""


def shape(curve: ArrayLike, progress: ArrayLike) -> Floats:
    """Fraction of a ramp's height that is reached at a fraction of its length.

    With t the progress: linear t; cosine (1 - cos(pi t)) / 2; sigmoid, normalised to meet its ends,
    (tanh(k (t - 1/2) / 2) / tanh(k / 4) + 1) / 2.

    Args:
        curve: of `Curve`, any shape.
        progress: in [0, 1], broadcastable to `curve`.

    Returns:
        Values in [0, 1]; exactly 0 at progress 0 and exactly 1 at progress 1.
    """
    curve, t = np.broadcast_arrays(np.asarray(curve), np.asarray(progress, np.float64))
    height = t.copy()
    for kind in np.unique(curve).tolist():
        if kind == Curve.COSINE:
            height = np.where(curve == kind, (1.0 - np.cos(np.pi * t)) / 2.0, height)
        elif kind in STEEPNESS:
            k = STEEPNESS[Curve(kind)]
            sigmoid = (np.tanh(k * (t - 0.5) / 2.0) / np.tanh(k / 4.0) + 1.0) / 2.0
            height = np.where(curve == kind, sigmoid, height)
    return np.where(t <= 0.0, 0.0, np.where(t >= 1.0, 1.0, np.clip(height, 0.0, 1.0)))


def along(slots: SlotTable) -> Floats:
    """`[N, S]` position of every ramp after its `ramp_done` epochs, whatever the stage."""
    complete = slots.ramp_done >= slots.ramp_steps
    progress = slots.ramp_done / np.maximum(slots.ramp_steps, 1)
    rise = (slots.ramp_target - slots.ramp_start) * shape(slots.ramp_curve, np.minimum(progress, 1.0))
    low = np.minimum(slots.ramp_start, slots.ramp_target)
    high = np.maximum(slots.ramp_start, slots.ramp_target)
    between = np.clip(slots.ramp_start + rise, low, high)
    return np.where(complete, slots.ramp_target, between)


def influence(slots: SlotTable) -> Floats:
    """`[N, S]` influence a of every seed in [0, 1]: its ramp's position once it blends, else 0."""
    return np.where(slots.within(BLENDED), along(slots), 0.0)


def upcoming(slots: SlotTable) -> Floats:
    """`[N, S]` influence of every seed after the next tick, if nothing is decided."""
    begun = attrs.evolve(slots, ramp_done=slots.ramp_done + (slots.stage == Stage.BLENDING))
    return influence(begun)


def first_contact(slots: SlotTable) -> Floats:
    """`[N, S]` influence that a seed in TRAINING would have in its first epoch of BLENDING; else 0."""
    begun = attrs.evolve(slots, ramp_done=np.ones_like(slots.ramp_done))
    return np.where(slots.stage == Stage.TRAINING, along(begun), 0.0)
