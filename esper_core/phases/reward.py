"""Reward: what a decision is paid once its consequences are measured.

Role: asks a reward family for its components, checks them, and adds them up.
Neighbours: families are plugins; `phases.collect` calls after every epoch.
"""

from collections.abc import Mapping

import attrs
import numpy as np

from esper_core.errors import RunError
from esper_core.plugin.protocols import RewardFamily, Transition
from esper_core.state.arrays import Floats


@attrs.frozen(kw_only=True, eq=False)
class Payment:
    """What an epoch paid.

    Attributes:
        total: `[N]`.
        components: `[N]` by name; they add up to the total.
    """

    total: Floats
    components: Mapping[str, Floats]


def pay(family: RewardFamily, transition: Transition) -> Payment:
    """Score one transition of every environment.

    Raises:
        RunError: a component has the wrong shape or is not finite; the message names it, the epoch and the
            environments.
    """
    envs = len(transition.decision.op)
    components = dict(family.components(transition))
    total = np.zeros(envs)
    for name, amount in components.items():
        if amount.shape != (envs,):
            raise RunError(
                f"reward component {name!r} has shape {amount.shape} in epoch {transition.epoch}; "
                f"expected ({envs},), one amount per environment"
            )
        if not np.isfinite(amount).all():
            bad = np.flatnonzero(~np.isfinite(amount)).tolist()
            raise RunError(
                f"reward component {name!r} is not finite in epoch {transition.epoch}, environments {bad}"
            )
        total = total + amount
    return Payment(total=total, components=components)
