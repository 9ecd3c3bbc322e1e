"""What a controller may say: the factored action, its vocabulary, and the masks over it.

Role: a decision is seven integers per environment. The operation comes first; which other heads it uses is
`HEADS_OF`. A head that an operation does not use is 0 and is never read.
Neighbours: `rules.actions` computes masks, `rules.lifecycle` applies decisions, policies make them.
"""

from enum import IntEnum

import attrs
import numpy as np

from esper_core.state.arrays import Bools, Floats, Ints, expect_shape


class Op(IntEnum):
    """Operations, at most one per environment and epoch."""

    WAIT = 0
    GERMINATE = 1
    ADVANCE = 2
    SET_ALPHA_TARGET = 3
    FOSSILIZE = 4
    PRUNE = 5


class Curve(IntEnum):
    """Shapes of a ramp; `rules.ramps` gives their equations."""

    LINEAR = 0
    COSINE = 1
    SIGMOID_GENTLE = 2
    SIGMOID = 3
    SIGMOID_SHARP = 4


class Blend(IntEnum):
    """How a seed's change enters the host; `model.blending` gives their equations."""

    ADD = 0
    MULTIPLY = 1
    GATE = 2


HEADS = ("op", "slot", "blueprint", "blend", "curve", "target", "speed")
HEADS_OF: dict[Op, tuple[str, ...]] = {
    Op.WAIT: ("op",),
    Op.GERMINATE: HEADS,
    Op.ADVANCE: ("op", "slot"),
    Op.SET_ALPHA_TARGET: ("op", "slot", "curve", "target", "speed"),
    Op.FOSSILIZE: ("op", "slot"),
    Op.PRUNE: ("op", "slot", "curve", "speed"),
}


def name_of(member: IntEnum) -> str:
    """The name of a `member` as users see it: lower case, words joined by '-'."""
    return member.name.lower().replace("_", "-")


@attrs.frozen(kw_only=True, eq=False)
class Decision:
    """One factored action per environment.

    Attributes:
        op: `[N]` of `Op`.
        slot: `[N]` index of the slot.
        blueprint: `[N]` index into `ActionSpace.blueprints`.
        blend: `[N]` index into `ActionSpace.blends`.
        curve: `[N]` index into `ActionSpace.curves`.
        target: `[N]` index into `ActionSpace.targets`.
        speed: `[N]` index into `ActionSpace.speeds`.
    """

    op: Ints
    slot: Ints
    blueprint: Ints
    blend: Ints
    curve: Ints
    target: Ints
    speed: Ints

    def __attrs_post_init__(self) -> None:
        """Refuse heads of unequal length."""
        for head in HEADS:
            expect_shape(self, head, getattr(self, head), self.op.shape)

    @classmethod
    def wait(cls, envs: int) -> "Decision":
        """All of `envs` environments wait."""
        return cls(**{head: np.zeros(envs, np.int64) for head in HEADS})


@attrs.frozen(kw_only=True, eq=False)
class ActionSpace:
    """What the heads of a decision index, and what each choice costs.

    Attributes:
        slots: names of the slots, in execution order; S of them.
        blueprints: full names of the blueprints that may germinate; P of them.
        blends: the blends that may be chosen; L of them.
        curves: the curves that may be chosen.
        targets: influences a ramp may aim at.
        speeds: lengths of a ramp in epochs.
        enabled: `[S]`, slots that may grow.
        cost: `[S, P, L]` parameters that a seed adds; -1 where the blueprint does not fit the slot.
    """

    slots: tuple[str, ...]
    blueprints: tuple[str, ...]
    blends: tuple[Blend, ...]
    curves: tuple[Curve, ...]
    targets: Floats
    speeds: Ints
    enabled: Bools
    cost: Ints

    def __attrs_post_init__(self) -> None:
        """Refuse tables whose axes do not match the vocabulary, and a vocabulary with nothing to choose."""
        slots = len(self.slots)
        expect_shape(self, "enabled", self.enabled, (slots,))
        expect_shape(self, "cost", self.cost, (slots, len(self.blueprints), len(self.blends)))
        empty = [head for head, size in zip(HEADS, self.sizes, strict=True) if size == 0]
        if empty:
            raise ValueError(
                f"ActionSpace offers no choice of {' or '.join(empty)}; every head needs at least one entry "
                "(switch growth off with 'enabled')"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of every head, in the order of `HEADS`."""
        return (len(Op), *self.cost.shape, len(self.curves), len(self.targets), len(self.speeds))

    @property
    def fits(self) -> Bools:
        """`[S, P, L]`: the blueprint can be built at the slot with the blend."""
        return self.cost >= 0


@attrs.frozen(kw_only=True, eq=False)
class Masks:
    """Which choices succeed; a head's mask is conditional on the heads before it.

    Attributes:
        op: `[N, 6]`.
        slot: `[N, 6, S]`, given the operation; every slot for WAIT, which reads none.
        blueprint: `[N, S, P]`, given GERMINATE and the slot.
        blend: `[N, S, P, L]`, given GERMINATE, the slot and the blueprint.
        target: `[N, S, T]`, given SET_ALPHA_TARGET and the slot.

    Curves, speeds, and GERMINATE's target are always free.
    """

    op: Bools
    slot: Bools
    blueprint: Bools
    blend: Bools
    target: Bools
