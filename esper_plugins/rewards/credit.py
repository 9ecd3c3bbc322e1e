"""What the terms that credit seeds have in common: progress, how measures are combined, and limits.

Role: pure functions; sources are the equations in each docstring. Neighbours: `flows` pays credit as a level,
`accounts` as a balance.
"""

import numpy as np

from esper_core.plugin import Bools, Floats, Memory, Stage, Standing, Transition

WORTH = ("score", "committed", "bare")
"""Measurements that `limited` reads."""


def progress_memory(window: int) -> Memory:
    """Remembers, per slot, the score before its seed germinated, and per environment the last scores.

    Args:
        window: epochs of scores that are kept, W; the memory is `[N, S + W]`.
    """

    def blank(envs: int, slots: int) -> Floats:
        return np.full((envs, slots + window), np.nan)

    def follow(noted: Floats, transition: Transition) -> Floats:
        before, after = transition.before, transition.after
        seed = after.slots.seed
        count = seed.shape[1]
        same = seed == before.slots.seed
        birth = np.where(same, noted[:, :count], before.signals.score[:, None])
        recent = np.concatenate([noted[:, count + 1 :], after.signals.score[:, None]], axis=1)
        return np.concatenate([np.where(seed >= 0, birth, np.nan), recent], axis=1)

    return Memory(blank=blank, follow=follow)


def progress(at: Standing) -> Floats:
    """`[N, S]`: the lowest of the last scores minus the score before the seed germinated; NaN if unknown.

    It is everything that happened since, the host's own training included: no measure of a cause.
    """
    count = at.slots.shape[1]
    birth, recent = at.noted[:, :count], at.noted[:, count:]
    lowest = np.fmin.reduce(recent, axis=1)
    gone: Floats = lowest[:, None] - birth
    return gone


def combine(how: str, progress: Floats, contribution: Floats) -> Floats:
    """Credit for a contribution c >= 0 in view of the progress p.

        c / 2      p unknown
        0          p <= 0
        h(p, c)    p <= c:  c (contribution), p (minimum), 2 p c / (p + c) (harmonic), sqrt(p c) (geometric)
        c          else

    Args:
        how: name of h; "contribution" gives c whatever p is.
        progress: p, NaN where unknown.
        contribution: c, NaN where unknown.

    Returns:
        In [0, c]; 0 where c < 0, NaN where c is unknown.
    """
    c = np.where(contribution < 0, 0.0, contribution)
    if how == "contribution":
        return c
    p = np.where(progress < 0, 0.0, progress)
    total = p + c
    mean = {
        "minimum": np.minimum(p, c),
        "harmonic": np.divide(2.0 * p * c, total, out=np.zeros_like(c), where=total > 0),
        "geometric": np.sqrt(p * c),
    }[how]
    credit = np.where(np.isnan(p), c / 2.0, np.where(c >= p, mean, c))
    return np.where(np.isnan(c), np.nan, credit)


def limited(credit: Floats, at: Standing) -> Floats:
    """Credit that adds up to no more than what the seeds together are worth.

    With b, c and s the scores of the host without seeds, with committed ones only, and as it stands, the
    credit of committed seeds adds up to at most max(0, c - b), and that of the others to at most
    max(0, s - c): where it would be more, all of a kind get the same share of it. So nothing is paid for
    undoing harm, or for seeds that only seem useful because they hold each other hostage.

    Args:
        credit: `[N, S]`, at least 0, NaN where unknown.
        at: where the seeds stand.

    Returns:
        `[N, S]` in [0, credit]; NaN where it is unknown or the limit is.
    """
    bare, fossils = at.attribution.bare, committed(at)
    limits = (at.signals.committed - bare, at.signals.score - at.signals.committed)
    result = credit
    for kind, limit in zip((fossils, ~fossils), limits, strict=True):
        total = np.where(kind, np.nan_to_num(credit), 0.0).sum(axis=1)
        most = np.where(limit < 0, 0.0, limit)
        share = np.divide(most, total, out=np.ones_like(total), where=total > most)
        share = np.where(np.isnan(most), np.nan, share)
        result = np.where(kind, credit * share[:, None], result)
    return result


def earned(value: Floats, error: Floats, errors: float) -> Floats:
    """max(0, value - errors * error); NaN where the value is unknown; an unknown error counts as 0."""
    certain = value - errors * np.nan_to_num(error)
    return np.where(certain < 0, 0.0, certain)


def just_committed(transition: Transition) -> Bools:
    """`[N, S]`: the seed was committed in this epoch and is there after it."""
    before, after = transition.before.slots, transition.after.slots
    same = (before.seed == after.seed) & (after.seed >= 0)
    fossil = committed(transition.after) & ~committed(transition.before)
    arrived: Bools = same & fossil & ~transition.panicked[:, None]
    return arrived


def committed(at: Standing) -> Bools:
    """`[N, S]`: the seed is committed."""
    return at.slots.within((Stage.FOSSILIZED,))
