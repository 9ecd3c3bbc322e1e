"""Cost of the control plane: everything in an epoch but training and evaluation.

    python benchmarks/control_plane.py

Prints milliseconds of CPU per epoch, and microseconds per environment, at several N. The device strategy is
scripted and returns counts at once; everything else is what a run uses.
"""

import sys
import time

import attrs
import numpy as np

from esper_core.phases import collect
from esper_core.runner.config import catalogue_for, load
from esper_core.runner.setup import assemble
from esper_core.testing.scripted import ScriptedDevice


def main(sizes: list[int]) -> None:
    """Play episodes of `digits` under the random policy."""
    catalogue = catalogue_for("digits")
    setup = assemble(load("digits", flags={"policy": "random"}, catalogue=catalogue), catalogue)
    setup.cast.device.close()
    cast = attrs.evolve(setup.cast, device=ScriptedDevice(lambda envs, epoch, influence: 0.5))
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


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1, 16, 256, 1024])
