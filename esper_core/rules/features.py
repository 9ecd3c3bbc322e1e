"""Features: what a learned policy reads of N environments, as numbers with names.

Everything is finite. What is not known, or not finite, is 0, and the columns that end in "known" tell what
was never measured from a measured zero. Losses go through sign(x) ln(1 + |x|), because they have
no upper bound; times are shares of the episode, sizes are shares of the host.

Role: pure functions of a view; `HOST_FEATURES` and `SLOT_FEATURES` name the columns.
Neighbours: `phases.collect` makes the view, learned policies normalise and read the features.
"""

import numpy as np

from esper_core.rules import ramps
from esper_core.state.arrays import Bools, Floats
from esper_core.state.evidence import Evidence
from esper_core.state.signals import HostSignals
from esper_core.state.slots import LIVE, SlotTable, Stage

HOST_FEATURES = {
    "time": "share of the episode that is over",
    "known": "1 if the last epoch's losses are known; 0 when the episode begins and after a rollback",
    "train_loss": "training loss of the last epoch",
    "loss": "validation loss",
    "score": "validation score",
    "committed": "validation score of what would ship now",
    "below_best": "best score so far minus score",
    "plateau": "share of the episode since the best score rose",
    "live": "share of the slots with a live seed",
    "fossils": "share of the slots with a committed seed",
    "added": "parameters of all seeds, as a share of the host's",
}
"""Columns of `host_features`, and what they mean."""

SLOT_FEATURES = {
    **{stage.name.lower(): f"1 in the stage {stage.name}" for stage in Stage},
    "influence": "influence of the seed",
    "ramp": "share of its ramp that is done",
    "age": "epochs lived, as a share of the episode",
    "dwell": "epochs in the stage, as a share of the episode",
    "size": "parameters of the seed, as a share of the host's",
    "contribution": "score minus the score without the seed",
    "contribution_error": "its standard error",
    "contribution_known": "1 if it was ever measured",
    "contribution_age": "epochs since then, as a share of the episode",
    "velocity": "moving average of the contribution's change",
    "shapley": "Shapley share of what all seeds add",
    "shapley_error": "its standard error",
    "health": "gradient health",
    "health_known": "1 if it was measured in the last epoch",
    "gradient_norm": "gradient norm of the seed",
    "gradient_ratio": "its gradient per parameter over the host's",
    "nonfinite": "1 if a gradient was not finite",
    "contact": "rise of the loss if its ramp began now",
    "contact_known": "1 if it was measured in the last epoch, and is finite",
    "rank": "effective rank of the features behind the slot",
    "rank_order": "share of the host's slots whose rank is lower: 0 for the lowest",
    "orthogonality": "in how many directions the loss wants these features to move",
    "orthogonality_order": "share of the host's slots where it is lower: 0 for the lowest",
    "site_known": "1 if both were measured",
}
"""Columns of `slot_features`, and what they mean."""


def host_features(
    epoch: int, epochs: int, begins: Bools, slots: SlotTable, signals: HostSignals, host_parameters: int
) -> Floats:
    """Features of the hosts.

    Args:
        epoch: that is about to begin.
        epochs: length of the episode.
        begins: `[N]` a segment begins.
        slots: where every seed stands.
        signals: what was measured about the hosts.
        host_parameters: of one host.

    Returns:
        `[N, F]` in the order of `HOST_FEATURES`.
    """
    envs = len(begins)
    return np.stack(
        [
            np.full(envs, epoch / epochs),
            _flag(np.isfinite(signals.train_loss) & np.isfinite(signals.loss)),
            _known(_compressed(signals.train_loss)),
            _known(_compressed(signals.loss)),
            _known(signals.score),
            _known(signals.committed),
            _known(signals.best - signals.score),
            signals.plateau / epochs,
            slots.within(LIVE).mean(axis=1),
            (slots.stage == Stage.FOSSILIZED).mean(axis=1),
            slots.parameters.sum(axis=1) / host_parameters,
        ],
        axis=1,
    )


def slot_features(epochs: int, slots: SlotTable, evidence: Evidence, host_parameters: int) -> Floats:
    """Features of the slots.

    Args:
        epochs: length of the episode.
        slots: where every seed stands.
        evidence: what was measured about it.
        host_parameters: of one host.

    Returns:
        `[N, S, G]` in the order of `SLOT_FEATURES`.
    """
    stages = _flag(slots.stage[:, :, None] == np.arange(len(Stage)))
    columns = [
        ramps.influence(slots),
        slots.ramp_done / np.maximum(slots.ramp_steps, 1),
        slots.age / epochs,
        slots.dwell / epochs,
        slots.parameters / host_parameters,
        _known(evidence.contribution),
        _known(evidence.contribution_error),
        _flag(evidence.measured >= 0),
        np.maximum(evidence.measured, 0) / epochs,
        _known(evidence.velocity),
        _known(evidence.shapley),
        _known(evidence.shapley_error),
        _known(evidence.health),
        _flag(np.isfinite(evidence.health)),
        _known(_compressed(evidence.gradient_norm)),
        _known(_compressed(evidence.gradient_ratio)),
        _flag(evidence.nonfinite > 0),
        _known(_compressed(evidence.contact)),
        _flag(np.isfinite(evidence.contact)),
        _known(evidence.rank),
        _order(evidence.rank),
        _known(evidence.orthogonality),
        _order(evidence.orthogonality),
        _flag(np.isfinite(evidence.rank) & np.isfinite(evidence.orthogonality)),
    ]
    return np.concatenate([stages, np.stack(columns, axis=2)], axis=2)


def _flag(holds: Bools) -> Floats:
    return holds.astype(np.float64)


def _known(values: Floats) -> Floats:
    """0 for what is unknown, or not finite."""
    return np.where(np.isfinite(values), values, 0.0)


def _compressed(values: Floats) -> Floats:
    return np.sign(values) * np.log1p(np.abs(values))


def _order(values: Floats) -> Floats:
    """Share of a row that is lower; unlike a difference, it tells values apart that are close."""
    lower: Floats = (values[:, None, :] < values[:, :, None]).mean(axis=2)
    return lower
