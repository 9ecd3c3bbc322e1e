"""The `loop` executor: one environment after the other, on views of stacked blocks.

Every host and seed is an ordinary module whose parameters are views of a row, so that any module works.
Within a training step the environments run forward and backward in turn.

Role: how a set of resident environments is executed. This is the only executor with a loop over environments.
Neighbours: `epoch` has the rest of a step, `stacked` is the other executor, `single` the strategy.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from esper_core.plugin import Floats, Planted, Program, Seed, Split, TrainPlan, distinct, fold, fold_all
from esper_plugins.devices.epoch import Run
from esper_plugins.devices.tensors import Key, Tensors


class Turns:
    """The environments of an epoch, one after the other; see `Passes`."""

    def __init__(
        self, program: Program, tensors: Tensors, plan: TrainPlan, hosts: Run, pools: Mapping[Key, Run]
    ) -> None:
        """Bind gains to modules; see `Executor`."""
        self._program, self._tensors, self._plan = program, tensors, plan
        self._hosts, self._pools = hosts, pools
        self._generator = generator_of(hosts.gradient.device)
        for host in tensors.hosts.modules:
            host.train()
        for key, pool in tensors.pools.items():
            for env, seed in zip(pool.envs, pool.modules, strict=True):
                seed.train(bool(plan.training[env, key.site]))
        envs = range(len(tensors.envs))
        self._planted = [self._at_work(env) for env in envs]
        self._rows = [self._trained(env) for env in envs]

    def __call__(self, inputs: Tensor, targets: Tensor, keys: Sequence[int]) -> Tensor:
        """Forward and backward of all environments in turn."""
        batches = zip(inputs, targets, keys, strict=True)
        return torch.stack([self._backward(env, *batch) for env, batch in enumerate(batches)])

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

    def _trained(self, env: int) -> list[tuple[Run, int]]:
        """The groups that an environment trains, with its row in each."""
        rows = [(self._hosts, env)]
        for key, run in self._pools.items():
            if env in run.group.row and self._plan.training[env, key.site]:
                rows.append((run, run.group.row[env]))
        return rows


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
    program: Program, tensors: Tensors, data: Split, influence: Floats, budget: int
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
    program: Program, tensors: Tensors, env: int, data: Split, influence: list[list[float]], budget: int
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
