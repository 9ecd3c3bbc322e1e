"""The policy `oracle`: a seed where the task says that help is needed. The bar for choices of a slot."""

from collections.abc import Callable

import numpy as np

from esper_core.plugin import Choice, ConfigError, Floats, Ints, PolicyContext, Rule, View
from esper_plugins.policies.moves import Planter, advance, commit, first
from esper_plugins.policies.settings import Oracle


def build(context: PolicyContext, settings: Oracle) -> "Told":
    """The policy for a vocabulary of actions.

    Raises:
        ConfigError: the task knows no oracle, or the run does not have the blueprint.
    """
    if context.oracle is None:
        raise ConfigError(
            "policy.name = 'esper/oracle': the task knows no oracle, because it does not say where its hosts "
            "need help (Problem.bottleneck); choose a task that does, such as 'esper/digits', or another "
            "policy, such as 'esper/probe-and-switch'"
        )
    return Told(context.oracle, Planter(context.space, settings.blueprint))


class Told(Rule):
    """Plants at the slot that it is told, at once, and commits as soon as it may."""

    def __init__(self, oracle: Callable[[Ints, int], Ints], planter: Planter) -> None:
        """Args: oracle: of the context; planter: of the blueprint."""
        self._oracle, self._planter = oracle, planter

    def start(self, envs: Ints, round_index: int) -> Ints:
        """Memory: `[N]` index of the slot, -1 where there is none to name; a rollback changes neither."""
        return self._oracle(envs, round_index)

    def decide(self, view: View, memory: Ints, uniforms: Floats) -> Choice:
        """Commit, advance or plant, whichever is due first."""
        here = np.arange(view.slots.shape[1]) == memory[:, None]
        decision = first(
            commit(view, here),
            advance(view),
            self._planter.plant(view, here),
        )
        return Choice(decision=decision, memory=memory)
