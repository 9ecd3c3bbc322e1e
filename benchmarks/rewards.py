"""Cost of a reward: one epoch's payment of N environments with 10 slots.

    python benchmarks/rewards.py [N ...]

Prints milliseconds of CPU for the kernel, and beside it for the same kernel in a Python loop that pays one
environment after the other, timed on at most 64 of them and scaled up. Seeds come and go by legal, random
play; measurements are made up.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from esper_core.phases.reward import Ledger, check, open_ledger, pay
from esper_core.plugin.rewards import RewardFamily, Standing, Transition
from esper_core.state.actions import Decision
from esper_core.state.arrays import take
from esper_core.state.attribution import Attribution
from esper_core.state.evidence import Evidence
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable, Stage
from esper_core.testing.families import family

SLOTS = 10
LOOPED = 64
"""Environments of the loop that are timed."""
REPEATS = 9
REWARDS = {
    "shipped": ("shipped", None),
    "shapley": ("shapley", None),
    "escrow": ("contribution", "escrow"),
    "shaped": ("contribution", "shaped"),
}


def main(sizes: list[int]) -> None:
    """Print a row for every reward and size."""
    print(f"{'reward':<10}{'N':>6}{'kernel ms':>12}{'us per env':>12}{'loop ms':>12}{'loop / kernel':>15}")
    for title, (name, mode) in REWARDS.items():
        chosen = family(name, mode)
        check(chosen)
        for envs in sizes:
            whole, looped = _measured(chosen, envs)
            print(
                f"{title:<10}{envs:>6}{whole * 1e3:>12.3f}{whole / envs * 1e6:>12.2f}"
                f"{looped * 1e3:>12.2f}{looped / whole:>15.1f}",
                flush=True,
            )


def _measured(chosen: RewardFamily, envs: int) -> tuple[float, float]:
    """CPU seconds of the kernel and of the loop."""
    transition = _transition(envs)
    ledger, single = open_ledger(chosen, envs, SLOTS), open_ledger(chosen, 1, SLOTS)
    few = min(envs, LOOPED)
    alone = [take(transition, np.asarray([env])) for env in range(few)]
    looped = _seconds(lambda: [_pay(chosen, single, one) for one in alone])
    return _seconds(lambda: _pay(chosen, ledger, transition)), looped * envs / few


def _pay(chosen: RewardFamily, ledger: Ledger, transition: Transition) -> Any:
    envs = np.arange(len(transition.refused))
    return pay(chosen, ledger, transition, envs=envs, gamma=0.99, penalty=1.0, epoch=1)


def _seconds(work: Callable[[], Any]) -> float:
    """Median CPU seconds, after one warm-up."""
    work()
    taken = []
    for _ in range(REPEATS):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return float(np.median(taken))


def _transition(envs: int) -> Transition:
    """An epoch in which every environment holds some seeds, commits some, and knows what they contribute."""
    rng = np.random.default_rng(0)
    shape = (envs, SLOTS)
    stages = rng.choice([Stage.DORMANT, Stage.TRAINING, Stage.HOLDING, Stage.FOSSILIZED], shape)
    planted = stages != Stage.DORMANT
    slots = attrs.evolve(
        SlotTable.empty(*shape),
        stage=stages,
        seed=np.where(planted, np.arange(SLOTS), -1),
        parameters=np.where(planted, rng.integers(10, 500, shape), 0),
        age=np.where(planted, 4, 0),
        dwell=np.where(planted, 2, 0),
        ramp_target=np.where(planted, 1.0, 0.0),
    )

    def known(record: Any) -> Any:
        floats = {
            a.name: rng.normal(size=getattr(record, a.name).shape) * 0.1
            for a in attrs.fields(type(record))
            if getattr(record, a.name).dtype == np.float64
        }
        return attrs.evolve(record, **floats)

    def standing() -> Standing:
        return Standing(
            slots=slots,
            signals=known(HostSignals.unknown(envs)),
            evidence=known(Evidence.unknown(*shape)),
            attribution=known(Attribution.unknown(*shape)),
            host_parameters=5000,
            progress=1.0,
        )

    return Transition(
        before=standing(),
        after=standing(),
        decision=Decision.wait(envs),
        refused=np.zeros(envs, np.int64),
        panicked=np.zeros(envs, np.bool_),
        final=False,
    )


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [16, 256, 4096])
