"""Outcomes: what an episode came to. Where nothing was ever measured, an environment has come to nothing."""

from math import inf

import numpy as np

from esper_core.plugin import Floats, Outcome, Standing
from esper_plugins.rewards.credit import WORTH, committed, earned, limited
from esper_plugins.rewards.settings import CommittedRent, Contributing, FinalLoss


def committed_rent(settings: CommittedRent) -> Outcome:
    """Committed parameters per parameter of the host, ramped in over the run.

    The ramp is 0 up to the share `begins` of the run's rounds, 1 from `full` on, and linear between them: a
    controller learns what grows before it learns what growing costs.
    """

    def amount(at: Standing) -> Floats:
        ramp = np.interp(at.progress, [settings.begins, settings.full], [0.0, 1.0])
        parameters = np.where(committed(at), at.slots.parameters, 0).sum(axis=1)
        price: Floats = ramp * parameters / at.host_parameters
        return price

    return Outcome(units="hosts", low=0.0, high=inf, amount=amount)


def final_score() -> Outcome:
    """The live network's validation score."""
    return Outcome(
        units="score",
        low=-inf,
        high=inf,
        needs={"score"},
        amount=lambda at: np.nan_to_num(at.signals.score, posinf=inf, neginf=-inf),
    )


def committed_score() -> Outcome:
    """The score with committed seeds only."""

    def amount(at: Standing) -> Floats:
        return np.where(np.isnan(at.signals.score), 0.0, at.signals.committed)

    return Outcome(units="score", low=-inf, high=inf, needs={"score", "committed"}, amount=amount)


def gain() -> Outcome:
    """By how much the committed seeds raise the score of the same host without seeds."""

    def amount(at: Standing) -> Floats:
        bare = at.attribution.bare
        return np.where(np.isnan(bare), 0.0, at.signals.committed - bare)

    return Outcome(units="score", low=-inf, high=inf, needs={"committed", "bare"}, amount=amount)


def contributing(settings: Contributing) -> Outcome:
    """Committed seeds that contribute, slot by slot.

    min(1, limited(max(0, c - errors * its error)) / enough), as in `credit`
    """

    def amount(at: Standing) -> Floats:
        sure = earned(at.evidence.contribution, at.evidence.contribution_error, settings.errors)
        credit = limited(np.where(committed(at), sure, 0.0), at)
        return np.minimum(np.nan_to_num(credit) / settings.enough, 1.0)

    return Outcome(
        units="seeds", low=0.0, high=1.0, needs={"contribution", "contribution_error", *WORTH}, amount=amount
    )


def final_loss(settings: FinalLoss) -> Outcome:
    """How much of the way from `start` to `goal` the validation loss has gone, in [0, 1]."""

    def amount(at: Standing) -> Floats:
        way = (settings.start - at.signals.loss) / (settings.start - settings.goal)
        return np.where(np.isnan(way), 0.0, np.clip(way, 0.0, 1.0))

    return Outcome(units="ways", low=0.0, high=1.0, needs={"loss"}, amount=amount)
