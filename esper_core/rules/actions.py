"""Action masks: which choices would succeed.

Role: calls the gates' own predicates; a choice is offered if and only if the executor would carry it out.
Neighbours: `rules.gates` (predicates), `rules.lifecycle.refusals` (the executor's own guard, independent).
"""

import numpy as np

from esper_core.rules import gates
from esper_core.rules.gates import GrowthRules
from esper_core.state.actions import ActionSpace, Masks, Op
from esper_core.state.arrays import Bools
from esper_core.state.evidence import Evidence
from esper_core.state.slots import SlotTable


def masks(slots: SlotTable, evidence: Evidence, space: ActionSpace, rules: GrowthRules) -> Masks:
    """Masks over every head of the action, conditional on the heads before it; see `Masks` for shapes."""
    envs, count = slots.shape
    blend = gates.germinate(slots, space, rules)
    blueprint: Bools = np.any(blend, axis=-1)
    target = gates.retarget(slots, evidence, space)
    slot = np.zeros((envs, len(Op), count), np.bool_)
    slot[:, Op.WAIT] = True
    slot[:, Op.GERMINATE] = blueprint.any(axis=-1)
    if not rules.growth.auto_advance:
        slot[:, Op.ADVANCE] = gates.advance(slots, evidence, rules)
    slot[:, Op.SET_ALPHA_TARGET] = target.any(axis=-1)
    slot[:, Op.FOSSILIZE] = gates.fossilize(slots, evidence, rules)
    slot[:, Op.PRUNE] = gates.prune(slots, rules)
    op: Bools = np.any(slot, axis=-1)
    return Masks(op=op, slot=slot, blueprint=blueprint, blend=blend, target=target)
