"""Cost of the control plane: everything in an epoch but training and evaluation.

    python benchmarks/control_plane.py

Prints milliseconds of CPU per epoch, and microseconds per environment, at several N. The device strategy is a
stand-in that returns counts at once; everything else is what a run uses.
"""

import sys
import time
from typing import Any

import attrs
import numpy as np

from esper_core.phases import collect
from esper_core.runner.config import catalogue_for, load
from esper_core.runner.setup import assemble
from esper_core.state.plans import EvalCounts, EvalPlan, GradientStatistics, TrainCounts, TrainPlan


class Instant:
    """A device strategy that measures nothing and takes no time."""

    def start(self, envs: Any, round_index: int) -> None:
        return None

    def edit(self, tensors: None, edits: Any) -> tuple[None, Any]:
        return None, edits.germinate.copy()

    def train(self, tensors: None, plan: TrainPlan) -> tuple[None, TrainCounts]:
        envs, slots = plan.influence.shape
        counts = TrainCounts(
            loss_sum=np.ones(envs),
            score_sum=np.ones(envs),
            samples=1,
            bad_losses=np.zeros(envs, np.int64),
            host=_healthy(envs),
            seeds=_healthy(envs, slots),
            wait_ms=0.0,
            device_ms=0.0,
        )
        return None, counts

    def evaluate(self, tensors: None, plan: EvalPlan) -> EvalCounts:
        envs, configurations, sites = plan.influence.shape
        ones = np.ones((envs, configurations))
        return EvalCounts(
            samples=360,
            loss_sum=ones,
            score_sum=ones,
            co_score=np.ones((envs, configurations, configurations)),
            rank=np.full((envs, sites), np.nan),
            orthogonality=np.full((envs, sites), np.nan),
            device_ms=0.0,
        )

    def snapshot(self, tensors: None, last: None, envs: Any) -> None:
        return None


def main(sizes: list[int]) -> None:
    """Play episodes of `digits` under the random policy."""
    catalogue = catalogue_for("digits")
    setup = assemble(load("digits", flags={"policy": "random"}, catalogue=catalogue), catalogue)
    setup.cast.device.close()
    cast = attrs.evolve(setup.cast, device=Instant())
    print(f"{'N':>6} {'ms per epoch':>14} {'us per environment':>20}")
    for envs in sizes:
        taken = _episode(cast, envs)
        print(f"{envs:>6} {taken * 1e3:>14.2f} {taken / envs * 1e6:>20.1f}")


def _episode(cast: collect.Cast, envs: int) -> float:
    """Median CPU seconds of an epoch."""
    episode = collect.begin(cast, np.arange(envs), 0)
    taken = []
    for _ in range(cast.program.train.epochs):
        begin = time.process_time()
        episode, _ = collect.advance(cast, episode)
        taken.append(time.process_time() - begin)
    return float(np.median(taken))


def _healthy(*shape: int) -> GradientStatistics:
    zeros, ones = np.zeros(shape), np.ones(shape)
    counts = np.zeros(shape, np.int64)
    return GradientStatistics(
        steps=counts + 1,
        square=ones,
        largest=ones,
        smallest=ones,
        nonfinite=counts,
        vanished=zeros,
        exploded=zeros,
        culprit=counts - 1,
    )


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1, 16, 256, 1024])
