"""The governor: which environments panic, judged from their own validation losses.

Role: pure predicates over a window of losses. Every environment is judged by its own row alone.
Neighbours: `state.governor` holds the window, `rules.lifecycle.rollback` undoes a panic's growth,
`phases.collect` calls both.
"""

import math

import numpy as np

from esper_core.state.arrays import Bools, Floats, Ints, expect_shape
from esper_core.state.governor import Verdict, Vitals
from esper_core.state.settings import GovernorSettings


def judge(
    vitals: Vitals, loss: Floats, score: Floats, chance: float | None, settings: GovernorSettings
) -> tuple[Vitals, Ints]:
    """Judge one epoch of every environment.

    With m and s the mean and the population standard deviation of an environment's window, and c the loss
    of knowing nothing, the first of these that holds is its verdict; all but the first need a window of at
    least `min_samples` losses:

    - NONFINITE: the loss or the score is not finite.
    - COLLAPSE: m < collapse_from * c and |loss - c| < collapse_band * c.
    - DIVERGENCE: `patience` anomalous epochs in a row, an anomaly being
      loss > max(m + sensitivity * s, multiplier * m, c).

    Where m is not positive, a ratio to it says nothing, and indeed the second term asks for nothing then:
    `multiplier` is at least 1, so that multiplier * m <= m. Without a known c there is no collapse, and the
    third term is left out.

    A loss enters the window only if its epoch was neither anomalous nor a panic. A panic empties the
    window, because what is rolled back to may be worth less than what was usual, and takes the strikes back
    to 0.

    Args:
        vitals: before the epoch.
        loss: `[N]` mean validation loss (units of the task's loss).
        score: `[N]` validation score.
        chance: c, in units of the loss; None where it is not known.
        settings: thresholds.

    Returns:
        The vitals after the epoch and `[N]` of `Verdict`.

    Raises:
        ValueError: an array is not `[N]`, or `chance` is not positive and finite.
    """
    for name, values in (("loss", loss), ("score", score)):
        expect_shape(vitals, f"{name} of the epoch", values, vitals.strikes.shape)
    if chance is not None and not (math.isfinite(chance) and chance > 0.0):
        raise ValueError(f"the loss of knowing nothing must be positive and finite, or None, not {chance}")
    mean, limit, samples = _usual(vitals.history, settings)
    finite = np.isfinite(loss) & np.isfinite(score)
    known = finite & (samples >= settings.min_samples)
    collapsed = np.zeros_like(known)
    if chance is not None:
        learned = mean < settings.collapse_from * chance
        collapsed = known & learned & (np.abs(loss - chance) < settings.collapse_band * chance)
        limit = np.maximum(limit, chance)
    anomalous = known & ~collapsed & (loss > limit)
    strikes = np.where(anomalous, vitals.strikes + 1, 0)
    diverged = strikes >= settings.patience
    found: list[tuple[Bools, Verdict]] = [
        (~finite, Verdict.NONFINITE),
        (collapsed, Verdict.COLLAPSE),
        (diverged, Verdict.DIVERGENCE),
    ]
    verdict: Ints = np.select([f for f, _ in found], [int(v) for _, v in found], int(Verdict.NONE))
    panicked = (verdict != Verdict.NONE)[:, None]
    remembered = _remember(vitals.history, loss, finite & ~collapsed & ~anomalous)
    following = Vitals(
        # what is rolled back may be worth less than what was usual: it gets a window of its own
        history=np.where(panicked, np.nan, remembered),
        strikes=np.where(diverged, 0, strikes),
    )
    return following, verdict


def healthy(vitals: Vitals, verdict: Ints) -> Bools:
    """`[N]`: the epoch may be blessed, that is, be what a later panic rolls back to.

    Args:
        vitals: after the epoch.
        verdict: `[N]` of the epoch.
    """
    blessed: Bools = (verdict == Verdict.NONE) & (vitals.strikes == 0)
    return blessed


def _usual(history: Floats, settings: GovernorSettings) -> tuple[Floats, Floats, Ints]:
    """What is usual by the losses of a window.

    Returns:
        `[N]` mean, 0 of an empty window; `[N]` largest loss that does not stand out from the window, infinite
        or NaN where the spread is beyond float64, so that nothing does; `[N]` number of losses.
    """
    seen = ~np.isnan(history)
    samples: Ints = seen.sum(axis=1)
    count = np.maximum(samples, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.where(seen, history, 0.0).sum(axis=1) / count
        square = np.where(seen, (history - mean[:, None]) ** 2, 0.0).sum(axis=1) / count
        limit = np.maximum(mean + settings.sensitivity * np.sqrt(square), settings.multiplier * mean)
    return mean, limit, samples


def _remember(history: Floats, loss: Floats, where: Bools) -> Floats:
    """The windows at `where` drop their oldest place and take in the loss."""
    moved = np.concatenate([history[:, 1:], loss[:, None]], axis=1)
    return np.where(where[:, None], moved, history)
