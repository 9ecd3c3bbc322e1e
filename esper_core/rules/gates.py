"""Gates: pure predicates of evidence that say whether a transition may happen.

Role: the one place where a threshold meets a measurement. The action masks and the executor's guard both
call these, so an action that is offered succeeds. Comparisons with NaN are false: unknown evidence never
opens a gate.
Neighbours: `rules.actions` (masks), `rules.lifecycle` (transitions).
"""

from attrs import frozen

from esper_core.state.actions import ActionSpace
from esper_core.state.arrays import Bools
from esper_core.state.evidence import Evidence
from esper_core.state.settings import GrowthSettings, epochs_of
from esper_core.state.slots import LIVE, SlotTable, Stage


@frozen
class GrowthRules:
    """The growth settings of an episode of known length.

    Attributes:
        growth: thresholds and shares.
        epochs: length of the episode.
    """

    growth: GrowthSettings
    epochs: int

    @property
    def training_dwell(self) -> int:
        """Epochs that a seed trains alone before it may advance."""
        return epochs_of(self.growth.training_dwell, self.epochs)

    @property
    def prune_dwell(self) -> int:
        """Epochs that a seed must have lived before it may be pruned."""
        return epochs_of(self.growth.prune_dwell, self.epochs)

    @property
    def embargo(self) -> int:
        """Epochs that a slot is EMBARGOED after a prune; at least 1."""
        return max(1, epochs_of(self.growth.embargo, self.epochs))


def germinate(slots: SlotTable, space: ActionSpace, rules: GrowthRules) -> Bools:
    """G0, `[N, S, P, L]`: the slot is free, the blueprint fits, and neither limit would be broken."""
    free = (slots.stage == Stage.DORMANT) & space.enabled
    room = slots.within(LIVE).sum(axis=1) < rules.growth.max_live
    allowed: Bools = (free & room[:, None])[:, :, None, None] & space.fits
    if rules.growth.budget is None:
        return allowed
    left = rules.growth.budget - slots.parameters.sum(axis=1)
    allowed &= space.cost <= left[:, None, None, None]
    return allowed


def advance(slots: SlotTable, evidence: Evidence, rules: GrowthRules) -> Bools:
    """G2, `[N, S]`: trained long enough, gradients measured and healthy, first contact within its bound."""
    growth = rules.growth
    ready: Bools = (
        (slots.stage == Stage.TRAINING)
        & (slots.dwell >= rules.training_dwell)
        & (evidence.health >= growth.min_health)
        & (evidence.nonfinite == 0)
        & (evidence.contact <= growth.contact_bound)
    )
    return ready


def hold(slots: SlotTable) -> Bools:
    """G3, `[N, S]`: the ramp is complete and does not lead to a prune."""
    complete: Bools = (slots.stage == Stage.BLENDING) & (slots.ramp_done >= slots.ramp_steps)
    return complete & ~slots.withdrawing


def retarget(slots: SlotTable, evidence: Evidence, space: ActionSpace) -> Bools:
    """`[N, S, T]`: the seed is held, has not diverged, and the target differs from where it stands.

    Targets compare exactly: `ramp_target` is a copy of an entry of the space, never computed.
    """
    held = (slots.stage == Stage.HOLDING) & (evidence.nonfinite == 0)
    moves: Bools = held[:, :, None] & (space.targets != slots.ramp_target[:, :, None])
    return moves


def fossilize(slots: SlotTable, evidence: Evidence, rules: GrowthRules) -> Bools:
    """G5, `[N, S]`: held, not diverged, and the contribution was measured in the last epoch and is enough."""
    ready: Bools = (
        (slots.stage == Stage.HOLDING)
        & (evidence.nonfinite == 0)
        & (evidence.measured == 0)
        & (evidence.contribution >= rules.growth.min_contribution)
    )
    return ready


def prune(slots: SlotTable, rules: GrowthRules) -> Bools:
    """`[N, S]`: the seed is alive, not committed, old enough, and not on its way out."""
    alive = slots.within((Stage.TRAINING, Stage.BLENDING, Stage.HOLDING))
    prunable: Bools = alive & ~slots.withdrawing & (slots.age >= rules.prune_dwell)
    return prunable


def diverged(slots: SlotTable, evidence: Evidence) -> Bools:
    """`[N, S]`: an uncommitted seed had a gradient that was not finite; it is pruned on its own."""
    return slots.within((Stage.TRAINING, Stage.BLENDING, Stage.HOLDING)) & (evidence.nonfinite > 0)
