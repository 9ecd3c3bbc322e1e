"""The policy `heuristic`: plant when the score stops rising, keep what contributes. A baseline."""

import numpy as np

from esper_core.plugin import LIVE, Choice, Floats, Ints, PolicyContext, Rule, Stage, View
from esper_plugins.policies.moves import Planter, advance, commit, commit_at_the_end, first, lowest, prune
from esper_plugins.policies.settings import Heuristic


def build(context: PolicyContext, settings: Heuristic) -> "Plateau":
    """The policy for a vocabulary of actions."""
    return Plateau(context, settings)


class Plateau(Rule):
    """One seed at a time, slot after slot and blueprint after blueprint."""

    def __init__(self, context: PolicyContext, settings: Heuristic) -> None:
        """Remember the vocabulary and the thresholds."""
        self._space, self._settings = context.space, settings
        self._planter = Planter(context.space)

    def decide(self, view: View, memory: None, uniforms: Floats) -> Choice:
        """Commit, advance, prune or plant, whichever is due first."""
        own, slots = self._settings, view.slots
        worthy = view.evidence.contribution >= own.min_contribution
        tired = (slots.stage == Stage.HOLDING) & (slots.dwell >= own.hold_patience)
        idle = ~slots.within(LIVE).any(axis=1) & (view.signals.plateau >= own.patience)
        idle &= view.epoch >= own.min_epoch
        slot, blueprint = self._turns(slots.born)
        due = lowest(self._planter.possible(view) & idle[:, None], slot)
        decision = first(
            commit_at_the_end(view),
            commit(view, worthy),
            advance(view),
            prune(view, tired, self._space),
            self._planter.plant(view, due, blueprint),
        )
        return Choice(decision=decision)

    def _turns(self, born: Ints) -> tuple[Ints, Ints]:
        """How far away the turn of every slot `[N, S]` and of every blueprint `[N, P]` is.

        The slots take turns; every time round, each of them gets the next blueprint.
        """
        slots, blueprints, _ = self._space.cost.shape
        lap, place = np.divmod(born, slots)
        slot = (np.arange(slots) - place[:, None]) % slots
        blueprint = (np.arange(blueprints) - (lap + place)[:, None]) % blueprints
        return slot, blueprint
