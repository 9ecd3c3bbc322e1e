"""Events: what was done, and what happened to seeds."""

from math import inf

import numpy as np

from esper_core.plugin import LIVE, Event, Floats, Op, Transition, influence
from esper_plugins.rewards.settings import Acted, EarlyPrune, LossChange, Shock


def acted(settings: Acted) -> Event:
    """What the operation costs that was carried out; waiting, and what was refused, costs nothing."""
    costs = np.zeros(len(Op))
    costs[Op.GERMINATE] = settings.germinate
    costs[Op.ADVANCE] = settings.advance
    costs[Op.SET_ALPHA_TARGET] = settings.set_alpha_target
    costs[Op.FOSSILIZE] = settings.fossilize
    costs[Op.PRUNE] = settings.prune
    return Event(
        units="actions", low=0.0, high=float(costs.max()), amount=lambda transition: costs[transition.done]
    )


def refused() -> Event:
    """1 where what was asked for could not be done, so that nothing was."""
    return Event(units="actions", low=0.0, high=1.0, amount=lambda t: (t.refused != 0).astype(np.float64))


def early_prune(settings: EarlyPrune) -> Event:
    """1 where a seed is pruned on purpose before it is `min_age` epochs old."""

    def amount(transition: Transition) -> Floats:
        slot = np.clip(transition.decision.slot, 0, transition.before.slots.shape[1] - 1)
        age = np.take_along_axis(transition.before.slots.age, slot[:, None], axis=1)[:, 0]
        return np.where((transition.done == Op.PRUNE) & (age < settings.min_age), 1.0, 0.0)

    return Event(units="seeds", low=0.0, high=1.0, amount=amount)


def lost_seed() -> Event:
    """1 for every uncommitted seed that is gone though nobody asked for it: it diverged, or its host did."""

    def amount(transition: Transition) -> Floats:
        before, after = transition.before.slots, transition.after.slots
        slots = np.arange(before.shape[1])
        asked = (transition.done == Op.PRUNE)[:, None] & (transition.decision.slot[:, None] == slots)
        gone = before.within(LIVE) & (before.seed != after.seed)
        return np.where(gone & ~asked & ~before.withdrawing, 1.0, 0.0)

    return Event(units="seeds", low=0.0, high=1.0, amount=amount)


def shock(settings: Shock) -> Event:
    """Sum over slots of (change of influence)^2 * the parameters before it / max(host, floor), capped.

    A seed that appears has had no parameters and costs nothing; one that is taken out at full influence does.
    """

    def amount(transition: Transition) -> Floats:
        before, after = transition.before, transition.after
        change = np.square(influence(after.slots) - influence(before.slots)) * before.slots.parameters
        total = change.sum(axis=1) / max(before.host_parameters, settings.floor)
        return np.minimum(np.where(transition.panicked, 0.0, total), settings.cap)

    return Event(units="hosts", low=0.0, high=settings.cap, amount=amount)


def shipped() -> Event:
    """The score with committed seeds only, where a segment ends; 0 if nothing was ever measured."""

    def amount(transition: Transition) -> Floats:
        signals = transition.after.signals
        return np.where(transition.terminal & ~np.isnan(signals.score), signals.committed, 0.0)

    return Event(units="score", low=-inf, high=inf, needs={"score", "committed"}, amount=amount)


def loss_change(settings: LossChange) -> Event:
    """By how much the validation loss fell, in units of `scale`; 0 where either loss is unknown.

    It is not clipped, and a rise costs what a fall pays: else a loss that goes up in one step and down in
    two, or up and down for ever, would earn something.
    """

    def amount(transition: Transition) -> Floats:
        fell = transition.before.signals.loss - transition.after.signals.loss
        return np.where(np.isnan(fell), 0.0, fell) / settings.scale

    return Event(units="scales", low=-inf, high=inf, needs={"loss"}, amount=amount)
