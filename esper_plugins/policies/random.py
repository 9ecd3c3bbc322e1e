"""The policy `random`: a uniform choice among the actions that would succeed. A baseline, and a fuzzer."""

import numpy as np

from esper_core.plugin import HEADS, Bools, Choice, Decision, Floats, Ints, Op, PolicyContext, Rule, View


def build(context: PolicyContext) -> "Random":
    """The policy for a vocabulary of actions."""
    return Random(context)


class Random(Rule):
    """Uniform over the operations that are possible, then over each head that the operation uses."""

    def __init__(self, context: PolicyContext) -> None:
        """Remember how many curves and speeds there are."""
        self._free = {"curve": len(context.space.curves), "speed": len(context.space.speeds)}

    def decide(self, view: View, memory: None, uniforms: Floats) -> Choice:
        """One draw per head; each mask is conditional on the heads before it."""
        masks, env = view.masks, np.arange(len(uniforms))
        draw = dict(zip(HEADS, uniforms.T, strict=True))
        op = pick(masks.op, draw["op"])
        slot = pick(masks.slot[env, op], draw["slot"])
        blueprint = pick(masks.blueprint[env, slot], draw["blueprint"])
        blend = pick(masks.blend[env, slot, blueprint], draw["blend"])
        targets = masks.target[env, slot] | (op != Op.SET_ALPHA_TARGET)[:, None]
        free = {head: (draw[head] * count).astype(np.int64) for head, count in self._free.items()}
        heads = {"op": op, "slot": slot, "blueprint": blueprint, "blend": blend}
        return Choice(decision=Decision(**heads, **free, target=pick(targets, draw["target"])))


def pick(mask: Bools, uniform: Floats) -> Ints:
    """Uniform choice among the true entries of each row; 0 where there is none.

    Args:
        mask: `[N, K]`.
        uniform: `[N]` in [0, 1).

    Returns:
        `[N]` column of the (floor(u * n) + 1)-th of n true entries.
    """
    wanted = np.floor(uniform * mask.sum(axis=1)) + 1
    choice: Ints = np.argmax(np.cumsum(mask, axis=1) == wanted[:, None], axis=1)
    return choice
