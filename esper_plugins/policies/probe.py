"""The policy `probe-and-switch`: try the slots by effective rank until a seed contributes enough."""

import numpy as np

from esper_core.plugin import PLANTED, Bools, Choice, Floats, Ints, Op, PolicyContext, Rule, View
from esper_plugins.policies.moves import Planter, advance, commit, commit_at_the_end, first, lowest, prune
from esper_plugins.policies.settings import Probe


def build(context: PolicyContext, settings: Probe) -> "ProbeAndSwitch":
    """The policy for a vocabulary of actions.

    Raises:
        ConfigError: the run does not have the blueprint.
    """
    return ProbeAndSwitch(context, settings)


class ProbeAndSwitch(Rule):
    """One seed at a time, every slot at most once, until one is committed."""

    needs = frozenset({"rank"})

    def __init__(self, context: PolicyContext, settings: Probe) -> None:
        """Look up the blueprint."""
        self._space = context.space
        self._planter = Planter(context.space, settings.blueprint)
        self._threshold = settings.threshold

    def start(self, envs: Ints, round_index: int) -> Bools:
        """Memory: `[N, S]`, the slot was tried."""
        return np.zeros((len(envs), len(self._space.slots)), np.bool_)

    def decide(self, view: View, memory: Bools, uniforms: Floats) -> Choice:
        """Commit, advance, prune or plant, whichever is due first."""
        tried = memory & ~view.begins[:, None]
        seedless = ~np.any(view.slots.within(PLANTED), axis=1, keepdims=True)
        candidates = self._planter.possible(view) & ~tried & seedless
        planted = self._planter.plant(view, lowest(candidates, view.evidence.rank))
        decision = first(
            commit(view, view.evidence.contribution >= self._threshold),
            commit_at_the_end(view),
            advance(view),
            prune(view, view.evidence.measured == 0, self._space),
            planted,
        )
        here = np.arange(tried.shape[1]) == decision.slot[:, None]
        return Choice(decision=decision, memory=tried | (here & (decision.op == Op.GERMINATE)[:, None]))
