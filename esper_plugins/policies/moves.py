"""Moves that the rules are made of, for N environments at once. None is made unless the masks offer it.

`wanted` `[N, S]` says where a seed is to be planted, committed or pruned; of the slots of an environment that
are both wanted and offered, the first is taken.
"""

import numpy as np
from attrs import evolve, frozen

from esper_core.plugin import HEADS, ActionSpace, Bools, Decision, Floats, Ints, Op, Stage, View
from esper_plugins.policies.names import full_name, index_of

NEVER = np.iinfo(np.int64).max
"""Price of what is not for sale."""


@frozen(kw_only=True, eq=False)
class Move:
    """One action of some of N environments.

    Attributes:
        possible: `[N]` environments in which it would succeed.
        decision: what they do; of the others it says nothing.
    """

    possible: Bools
    decision: Decision


def first(*moves: Move) -> Decision:
    """The first of the moves that is possible; where none is, the environment waits."""
    possible = [move.possible for move in moves]
    return Decision(
        **{head: np.select(possible, [getattr(move.decision, head) for move in moves], 0) for head in HEADS}
    )


def lowest(where: Bools, value: Floats | Ints) -> Bools:
    """`[N, S]`: the slot of `where` with the lowest value; unknown values are passed over."""
    known = where & np.isfinite(value)
    least = np.argmin(np.where(known, value, np.inf), axis=1)
    one: Bools = known & (np.arange(where.shape[1]) == least[:, None])
    return one


def advance(view: View) -> Move:
    """ADVANCE as soon as the gate opens; never offered where that is automatic."""
    return _at(Op.ADVANCE, view, np.ones(view.slots.shape, np.bool_))


def commit(view: View, wanted: Bools) -> Move:
    """FOSSILIZE."""
    return _at(Op.FOSSILIZE, view, wanted)


def commit_at_the_end(view: View) -> Move:
    """FOSSILIZE what contributes, the most valuable seed first, once no epoch is left to wait."""
    worth = view.masks.slot[:, Op.FOSSILIZE] & (view.evidence.contribution > 0)
    due = view.epochs - view.epoch <= worth.sum(axis=1)
    return commit(view, lowest(worth, -view.evidence.contribution) & due[:, None])


def prune(view: View, wanted: Bools, space: ActionSpace) -> Move:
    """PRUNE held seeds, with the shortest ramp down that there is."""
    move = _at(Op.PRUNE, view, wanted & (view.slots.stage == Stage.HOLDING))
    speed = np.full(len(wanted), np.argmin(space.speeds))
    return evolve(move, decision=evolve(move.decision, speed=speed))


class Planter:
    """GERMINATE: the first blend that is offered, and the longest ramp to the highest target."""

    def __init__(self, space: ActionSpace, blueprint: str | None = None) -> None:
        """Look up the blueprint.

        Args:
            space: vocabulary and costs.
            blueprint: the only one to plant; None allows all.

        Raises:
            ConfigError: the run does not have the blueprint.
        """
        name = full_name(blueprint, space)
        count = len(space.blueprints)
        only = None if name is None else index_of("policy.blueprint", name, space.blueprints)
        self._space = space
        self._allowed = np.ones(count, np.bool_) if only is None else np.arange(count) == only
        self._target, self._speed = np.argmax(space.targets), np.argmax(space.speeds)

    def possible(self, view: View) -> Bools:
        """`[N, S]`: a seed can be planted here."""
        can: Bools = np.any(view.masks.blueprint & self._allowed, axis=-1)
        return can

    def plant(self, view: View, wanted: Bools, price: Ints | None = None) -> Move:
        """Plant the cheapest seed.

        Args:
            view: what can be seen.
            wanted: `[N, S]`.
            price: `[N, P]` by which the cheapest blueprint is found; None means its parameters.

        Returns:
            The move; of equal prices the first blueprint is taken.
        """
        where = wanted & self.possible(view)
        env, slot = np.arange(len(where)), where.argmax(axis=1)
        offered = view.masks.blend[env, slot] & self._allowed[:, None]
        blends = offered.argmax(axis=-1)
        if price is None:
            price = self._space.cost[slot[:, None], np.arange(len(self._allowed)), blends]
        blueprint = np.where(offered.any(axis=-1), price, NEVER).argmin(axis=1)
        move = _at(Op.GERMINATE, view, where)
        heads = {
            "blueprint": blueprint,
            "blend": blends[env, blueprint],
            "target": np.full(len(where), self._target),
            "speed": np.full(len(where), self._speed),
        }
        return evolve(move, decision=evolve(move.decision, **heads))


def _at(op: Op, view: View, wanted: Bools) -> Move:
    where = wanted & view.masks.slot[:, op]
    decision = Decision.wait(len(where))
    heads = {"op": np.full(len(where), int(op)), "slot": where.argmax(axis=1)}
    return Move(possible=np.any(where, axis=1), decision=evolve(decision, **heads))
