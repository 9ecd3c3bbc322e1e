"""The task `spirals`: interleaved spirals in the plane, made in place; small enough for tests."""

import math

import numpy as np

from esper_core.plugin import Floats, Ints, Part, Problem, Purpose, uniforms
from esper_plugins.tasks.classification import cross_entropy, hits
from esper_plugins.tasks.hosts import MLPShape, mlp
from esper_plugins.tasks.settings import Spirals
from esper_plugins.tasks.splits import split


def build(settings: Spirals) -> Problem:
    """Make the points, split them, and describe the host."""
    points, labels = spirals(settings)
    shape = MLPShape(inputs=2, classes=settings.arms, width=settings.width, blocks=settings.blocks)
    return Problem(
        **split(points, labels, settings.data_seed),
        host=Part(name="esper/mlp", build="esper_plugins.tasks.hosts:mlp", call=mlp, settings=shape),
        loss=cross_entropy,
        score=hits,
        chance=math.log(settings.arms),
    )


def spirals(settings: Spirals) -> tuple[Floats, Ints]:
    """Points `[n, 2]` on interleaved spirals and their arms `[n]`."""
    index = np.arange(settings.samples)
    labels = index % settings.arms
    draws = uniforms(settings.data_seed, Purpose.DATA, index[:, None], np.arange(3))
    radius = 0.1 + 0.9 * draws[:, 0]
    angle = 2 * np.pi * (radius * settings.turns + labels / settings.arms)
    # Box and Muller: two uniforms make two independent normal deviates
    spread = settings.noise * np.sqrt(-2 * np.log1p(-draws[:, 1]))
    around = 2 * np.pi * draws[:, 2]
    x = radius * np.cos(angle) + spread * np.cos(around)
    y = radius * np.sin(angle) + spread * np.sin(around)
    return np.stack([x, y], axis=1), labels.astype(np.int64)
