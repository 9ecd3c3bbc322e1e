"""One epoch of training of all environments, whichever executor passes them forward and backward.

Within a step an executor writes the gradients of every block; norms, statistics, clipping and the optimizer
then treat all rows of a block at once, so that these exist once for all executors.

Role: everything in a step but its passes. Neighbours: `loop` and `stacked` pass, `gradients` and `optimizers`
have the arithmetic, `single` reads the result.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor

from esper_core.plugin import OptimizerSettings, Program, TrainPlan
from esper_plugins.devices.gradients import Accumulator, clip_factors, group_norms, parameter_norms
from esper_plugins.devices.optimizers import step
from esper_plugins.devices.tensors import Group, Key, Tensors


class Tally(NamedTuple):
    """Sums over an epoch, on the device.

    Attributes:
        loss: `[N]` float64.
        score: `[N]` float64.
        bad: `[N]` steps whose loss was not finite.
    """

    loss: Tensor
    score: Tensor
    bad: Tensor


@attrs.frozen(eq=False)
class Run:
    """A group during an epoch of training.

    Attributes:
        group: rows and modules.
        settings: of their optimizer.
        gradient: `[R, P]`, rewritten in every step; 0 in rows that are not updated.
        trains: `[R]` rows that are updated.
        joins: `[R]` rows that joint clipping counts.
        env: `[R]` position of every row's environment.
    """

    group: Group
    settings: OptimizerSettings
    gradient: Tensor
    trains: Tensor
    joins: Tensor
    env: Tensor


class Passes(Protocol):
    """How an executor passes a batch of every environment forward and backward."""

    def __call__(self, inputs: Tensor, targets: Tensor, keys: Sequence[int]) -> Tensor:
        """Write the gradient of every run.

        Args:
            inputs: `[N, B, ...]`.
            targets: `[N, B, ...]`.
            keys: `[N]` seeds for whatever modules draw from torch's generator.

        Returns:
            Sums over samples of losses and of scores, `[N, 2]` in float64.
        """
        ...


class Executor(Protocol):
    """Prepares the passes of an epoch."""

    def __call__(
        self, program: Program, tensors: Tensors, plan: TrainPlan, hosts: Run, pools: Mapping[Key, Run]
    ) -> Passes:
        """Bind a plan to the runs of an epoch; both are as in `Epoch`."""
        ...


class Epoch:
    """One epoch of training of all environments."""

    def __init__(self, program: Program, tensors: Tensors, plan: TrainPlan, executor: Executor) -> None:
        """Bind the plan to the tensors; allocates gradients and accumulators once."""
        self._program = program
        self._plan = plan
        envs = len(tensors.envs)
        self._place = tensors.hosts.block.values.device
        everyone = [True] * envs
        self._hosts = self._run(tensors.hosts, program.train.host, everyone, everyone)
        self._pools = {
            key: self._run(
                pool,
                program.train.seed,
                [bool(plan.training[env, key.site]) for env in pool.envs],
                [not plan.incubating[env, key.site] for env in pool.envs],
            )
            for key, pool in tensors.pools.items()
        }
        self._runs = [self._hosts, *self._pools.values()]
        self._buffers = [(run, buffer) for run in self._runs for buffer in run.group.block.buffers.values()]
        counts = [run.group.block.rows for run in self._runs]
        self._trains = torch.cat([run.trains for run in self._runs])
        self._env = torch.cat([run.env for run in self._runs])
        names = [len(run.group.block.layout.names) for run in self._runs]
        self._norms = torch.zeros(sum(counts), max(names), dtype=torch.float64, device=self._place)
        self._accumulator = Accumulator(
            np.repeat(names, counts).tolist(),
            np.repeat([run.settings.clip for run in self._runs], counts).tolist(),
            self._place,
        )
        self._passes = executor(program, tensors, plan, self._hosts, self._pools)
        zeros = torch.zeros(envs, dtype=torch.float64, device=self._place)
        self.tally = Tally(zeros, zeros.clone(), zeros.clone())

    def run(self, inputs: Tensor, targets: Tensor, indices: Tensor, keys: list[list[int]]) -> None:
        """Train.

        Args:
            inputs: of the fit data.
            targets: theirs.
            indices: `[N, T, B]`.
            keys: `[N][T]` seeds for whatever modules draw from torch's generator.
        """
        for t in range(indices.shape[1]):
            before = [buffer.clone() for _, buffer in self._buffers]
            rows = indices[:, t]
            sums = self._passes(inputs[rows], targets[rows], [key[t] for key in keys])
            finite = torch.isfinite(sums[:, 0])
            self.tally.loss.add_(sums[:, 0])
            self.tally.score.add_(sums[:, 1])
            self.tally.bad.add_(~finite)
            self._restore(before, finite)
            self._update(t, finite)

    def packed(self) -> Tensor:
        """Statistics `[8, R]` of all rows: those of the hosts, then those of every pool in its order."""
        return self._accumulator.packed()

    def _run(self, group: Group, settings: OptimizerSettings, trains: list[bool], joins: list[bool]) -> Run:
        return Run(
            group,
            settings,
            torch.zeros_like(group.block.values),
            torch.tensor(trains, device=self._place),
            torch.tensor(joins, device=self._place),
            torch.tensor(group.envs, device=self._place),
        )

    def _restore(self, before: list[Tensor], finite: Tensor) -> None:
        """A step whose loss is not finite leaves no trace in batch statistics either."""
        for (run, buffer), old in zip(self._buffers, before, strict=True):
            stays = finite[run.env].view(-1, *[1] * (buffer.dim() - 1))
            torch.where(stays, buffer, old, out=buffer)

    @torch.no_grad()
    def _update(self, t: int, finite: Tensor) -> None:
        """Norms, statistics, clip and step of every block."""
        totals = []
        for run, padded in zip(self._runs, self._split(self._norms), strict=True):
            norms = parameter_norms(run.gradient, run.group.block.layout)
            padded[:, : norms.shape[1]] = norms
            totals.append(group_norms(norms))
        total = torch.cat(totals)
        self._accumulator.add(self._norms, total, self._trains, sampled=bool(self._plan.sampled[t]))
        takes = self._split(self._trains & finite[self._env] & torch.isfinite(total))
        limits = self._joint(totals) if self._program.train.clip_scope == "joint" else totals
        for run, limit, taken in zip(self._runs, limits, takes, strict=True):
            factors = clip_factors(limit, run.settings.clip).to(run.gradient.dtype)
            run.gradient.mul_(factors.unsqueeze(1))
            step(run.group.block, run.gradient, run.settings, float(self._plan.rate[t]), taken)

    def _split(self, rows: Tensor) -> Sequence[Tensor]:
        """All rows, run by run."""
        parts: Sequence[Tensor] = rows.split([run.group.block.rows for run in self._runs])
        return parts

    def _joint(self, totals: list[Tensor]) -> list[Tensor]:
        """Norms over an environment's host and blended seeds together; incubating seeds keep their own.

        A group whose norm is not finite takes no step, so it does not count either.
        """
        whole = torch.zeros_like(totals[0])
        for run, total in zip(self._runs, totals, strict=True):
            counted = torch.where(run.joins & torch.isfinite(total), total, 0.0)
            whole[run.env] = torch.hypot(whole[run.env], counted)
        return [
            torch.where(run.joins, whole[run.env], total)
            for run, total in zip(self._runs, totals, strict=True)
        ]
