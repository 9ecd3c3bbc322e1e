"""The reward family `shipped`: pays exactly what the shipped network gained, minus rent.

With s_t the live network's validation score after epoch t, c its score with committed seeds only, and T the
last epoch:

    r_t = (s_t - s_{t-1}) [t > 0] + [t = T] ((c - s_T) - rent * committed parameters / host parameters)

so that an episode pays c - s_0 - rent: it telescopes, and there is nothing to farm. Scores are oriented so
that higher is better; gamma is 1, because the horizon is finite and time is observed.
"""

from collections.abc import Mapping

import numpy as np

from esper_core.plugin import Floats, Stage, Transition
from esper_plugins.rewards.settings import Shipped


def build(settings: Shipped) -> "ShippedFamily":
    """The family."""
    return ShippedFamily(settings)


class ShippedFamily:
    """Change of the live score; at the end, the shipped score closes the sum and rent is paid."""

    def __init__(self, settings: Shipped) -> None:
        """Remember the price."""
        self._rent = settings.rent

    def components(self, transition: Transition) -> Mapping[str, Floats]:
        """`score`, `shipped` and `rent`, each `[N]`."""
        score, before = transition.signals.score, transition.signals_before.score
        paid = {name: np.zeros_like(score) for name in ("score", "shipped", "rent")}
        if transition.epoch > 0:
            paid["score"] = score - before
        if transition.terminal:
            committed = transition.after.stage == Stage.FOSSILIZED
            parameters = np.where(committed, transition.after.parameters, 0).sum(axis=1)
            paid["shipped"] = transition.signals.committed - score
            paid["rent"] = -self._rent * parameters / transition.host_parameters
        return paid
