"""The `stacked` executor: all environments as one batched tensor program.

Hosts run on their block as it lies. The seeds at a site are gathered from their environments, pool by pool,
and their changes put back; who incubates, blends or has no seed at all differs in gains, not in code.

Role: how a set of resident environments is trained at once. Neighbours: `rowwise` applies modules to rows,
`epoch` has the rest of a step, `branches` evaluates, `loop` is the other executor.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import attrs
import numpy as np
import torch
from torch import Tensor

from esper_core.plugin import Floats, Host, Ints, Planted, Program, Site, TrainPlan, fold
from esper_plugins.devices.epoch import Run
from esper_plugins.devices.rowwise import Rowwise, RowwiseSeed
from esper_plugins.devices.tensors import Key, Tensors

AXES = {"vector": 2, "sequence": 3, "map": 4}
"""Axes of a site's features behind that of environments."""


class Together:
    """All environments of an epoch at once; see `Passes`."""

    def __init__(
        self, program: Program, tensors: Tensors, plan: TrainPlan, hosts: Run, pools: Mapping[Key, Run]
    ) -> None:
        """Bind modules and gains to blocks; see `Executor`."""
        self._problem = program.problem
        host, leaves = cast(Host, tensors.hosts.modules[0].train()), _Leaves.of(hosts)
        self._host = StackedHost.of(host, leaves.tensors)
        self._trained = [leaves]
        parts: dict[int, list[_Part]] = {}
        for key, run in pools.items():
            leaves = _Leaves.of(run)
            parts.setdefault(key.site, []).extend(_parts(key.site, run, leaves, plan))
            if plan.training[list(run.group.envs), key.site].any():
                self._trained.append(leaves)
        self._planted = {
            site: _planted(program, plan, site, found, hosts.gradient) for site, found in parts.items()
        }

    def __call__(self, inputs: Tensor, targets: Tensor, keys: Sequence[int]) -> Tensor:
        """Forward and backward of all environments; no module draws, so that nobody needs the keys."""
        envs = len(inputs)
        outputs = fold(cast(Host, self._host), inputs, self._planted).flatten(0, 1)
        targets = targets.flatten(0, 1)
        losses = self._problem.loss(outputs, targets).view(envs, -1)
        wanted = [leaf for leaves in self._trained for leaf in leaves.parameters]
        found = iter(torch.autograd.grad(losses.mean(dim=1).sum(), wanted, allow_unused=True))
        for leaves in self._trained:
            pieces = [_flat(next(found), leaf) for leaf in leaves.parameters]
            torch.cat(pieces, dim=1, out=leaves.gradient)
        with torch.no_grad():
            scores = self._problem.score(outputs.detach(), targets).view(envs, -1)
            return torch.stack([v.sum(dim=1, dtype=torch.float64) for v in (losses.detach(), scores)], dim=1)


class StackedHost(NamedTuple):
    """A host of N environments, as `fold` takes it.

    Attributes:
        segments: functions of `[N, B, ...]`.
        sites: as in `Host`.
    """

    segments: Sequence[Callable[[Tensor], Tensor]]
    sites: Sequence[Site]

    @classmethod
    def of(cls, host: Host, tensors: Mapping[str, Tensor]) -> "StackedHost":
        """Bind the segments of a host to the tensors of its block."""
        return cls([partial(Rowwise(segment, host), tensors) for segment in host.segments], host.sites)


@attrs.frozen(eq=False)
class _Leaves:
    """Tensors of a run, as autograd sees them.

    Attributes:
        tensors: parameters and buffers by name, `[R, ...]`; they share memory with the block.
        parameters: those of them that gradients are taken of.
        gradient: `[R, P]`, where these go.
    """

    tensors: dict[str, Tensor]
    parameters: list[Tensor]
    gradient: Tensor

    @classmethod
    def of(cls, run: Run) -> "_Leaves":
        """Leaves of a run."""
        block = run.group.block
        leaves = {name: tensor.detach() for name, tensor in block.named().items()}
        parameters = [leaves[name].requires_grad_() for name in block.layout.names]
        return cls(leaves, parameters, run.gradient)


class _Part:
    """Rows of a pool that are treated alike."""

    def __init__(self, run: Run, leaves: _Leaves, rows: Ints, *, trains: bool, heard: bool) -> None:
        """Bind a module to rows.

        Args:
            run: of the pool.
            leaves: its tensors.
            rows: which, ascending.
            trains: their parameters are updated, and the module is in training mode.
            heard: their changes reach the host, or come back to them as a gradient.
        """
        self._module = run.group.modules[0]
        self._seeds = RowwiseSeed(self._module)
        self._buffers = run.group.block.buffers if trains else {}
        self._trains, self._heard = trains, heard
        self._rows = torch.as_tensor(rows, device=run.env.device)
        self._whole = len(rows) == len(run.env)
        self._envs = run.env[self._rows]
        self._tensors = leaves.tensors if trains else {n: t.detach() for n, t in leaves.tensors.items()}

    def put(self, changes: Tensor, source: Tensor, h: Tensor) -> Tensor:
        """Write the changes that these seeds propose into those of all environments.

        Args:
            changes: `[N, B, ...]`, in place.
            source: what seeds read, same shape.
            h: what they would change, same shape.
        """
        self._module.train(self._trains)
        tensors = self._tensors
        if not self._whole:
            tensors = {name: t.index_select(0, self._rows) for name, t in tensors.items()}
        with torch.set_grad_enabled(self._heard):
            found = self._seeds.on(tensors, self._envs, source, h)
        if not self._whole:
            for name, buffer in self._buffers.items():
                buffer.index_copy_(0, self._rows, tensors[name])
        return changes.index_copy_(0, self._envs, found)


def _parts(site: int, run: Run, leaves: _Leaves, plan: TrainPlan) -> list[_Part]:
    """The rows of a pool, parted by whether they train and whether they are heard."""
    envs = np.asarray(run.group.envs)
    trains = plan.training[envs, site]
    heard = plan.incubating[envs, site] | (plan.influence[envs, site] > 0)
    found = []
    for kind in ((True, True), (False, True), (True, False)):
        rows = np.flatnonzero((trains == kind[0]) & (heard == kind[1]))
        if len(rows):
            found.append(_Part(run, leaves, rows, trains=kind[0], heard=kind[1]))
    return found


def _planted(program: Program, plan: TrainPlan, site: int, parts: Sequence[_Part], like: Tensor) -> Planted:
    """The seeds of all environments at a site, with the gains of their stages."""

    def changes(source: Tensor, h: Tensor) -> Tensor:
        found = torch.zeros_like(h)
        for part in parts:
            found = part.put(found, source, h)
        return found

    incubating, influence = plan.incubating[:, site], plan.influence[:, site]
    shape = (-1, *[1] * AXES[program.sites[site].kind])

    def gain(values: Floats) -> Tensor:
        return torch.as_tensor(values).to(like).view(shape)

    return Planted(
        changes,
        gain(influence),
        gain((incubating | (influence > 0)).astype(float)),
        gain(np.where(incubating, 0.0, plan.input_gain)) if incubating.any() else plan.input_gain,
        program.growth.incubation_cap if incubating.any() else math.inf,
    )


def _flat(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """A stacked parameter's gradient as `[R, ...]` without further axes; zeros if nothing depends on it."""
    return (torch.zeros_like(parameter) if gradient is None else gradient).flatten(1)
