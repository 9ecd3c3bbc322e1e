"""The policy `plant-lowest-rank`: a seed where the effective rank is lowest, as soon as it is known."""

from esper_core.plugin import PLANTED, Choice, Floats, PolicyContext, Rule, View
from esper_plugins.policies.moves import Planter, advance, commit, first, lowest
from esper_plugins.policies.settings import LowestRank


def build(context: PolicyContext, settings: LowestRank) -> "PlantLowestRank":
    """The policy for a vocabulary of actions.

    Raises:
        ConfigError: the run does not have the blueprint.
    """
    return PlantLowestRank(context, settings)


class PlantLowestRank(Rule):
    """Plants at the free slot of the lowest rank, and commits what contributes."""

    needs = frozenset({"rank"})

    def __init__(self, context: PolicyContext, settings: LowestRank) -> None:
        """Look up the blueprint."""
        self._planter = Planter(context.space, settings.blueprint)
        self._seeds = settings.seeds

    def decide(self, view: View, memory: None, uniforms: Floats) -> Choice:
        """Commit, advance or plant, whichever is due first."""
        wanting = view.slots.within(PLANTED).sum(axis=1) < self._seeds
        least = lowest(self._planter.possible(view) & wanting[:, None], view.evidence.rank)
        decision = first(
            commit(view, view.evidence.contribution > 0),
            advance(view),
            self._planter.plant(view, least),
        )
        return Choice(decision=decision)
