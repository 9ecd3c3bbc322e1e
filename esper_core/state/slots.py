"""The slot table: where every seed of every environment stands in its life.

Role: one record of `[N, S]` arrays; the influence of a seed is not stored but computed from its ramp's
schedule (`rules.ramps.influence`). Ages count epochs from 0.
Neighbours: `rules.lifecycle` is the only module that moves a slot from one stage to another.
"""

from enum import IntEnum

import attrs
import numpy as np

from esper_core.state.arrays import Bools, Floats, Ints, expect_shape


class Stage(IntEnum):
    """Stages of a seed's life; a slot without a seed is DORMANT."""

    DORMANT = 0
    GERMINATED = 1
    TRAINING = 2
    BLENDING = 3
    HOLDING = 4
    FOSSILIZED = 5
    PRUNED = 6
    EMBARGOED = 7
    RESETTING = 8


LIVE = (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING)
"""A seed is there and not committed."""
PLANTED = (*LIVE, Stage.FOSSILIZED)
"""A seed is there."""
BLENDED = (Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
"""The seed changes what the network computes (unless its ramp stands at 0)."""


@attrs.frozen(kw_only=True, eq=False)
class SlotTable:
    """State of N environments with S slots each; every array but `born` is `[N, S]`.

    Attributes:
        born: `[N]`, seeds that ever germinated in the environment.
        stage: of `Stage`.
        seed: number of the seed within its environment (0, 1, ... in order of germination), -1 without one.
        blueprint: index into the action space, -1 without a seed.
        blend: index into the action space, -1 without a seed.
        parameters: that the seed adds; 0 without one.
        age: epochs lived since germination.
        dwell: epochs spent in the stage; stays 0 while DORMANT.
        ramp_start: influence at which the ramp starts, in [0, 1].
        ramp_target: influence at which it ends, in [0, 1].
        ramp_steps: its length in epochs.
        ramp_done: epochs of it that have passed.
        ramp_curve: of `Curve`.
        withdrawing: the ramp leads to 0 and the seed is pruned when it gets there.
    """

    born: Ints
    stage: Ints
    seed: Ints
    blueprint: Ints
    blend: Ints
    parameters: Ints
    age: Ints
    dwell: Ints
    ramp_start: Floats
    ramp_target: Floats
    ramp_steps: Ints
    ramp_done: Ints
    ramp_curve: Ints
    withdrawing: Bools

    def __attrs_post_init__(self) -> None:
        """Refuse arrays of unequal shape, and a seed number that an environment uses twice."""
        if self.stage.ndim != 2:
            raise ValueError(f"SlotTable.stage must be [N, S], got shape {self.stage.shape}")
        shape = self.stage.shape
        expect_shape(self, "born", self.born, shape[:1])
        for name in _BY_SLOT:
            array = getattr(self, name)
            if array.shape != shape:
                expect_shape(self, name, array, shape)
        numbers = np.sort(self.seed, axis=1)
        twice = (numbers[:, 1:] == numbers[:, :-1]) & (numbers[:, 1:] >= 0)
        if twice.any():
            env, pair = np.argwhere(twice)[0]
            raise ValueError(
                f"SlotTable.seed: environment {env} holds seed {numbers[env, pair]} in two slots"
            )

    @classmethod
    def empty(cls, envs: int, slots: int) -> "SlotTable":
        """All slots dormant, for N = `envs` and S = `slots`."""
        shape = (envs, slots)

        def zeros() -> Ints:
            return np.zeros(shape, np.int64)

        def none() -> Ints:
            return np.full(shape, -1, np.int64)

        return cls(
            born=np.zeros(envs, np.int64),
            stage=zeros(),
            seed=none(),
            blueprint=none(),
            blend=none(),
            parameters=zeros(),
            age=zeros(),
            dwell=zeros(),
            ramp_start=np.zeros(shape),
            ramp_target=np.zeros(shape),
            ramp_steps=zeros(),
            ramp_done=zeros(),
            ramp_curve=zeros(),
            withdrawing=np.zeros(shape, np.bool_),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(N, S)."""
        envs, slots = self.stage.shape
        return envs, slots

    def within(self, stages: tuple[Stage, ...]) -> Bools:
        """`[N, S]`: the slot is in one of the stages."""
        member = np.zeros(len(Stage), np.bool_)
        member[list(stages)] = True
        return member[self.stage]


_BY_SLOT = tuple(a.name for a in attrs.fields(SlotTable) if a.name != "born")
"""Names of the arrays that are `[N, S]`."""
