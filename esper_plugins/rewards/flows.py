"""Flows: costs of what is there, and, for the baselines that pay levels, credit for it every epoch."""

from math import inf

import numpy as np

from esper_core.plugin import BLENDED, LIVE, PLANTED, Floats, Flow, Standing, influence
from esper_plugins.rewards.credit import WORTH, combine, committed, limited, progress, progress_memory
from esper_plugins.rewards.settings import Credit, LogRent, Occupancy


def rent_log(settings: LogRent) -> Flow:
    """Rent that grows with the logarithm of the parameters that seeds add while they have influence.

    P = sum over blended seeds of (base * host + influence * parameters)
    amount = min(ln(1 + P / max(host, floor)), cap)
    """

    def amount(at: Standing) -> Floats:
        host = at.host_parameters
        size = settings.base * host + influence(at.slots) * at.slots.parameters
        total = np.where(at.slots.within(BLENDED), size, 0.0).sum(axis=1)
        rent: Floats = np.minimum(np.log1p(total / max(host, settings.floor)), settings.cap)
        return rent

    return Flow(units="log hosts", low=0.0, high=settings.cap, amount=amount)


def rent_linear() -> Flow:
    """Parameters of all seeds that are planted, per parameter of the host."""

    def amount(at: Standing) -> Floats:
        total: Floats = at.slots.parameters.sum(axis=1) / at.host_parameters
        return total

    return Flow(units="hosts", low=0.0, high=inf, amount=amount)


def occupancy(settings: Occupancy) -> Flow:
    """Seeds that are planted, committed ones included, beyond those that are free."""

    def amount(at: Standing) -> Floats:
        planted = at.slots.within(PLANTED).sum(axis=1)
        beyond: Floats = np.maximum(planted - float(settings.free), 0.0)
        return beyond

    return Flow(units="seeds", low=0.0, high=inf, amount=amount)


def fossils() -> Flow:
    """Committed seeds, slot by slot."""
    return Flow(units="seeds", low=0.0, high=1.0, amount=lambda at: committed(at).astype(np.float64))


def attribution_level(settings: Credit) -> Flow:
    """A baseline: credit for the contribution of every uncommitted seed, paid as a level every epoch.

    c where it is negative, else limited(combine(p, c)). Waiting pays: a seed that is held earns it in every
    epoch, and one that is committed no more. `esper/attribution` pays the same credit as a balance.
    """

    def amount(at: Standing) -> Floats:
        c = at.evidence.contribution
        credit = limited(combine(settings.combine, progress(at), c), at)
        level = np.where(c < 0, c, credit)
        return np.where(at.slots.within(LIVE) & ~np.isnan(level), level, 0.0)

    return Flow(
        units="score",
        low=-inf,
        high=inf,
        needs={"contribution", *WORTH},
        memory=progress_memory(1),
        amount=amount,
    )


def synergy() -> Flow:
    """A baseline: a bonus in [0, 1) for uncommitted seeds that are worth more together than alone.

    tanh(50 limited(max(0, min(I, c)))), I the sum of a seed's interactions with all others, c its
    contribution. Shapley shares split the same worth and pay it once.
    """
    per_score = 50.0

    def amount(at: Standing) -> Floats:
        together = np.nan_to_num(at.attribution.interaction).sum(axis=2)
        gained = np.maximum(np.minimum(together, np.nan_to_num(at.evidence.contribution)), 0.0)
        worth = limited(np.where(at.slots.within(LIVE), gained, 0.0), at)
        return np.tanh(per_score * np.nan_to_num(worth))

    return Flow(
        units="shares",
        low=0.0,
        high=1.0,
        needs={"interaction", "contribution", *WORTH},
        amount=amount,
    )
