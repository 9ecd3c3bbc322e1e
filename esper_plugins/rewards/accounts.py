"""Accounts: credit as a balance, which a seed keeps once it is committed and gives back otherwise."""

from math import inf

import numpy as np

from esper_core.plugin import Account, Floats, Memory, Standing, Transition
from esper_plugins.rewards.credit import (
    WORTH,
    combine,
    committed,
    earned,
    just_committed,
    limited,
    progress,
    progress_memory,
)
from esper_plugins.rewards.settings import Bonus, Escrow, Hindsight, Share


def share(settings: Share) -> Account:
    """A seed's share of what all seeds add to the score, less what may be chance.

    target = limited(max(0, estimate - errors * its standard error)), as in `credit`
    """
    error = f"{settings.estimate}_error"

    def target(at: Standing) -> Floats:
        found = at.attribution
        sure = earned(getattr(found, settings.estimate), getattr(found, error), settings.errors)
        return limited(sure, at)

    return Account(
        units="score",
        low=0.0,
        high=inf,
        needs={settings.estimate, error, *WORTH},
        step=settings.step,
        target=target,
        vested=committed,
    )


def attribution(settings: Escrow) -> Account:
    """Credit for a seed's contribution in view of the progress since its germination.

    target = limited(combine(p, c)), as in `credit`
    """

    def target(at: Standing) -> Floats:
        return limited(combine(settings.combine, progress(at), at.evidence.contribution), at)

    return Account(
        units="score",
        low=0.0,
        high=inf,
        needs={"contribution", *WORTH},
        memory=progress_memory(settings.window),
        step=settings.step,
        target=target,
        vested=committed,
    )


def bonus(settings: Bonus) -> Account:
    """What a committed seed goes on contributing, if it was ripe when it was committed.

    target = limited(max(0, c - errors * its error)) * min(1, epochs in HOLDING before it / ripe)

    With a small `step` it is paid out little by little.
    """

    def blank(envs: int, slots: int) -> Floats:
        return np.full((envs, slots), np.nan)  # a survivor of a panic: unknown, so that its balance stays

    def follow(noted: Floats, transition: Transition) -> Floats:
        ripe = np.minimum(transition.before.slots.dwell / settings.ripe, 1.0)
        return np.where(just_committed(transition), ripe, np.where(committed(transition.after), noted, 0.0))

    def target(at: Standing) -> Floats:
        found = at.evidence
        sure = earned(found.contribution, found.contribution_error, settings.errors)
        return limited(np.where(committed(at), sure, 0.0), at) * at.noted

    return Account(
        units="score",
        low=0.0,
        high=inf,
        needs={"contribution", "contribution_error", *WORTH},
        memory=Memory(blank=blank, follow=follow),
        step=settings.step,
        target=target,
        vested=committed,
    )


def hindsight(settings: Hindsight) -> Account:
    """Credit for a seed that helped another one which was committed later.

    With I_ij the interaction of two seeds, memory m, and s_j the Shapley share of j when it is committed:

        help_ij   <- m help_ij + max(0, I_ij)
        credit_i  <- credit_i + help_ij * max(0, s_j)        once, when j is committed; then help_ij <- 0
        target_i   = min(credit_i, cap)                      once there is any

    It counts what a Shapley share has counted already, so families have it at weight 0. Credit is kept, also
    by a seed that is pruned afterwards: to help and to go is what a scaffold is for.
    """

    def blank(envs: int, slots: int) -> Floats:
        return np.zeros((envs, slots, slots + 1))

    def follow(noted: Floats, transition: Transition) -> Floats:
        before, after = transition.before.slots, transition.after.slots
        same = (before.seed == after.seed) & (after.seed >= 0)
        lasting = same[:, :, None] & same[:, None, :]
        helped = np.maximum(np.nan_to_num(transition.after.attribution.interaction), 0.0)
        helped = np.where(lasting, settings.memory * noted[:, :, :-1], 0.0) + helped
        arrived = just_committed(transition)[:, None, :]
        worth = np.maximum(np.nan_to_num(transition.after.attribution.shapley), 0.0)[:, None, :]
        credit = np.where(same, noted[:, :, -1], 0.0) + np.where(arrived, helped * worth, 0.0).sum(axis=2)
        return np.concatenate([np.where(arrived, 0.0, helped), credit[:, :, None]], axis=2)

    def target(at: Standing) -> Floats:
        credit = at.noted[:, :, -1]
        # without credit the balance stays: a seed that survives a panic keeps what it was paid
        return np.where(credit > 0, np.minimum(credit, settings.cap), np.nan)

    return Account(
        units="score squared",
        low=0.0,
        high=settings.cap,
        needs={"interaction", "shapley"},
        memory=Memory(blank=blank, follow=follow),
        target=target,
        vested=lambda at: at.noted[:, :, -1] > 0,
    )
