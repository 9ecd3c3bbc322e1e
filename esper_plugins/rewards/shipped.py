"""The reward family `shipped`: pays exactly what the shipped network gained, minus rent.

With s_t the live network's validation score after epoch t, c its score with committed seeds only, T the last
epoch, and scores oriented so that higher is better:

    r_t = gamma s_t [t < T] - s_{t-1} + [t = T] (c - price * committed parameters / host parameters)

where s_{-1} stands for gamma s_0, because nothing has been measured before the first epoch. The horizon is
finite and time is observed, so gamma may be 1. Then an episode pays

    r_0 + ... + r_T = c - s_0 - price * committed parameters / host parameters

and there is nothing to farm. A panic ends a segment like the end of the episode does, with the c of what was
rolled back to, and the next segment begins with its score: over both, nothing is gained or lost but the
governor's penalty. Rent is paid once, at the end of the episode.

    price = rent * ramp        ramp = 0 up to the share `rent_from` of the run's rounds, 1 from `rent_full` on

and linear between them: a controller learns what grows before it learns what growing costs.
"""

from math import inf

import numpy as np
from attrs import frozen

from esper_core.plugin import Event, Floats, Outcome, Potential, Stage, Standing, Transition
from esper_plugins.rewards.settings import Shipped


@frozen(kw_only=True)
class ShippedFamily:
    """Change of the live score; at the end, the shipped score closes the sum and rent is paid.

    Attributes:
        terms: `score`, `shipped` and `rent`.
    """

    terms: tuple[Potential | Event | Outcome, ...]


def build(settings: Shipped) -> ShippedFamily:
    """The family."""

    def rent(after: Standing) -> Floats:
        ramp = np.interp(after.progress, [settings.rent_from, settings.rent_full], [0.0, 1.0])
        committed = after.slots.stage == Stage.FOSSILIZED
        parameters = np.where(committed, after.slots.parameters, 0).sum(axis=1)
        amount: Floats = -ramp * parameters / after.host_parameters
        return amount

    return ShippedFamily(
        terms=(
            Potential(name="score", units="score", low=-inf, high=inf, level=_score),
            Event(name="shipped", units="score", low=-inf, high=inf, amount=_shipped),
            Outcome(name="rent", units="hosts", low=-inf, high=0.0, weight=settings.rent, amount=rent),
        )
    )


def _score(after: Standing) -> Floats:
    return after.signals.score


def _shipped(transition: Transition) -> Floats:
    """`[N]`; a host that never lived through an epoch has gained nothing over its unknown first score."""
    signals = transition.after.signals
    ends = transition.terminal & ~np.isnan(signals.score)
    return np.where(ends, signals.committed, 0.0)
