"""Speed of a device strategy beside a bare loop: the same hosts, data, batches, clipping and optimizer.

    python benchmarks/training.py [N ...]

Prints training samples per second of CPU of the bare PyTorch loop, and of each executor of the strategy
without a live seed and with one in every host. Ratios of one run are comparable; seconds of different runs
are not.
"""

import sys
import time

import attrs
import numpy as np
import torch

from esper_core.model.network import fold
from esper_core.model.program import Program
from esper_core.phases import collect
from esper_core.rules import lifecycle
from esper_core.runner.config import catalogue_for, load
from esper_core.runner.setup import Setup, assemble
from esper_core.state.slots import SlotTable

EPOCHS = 3


def main(sizes: list[int]) -> None:
    """Measure `digits`."""
    catalogue = catalogue_for("digits")
    setups = {}
    for executor in ("loop", "stacked"):
        sets = [f"train.epochs={EPOCHS}", f"device.executor={executor}"]
        config = load("digits", sets=sets, flags={"policy": "static"}, catalogue=catalogue)
        setups[executor] = assemble(config, catalogue)
    program = setups["loop"].cast.program
    space = program.space
    one = np.asarray([0 if name == space.slots[0] else -1 for name in space.slots])
    print("training samples per second of CPU; ratios are to the bare loop, which has no seed")
    heading = f"{'N':>4} {'bare loop':>12}"
    for executor in setups:
        heading += f" {executor:>12} {'ratio':>7} {'one seed each':>14} {'ratio':>7}"
    print(heading)
    for envs in sizes:
        planted = lifecycle.plant(space, envs, one, np.zeros_like(one), np.ones(len(one)))
        bare = _bare(program, envs)
        line = f"{envs:>4} {bare:>12.0f}"
        for setup in setups.values():
            for slots, width in ((None, 12), (planted, 14)):
                rate = _strategy(setup, envs, slots)
                line += f" {rate:>{width}.0f} {rate / bare:>7.2f}"
        print(line)
    for setup in setups.values():
        setup.cast.device.close()


def _bare(program: Program, envs: int) -> float:
    """A hand-written loop over ordinary modules."""
    hosts = [program.host(0, env).train() for env in range(envs)]
    rule, train = program.train.host, program.train
    optimizers = [
        torch.optim.AdamW(h.parameters(), lr=rule.lr, weight_decay=rule.weight_decay, foreach=True)
        for h in hosts
    ]
    data, size = program.problem.fit, len(program.problem.fit)
    steps = min(size // train.batch_size, train.train_batches or size)
    begin = time.process_time()
    for _ in range(EPOCHS):
        orders = [torch.randperm(size) for _ in hosts]
        for step in range(steps):
            for host, optimizer, order in zip(hosts, optimizers, orders, strict=True):
                rows = order[step * train.batch_size : (step + 1) * train.batch_size]
                optimizer.zero_grad(set_to_none=True)
                loss = program.problem.loss(fold(host, data.inputs[rows], {}), data.targets[rows]).mean()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(host.parameters(), rule.clip)
                optimizer.step()
    return EPOCHS * steps * train.batch_size * envs / (time.process_time() - begin)


def _strategy(setup: Setup, envs: int, planted: SlotTable | None) -> float:
    """The strategy's own training calls."""
    cast = attrs.evolve(setup.cast, policy=setup.static)
    episode = collect.begin(cast, np.arange(envs), 0, planted)
    samples, begin = 0, time.process_time()
    for epoch in range(EPOCHS):
        plan = collect.train_plan(cast.program, attrs.evolve(episode, epoch=epoch), episode.slots)
        _, counts = cast.device.train(episode.tensors, plan)
        samples += counts.samples * envs
    return samples / (time.process_time() - begin)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1, 4, 16])
