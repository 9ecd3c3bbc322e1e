"""The `loop` executor: one environment after the other, on views of stacked blocks.

Every host and seed is an ordinary module whose parameters are views of a row, so that any module works.
Within a training step the environments run forward and backward in turn; norms, statistics, clipping and
the optimizer then treat all rows of a block at once.

Role: how a set of resident environments is executed. This is the only place with a loop over environments.
Neighbours: `single` is the strategy that owns it, `blocks` the storage.
"""

from typing import NamedTuple, cast

import attrs
import torch
from torch import Tensor, nn

from esper_core.plugin import Floats, Host, Planted, Program, Seed, Split, TrainPlan, distinct, fold, fold_all
from esper_plugins.devices.blocks import Block
from esper_plugins.devices.gradients import (
    Accumulator,
    clip_factors,
    group_norms,
    parameter_norms,
)
from esper_plugins.devices.optimizers import step


class Key(NamedTuple):
    """What the seeds of a pool have in common, as indices into the action space.

    Attributes:
        site: index of the slot.
        blueprint: index of the architecture.
        blend: index of the blend.
    """

    site: int
    blueprint: int
    blend: int


@attrs.frozen(eq=False)
class Group:
    """Rows of one structure, and the modules that are bound to them.

    Attributes:
        block: state of R rows.
        envs: position of the environment of every row, ascending.
        modules: bound to the rows.
        parameters: trainable parameters of every module.
        row: of every environment that has one.
    """

    block: Block
    envs: tuple[int, ...]
    modules: tuple[nn.Module, ...]
    parameters: tuple[list[nn.Parameter], ...]
    row: dict[int, int] = attrs.field(init=False)

    @row.default
    def _rows(self) -> dict[int, int]:
        return {env: row for row, env in enumerate(self.envs)}


@attrs.frozen(eq=False)
class LoopTensors:
    """The tensor record of the `loop` executor.

    Attributes:
        round_index: number of the round, which keys initialisation.
        envs: numbers of the environments.
        hosts: one row per environment.
        pools: seeds by site, blueprint and blend.
    """

    round_index: int
    envs: tuple[int, ...]
    hosts: Group
    pools: dict[Key, Group]

    def host(self, env: int) -> Host:
        """The host of an environment."""
        return cast(Host, self.hosts.modules[env])

    def seeds(self, env: int) -> dict[int, Seed]:
        """The seeds of an environment by site."""
        found = {}
        for key, pool in self.pools.items():
            if env in pool.row:
                found[key.site] = cast(Seed, pool.modules[pool.row[env]])
        return dict(sorted(found.items()))


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
class _Run:
    """A group during an epoch of training.

    Attributes:
        group: rows and modules.
        gradient: `[R, P]`, rewritten in every step.
        trains: `[R]` rows that are updated.
        joins: `[R]` rows that joint clipping counts.
        env: `[R]` position of every row's environment.
        accumulator: statistics.
        host: the rows are hosts.
    """

    group: Group
    gradient: Tensor
    trains: Tensor
    joins: Tensor
    env: Tensor
    accumulator: Accumulator
    host: bool


class _Apart:
    """A seed that draws from a stream of its own, so that a host's draws do not depend on its seeds."""

    def __init__(self, seed: Seed, generator: torch.Generator, site: int) -> None:
        self._seed, self._generator, self._stream = seed, generator, site + 1

    def __call__(self, x: Tensor, h: Tensor) -> Tensor:
        state = self._generator.get_state()
        self._generator.manual_seed(self._generator.initial_seed() + self._stream)
        change: Tensor = self._seed(x, h)
        self._generator.set_state(state)
        return change


class Epoch:
    """One epoch of training of all environments."""

    def __init__(self, program: Program, tensors: LoopTensors, plan: TrainPlan) -> None:
        """Bind the plan to the tensors; allocates gradients and accumulators once."""
        self._program = program
        self._tensors = tensors
        self._plan = plan
        envs = len(tensors.envs)
        self._place = tensors.hosts.block.values.device
        self._generator = generator_of(self._place)
        everyone = [True] * envs
        self._hosts = self._run(tensors.hosts, everyone, everyone, host=True)
        self._pools = {
            key: self._run(
                pool,
                [bool(plan.training[env, key.site]) for env in pool.envs],
                [not plan.incubating[env, key.site] for env in pool.envs],
                host=False,
            )
            for key, pool in tensors.pools.items()
        }
        self._buffers = [
            (run, buffer)
            for run in (self._hosts, *self._pools.values())
            for buffer in run.group.block.buffers.values()
        ]
        self._planted = [self._at_work(env) for env in range(envs)]
        self._rows = [self._trained(env) for env in range(envs)]
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
            sums = torch.stack(
                [
                    self._backward(env, inputs[rows], targets[rows], keys[env][t])
                    for env, rows in enumerate(indices[:, t].unbind())
                ]
            )
            finite = torch.isfinite(sums[:, 0])
            self.tally.loss.add_(sums[:, 0])
            self.tally.score.add_(sums[:, 1])
            self.tally.bad.add_(~finite)
            self._restore(before, finite)
            self._update(t, finite)

    def accumulators(self) -> tuple[Accumulator, dict[Key, Accumulator]]:
        """Statistics of the hosts and of every pool."""
        return self._hosts.accumulator, {key: run.accumulator for key, run in self._pools.items()}

    def _run(self, group: Group, trains: list[bool], joins: list[bool], *, host: bool) -> _Run:
        settings = self._program.train.host if host else self._program.train.seed
        for module, active in zip(group.modules, trains, strict=True):
            module.train(active)
        return _Run(
            group,
            torch.zeros_like(group.block.values),
            torch.tensor(trains, device=self._place),
            torch.tensor(joins, device=self._place),
            torch.tensor(group.envs, device=self._place),
            Accumulator(group.block.rows, len(group.block.layout.names), settings.clip, self._place),
            host,
        )

    def _at_work(self, env: int) -> dict[int, Planted]:
        """An environment's seeds with the gains of its stages, as numbers."""
        plan, growth = self._plan, self._program.growth
        planted = {}
        for site, seed in self._tensors.seeds(env).items():
            influence = float(plan.influence[env, site])
            incubates = bool(plan.incubating[env, site])
            seed_gain = 1.0 if incubates or influence > 0 else 0.0
            input_gain = 0.0 if incubates else plan.input_gain
            apart = _Apart(seed, self._generator, site)
            planted[site] = Planted(apart, influence, seed_gain, input_gain, growth.incubation_cap)
        return planted

    def _backward(self, env: int, x: Tensor, y: Tensor, key: int) -> Tensor:
        """Forward and backward of one environment; returns the sums of its losses and scores, `[2]`."""
        self._generator.manual_seed(key)
        problem = self._program.problem
        output = fold(self._tensors.host(env), x, self._planted[env])
        losses = problem.loss(output, y)
        wanted = [p for run, row in self._rows[env] for p in run.group.parameters[row]]
        found = iter(torch.autograd.grad(losses.mean(), wanted, allow_unused=True))
        for run, row in self._rows[env]:
            pieces = [_flat(next(found), p) for p in run.group.parameters[row]]
            torch.cat(pieces, out=run.gradient[row])
        with torch.no_grad():
            sums = (losses.detach(), problem.score(output.detach(), y))
            return torch.stack([values.sum(dtype=torch.float64) for values in sums])

    def _trained(self, env: int) -> list[tuple[_Run, int]]:
        """The groups that an environment trains, with its row in each."""
        rows = [(self._hosts, env)]
        for key, run in self._pools.items():
            if env in run.group.row and self._plan.training[env, key.site]:
                rows.append((run, run.group.row[env]))
        return rows

    def _restore(self, before: list[Tensor], finite: Tensor) -> None:
        """A step whose loss is not finite leaves no trace in batch statistics either."""
        for (run, buffer), old in zip(self._buffers, before, strict=True):
            stays = finite[run.env].view(-1, *[1] * (buffer.dim() - 1))
            torch.where(stays, buffer, old, out=buffer)

    @torch.no_grad()
    def _update(self, t: int, finite: Tensor) -> None:
        """Norms, statistics, clip and step of every block."""
        train = self._program.train
        runs = [self._hosts, *self._pools.values()]
        norms = [parameter_norms(run.gradient, run.group.block.layout) for run in runs]
        totals = [group_norms(n) for n in norms]
        for run, norm, total in zip(runs, norms, totals, strict=True):
            run.accumulator.add(norm, total, run.trains, sampled=bool(self._plan.sampled[t]))
        limits = self._joint(runs, totals) if train.clip_scope == "joint" else totals
        for run, total, limit in zip(runs, totals, limits, strict=True):
            settings = train.host if run.host else train.seed
            factors = clip_factors(limit, settings.clip).to(run.gradient.dtype)
            takes = run.trains & finite[run.env] & torch.isfinite(total)
            gradient = run.gradient * factors.unsqueeze(1)
            step(run.group.block, gradient, settings, float(self._plan.rate[t]), takes)

    def _joint(self, runs: list[_Run], totals: list[Tensor]) -> list[Tensor]:
        """Norms over an environment's host and blended seeds together; incubating seeds keep their own.

        A group whose norm is not finite takes no step, so it does not count either.
        """
        whole = torch.zeros_like(totals[0])
        for run, total in zip(runs, totals, strict=True):
            counted = torch.where(run.joins & torch.isfinite(total), total, 0.0)
            whole[run.env] = torch.hypot(whole[run.env], counted)
        return [
            torch.where(run.joins, whole[run.env], total) for run, total in zip(runs, totals, strict=True)
        ]


def generator_of(place: torch.device) -> torch.Generator:
    """The generator that ordinary modules on a device draw from."""
    if place.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if place.index is None else place.index
    return torch.cuda.default_generators[index]


def _flat(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    """A parameter's gradient as a vector; zeros if the loss does not depend on it."""
    return parameter.new_zeros(parameter.numel()) if gradient is None else gradient.reshape(-1)


@torch.inference_mode()
def evaluate(
    program: Program, tensors: LoopTensors, data: Split, influence: Floats, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate K configurations of every environment.

    Args:
        program: gives loss and score.
        tensors: hosts and seeds.
        data: samples to look at.
        influence: `[N, K, S]`.
        budget: samples x configurations that one pass may hold.

    Returns:
        Sums of losses `[N, K]`, of scores `[N, K]`, and of products of scores `[N, K, K]`, in float64.
    """
    counted = [
        _evaluate_one(program, tensors, env, data, configurations, budget)
        for env, configurations in enumerate(influence.tolist())
    ]
    losses, scores, products = (torch.stack(values) for values in zip(*counted, strict=True))
    return losses, scores, products


def _evaluate_one(
    program: Program, tensors: LoopTensors, env: int, data: Split, influence: list[list[float]], budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    host, seeds = tensors.host(env), tensors.seeds(env)
    for module in (host, *seeds.values()):
        module.eval()
    configurations, which = distinct([tuple(row) for row in influence])
    rows = max(1, budget // len(configurations))
    losses = data.inputs.new_zeros(len(configurations), dtype=torch.float64)
    scores = losses.clone()
    products = losses.new_zeros(len(configurations), len(configurations))
    for start in range(0, len(data), rows):
        x, y = data.inputs[start : start + rows], data.targets[start : start + rows]
        outputs = fold_all(host, x, seeds, configurations)
        losses += torch.stack([program.problem.loss(o, y).sum(dtype=torch.float64) for o in outputs])
        hits = torch.stack([program.problem.score(o, y) for o in outputs]).to(torch.float64)
        scores += hits.sum(dim=1)
        products += hits @ hits.T
    return losses[which], scores[which], products[which][:, which]
