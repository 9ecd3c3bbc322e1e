"""Epochs of training by hand: a world whose seeds, batches and rates the test chooses."""

from typing import Any

import numpy as np
from attrs import evolve
from torch import Tensor
from worlds import lively, pictures, plan_of, rows_of, spirals, table_of

from esper_core.model.problem import Problem, Split
from esper_core.model.program import Program
from esper_core.state.settings import OptimizerSettings, TrainSettings
from esper_core.state.slots import Stage
from esper_plugins.devices import single
from esper_plugins.devices.settings import Single

BATCH = 8
PLAIN = OptimizerSettings(lr=0.1, momentum=0.0, clip=1.0)
"""Gradient descent whose step can be read off the parameters."""
SEEDS = {
    "mlp": (spirals, ((0, "linear", Stage.TRAINING, 1.0), (1, "lowrank", Stage.HOLDING, 0.5))),
    "conv": (pictures, ((0, "conv_light", Stage.TRAINING, 1.0), (1, "depthwise", Stage.HOLDING, 0.5))),
}


def train_of(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"epochs": 4, "batch_size": BATCH, "host": PLAIN, "seed": PLAIN, **changes})


def batches(envs: int, steps: int, offset: int = 0, samples: int = 30) -> Any:
    """`[N, T, B]` samples of the fit data, different ones everywhere."""
    return (np.arange(envs * steps * BATCH) + offset).reshape(envs, steps, BATCH) % samples


class World:
    """A program on the device with a table of seeds, ready for hand-made epochs."""

    def __init__(
        self, program: Program, envs: int, *seeds: Any, dtype: Any = "float64", executor: Any = "loop"
    ) -> None:
        self.program, self.table = program, table_of(program, envs, *seeds)
        self.device = single.build(program, Single(dtype=dtype, executor=executor))
        self.tensors = lively(self.device, self.table, range(envs))

    def train(self, indices: Any, **changes: Any) -> Any:
        self.tensors, counts = self.device.train(
            self.tensors, plan_of(self.program, self.table, indices, **changes)
        )
        return counts

    def rows(self, env: int) -> dict[str, Tensor]:
        return rows_of(self.device.export(self.tensors), self.table, env)


def spoiled(problem: Problem, sample: int, value: float) -> Problem:
    """A problem in which one sample of the fit data is multiplied and has the other label."""
    inputs, targets = problem.fit.inputs.clone(), problem.fit.targets.clone()
    inputs[sample] *= value
    targets[sample] = 1 - targets[sample].clamp(max=1)
    return evolve(problem, fit=Split(inputs, targets))
