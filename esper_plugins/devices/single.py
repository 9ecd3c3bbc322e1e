"""The `single` strategy: N environments on one device.

Role: residency (which rows are where), edits of structure, and the pass from plans to counts. How the
environments are executed is the executor's business.
Neighbours: `loop` and `stacked` are the executors, `blocks` the storage; `esper_core.plugin` gives the
protocol.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from esper_core.plugin import (
    PLANTED,
    Bools,
    ConfigError,
    Edits,
    EvalCounts,
    EvalPlan,
    Floats,
    Ints,
    Program,
    Purpose,
    Seed,
    SlotTable,
    Split,
    TrainCounts,
    TrainPlan,
    bits,
    features,
    is_sound,
)
from esper_plugins.devices import branches, loop, sites, stacked
from esper_plugins.devices.blocks import Block, Layout, bind
from esper_plugins.devices.epoch import Epoch, Executor
from esper_plugins.devices.gradients import statistics, unsampled
from esper_plugins.devices.optimizers import STATE
from esper_plugins.devices.settings import Single
from esper_plugins.devices.snapshots import Snapshot, put_back, take
from esper_plugins.devices.tensors import Group, Key, Tensors
from esper_plugins.devices.trial import check

LIVE_COPIES = 4
"""Activations of the widest layer that a pass holds at the same time, for the budget of a chunk."""
MIB = 2**20


class Execution(NamedTuple):
    """What an executor does.

    Attributes:
        train: prepares the passes of an epoch.
        evaluate: as `loop.evaluate`.
        look: as `sites.look`.
    """

    train: Executor
    evaluate: Callable[[Program, Tensors, Split, Floats, int], tuple[Tensor, Tensor, Tensor]]
    look: sites.Look


EXECUTIONS = {
    "loop": Execution(loop.Turns, loop.evaluate, sites.look),
    "stacked": Execution(stacked.Together, branches.evaluate, branches.look),
}


def build(program: Program, settings: Single) -> "SingleDevice":
    """The strategy for a program."""
    return SingleDevice(program, settings)


class SingleDevice:
    """N environments on one device; see `esper_core.plugin.protocols.Device`."""

    def __init__(self, program: Program, settings: Single) -> None:
        """Move the data to the device once, for the whole run."""
        self._program = program
        self._settings = settings
        self._place = _place(settings.place)
        self._execution = EXECUTIONS[settings.executor]
        if settings.executor == "stacked":
            check(program)
        self._dtype = torch.float64 if settings.dtype == "float64" else torch.float32
        self._like = torch.empty(0, dtype=self._dtype, device=self._place)
        self._threads = torch.get_num_threads()
        torch.set_num_threads(settings.threads)
        problem = program.problem
        self._data = {name: self._move(problem.split(name)) for name in ("fit", "validation", "report")}
        self._chunk = max(1, settings.chunk_mib * MIB // self._sample_bytes())

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What has to be equal for results to be equal bit for bit."""
        return {
            "strategy": "single",
            **attrs.asdict(self._settings),
            "torch": torch.__version__,
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }

    def start(self, envs: Ints, round_index: int) -> Tensors:
        """Newborn hosts; see the protocol."""
        hosts = [self._program.host(round_index, int(env)).to(self._like) for env in envs]
        layout = Layout.of(hosts[0])
        block = Block.of(hosts, layout, STATE[self._program.train.host.name], self._like)
        numbers = tuple(int(env) for env in envs)
        return Tensors(round_index, numbers, _group(block, tuple(range(len(numbers))), hosts), {})

    def edit(self, tensors: Tensors, edits: Edits) -> tuple[Tensors, Bools]:
        """Remove and add rows of pools; nothing changes unless everything was built."""
        built = np.zeros(edits.germinate.shape, np.bool_)
        newborn: dict[Key, dict[int, Seed]] = {}
        for env, site in np.argwhere(edits.germinate).tolist():
            key, seed = self._newborn(tensors, edits, env, site)
            built[env, site] = self._sound(tensors, env, site, seed)
            if built[env, site]:
                newborn.setdefault(key, {})[env] = seed
        gone = {(env, site) for env, site in np.argwhere(edits.remove).tolist()}
        return attrs.evolve(tensors, pools=self._repooled(tensors.pools, newborn, gone)), built

    def train(self, tensors: Tensors, plan: TrainPlan) -> tuple[Tensors, TrainCounts]:
        """One epoch in place; one transfer to the host at its end."""
        begin = time.perf_counter()
        fit = self._data["fit"]
        indices = torch.as_tensor(plan.indices, device=self._place)
        waited = time.perf_counter()
        steps = np.arange(plan.indices.shape[1])
        numbers = np.asarray(tensors.envs)[:, None]
        drawn = bits(
            self._program.root, Purpose.MODULES, tensors.round_index, numbers, plan.epoch, steps
        ) >> np.uint64(1)
        with torch.random.fork_rng(devices=[self._place] if self._place.type == "cuda" else []):
            epoch = Epoch(self._program, tensors, plan, self._execution.train)
            epoch.run(fit.inputs, fit.targets, indices, drawn.tolist())
        counts = _read(epoch, tensors, plan)
        done = time.perf_counter()
        return tensors, attrs.evolve(counts, wait_ms=(waited - begin) * 1e3, device_ms=(done - waited) * 1e3)

    def evaluate(self, tensors: Tensors, plan: EvalPlan) -> EvalCounts:
        """One pass over a part of the data; one transfer to the host at its end."""
        begin = time.perf_counter()
        data = self._data[plan.split]
        if plan.limit is not None:
            data = Split(data.inputs[: plan.limit], data.targets[: plan.limit])
        given = (self._program, tensors, data)
        counted = self._execution.evaluate(*given, plan.influence, self._chunk)
        measured = sites.measure(
            self._execution.look, *given, plan.influence[:, 0], plan.measures, self._chunk
        )
        loss_sum, score_sum, co_score, (rank, orthogonality) = _fetch([*counted, measured])
        return EvalCounts(
            samples=len(data),
            loss_sum=loss_sum,
            score_sum=score_sum,
            co_score=co_score,
            rank=rank,
            orthogonality=orthogonality,
            device_ms=(time.perf_counter() - begin) * 1e3,
        )

    def snapshot(self, tensors: Tensors, last: Snapshot | None, envs: Bools) -> Snapshot:
        """Copies of rows; see the protocol."""
        return take(tensors, last, envs)

    def restore(self, tensors: Tensors, snapshot: Snapshot, envs: Bools) -> Tensors:
        """Copies put back in place; see the protocol."""
        put_back(tensors, snapshot, envs)
        return tensors

    def export(self, tensors: Tensors) -> Mapping[str, Tensor]:
        """Named tensors on the CPU: `host/...`, a row an environment, and `pool/<key>/...`, a row a seed."""
        groups = {"host": tensors.hosts, **{_path(key): pool for key, pool in tensors.pools.items()}}
        return {
            f"{path}/{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for path, group in groups.items()
            for name, tensor in group.block.tensors()
        }

    def adopt(self, arrays: Mapping[str, Tensor], slots: SlotTable, envs: Ints, round_index: int) -> Tensors:
        """Tensors from `export`; which seed a row belongs to follows from the slot table."""
        tensors = self.start(envs, round_index)
        _fill(tensors.hosts.block, "host", arrays)
        planted = slots.within(PLANTED)
        germinate = Edits(
            germinate=planted,
            remove=np.zeros_like(planted),
            seed=slots.seed,
            blueprint=slots.blueprint,
            blend=slots.blend,
        )
        newborn: dict[Key, dict[int, Seed]] = {}
        for env, site in np.argwhere(planted).tolist():
            key, seed = self._newborn(tensors, germinate, env, site)
            newborn.setdefault(key, {})[env] = seed
        tensors = attrs.evolve(tensors, pools=self._repooled({}, newborn, set()))
        for key, pool in tensors.pools.items():
            _fill(pool.block, _path(key), arrays)
        return tensors

    def close(self) -> None:
        """Give torch its number of threads back."""
        torch.set_num_threads(self._threads)

    def _move(self, split: Split) -> Split:
        inputs = split.inputs.to(self._place)
        targets = split.targets.to(self._place)
        floats = (t.to(self._dtype) if t.is_floating_point() else t for t in (inputs, targets))
        return Split(*floats)

    def _sample_bytes(self) -> int:
        """Bytes that one sample of one configuration holds at the widest layer."""
        host = self._program.host(0, 0).to(self._like).eval()
        probe = self._data["validation"].inputs[:1]
        with torch.no_grad():
            widest = max([probe.numel(), *(h.numel() for _, h in features(host, probe))])
        return LIVE_COPIES * widest * self._like.element_size()

    def _sound(self, tensors: Tensors, env: int, site: int, seed: Seed) -> bool:
        """G1 on two samples of the fit data."""
        host = tensors.host(env).eval()
        with torch.no_grad():
            source, h = features(host, self._data["fit"].inputs[:2])[site]
        return is_sound(seed.eval(), source, h)

    def _newborn(self, tensors: Tensors, edits: Edits, env: int, site: int) -> tuple[Key, Seed]:
        """A seed at birth, on the device, and the pool that it belongs to."""
        key = Key(site, int(edits.blueprint[env, site]), int(edits.blend[env, site]))
        keys = (tensors.round_index, tensors.envs[env], int(edits.seed[env, site]))
        return key, self._program.seed(*key, keys).to(self._like)

    def _repooled(
        self,
        pools: Mapping[Key, Group],
        newborn: Mapping[Key, Mapping[int, Seed]],
        gone: set[tuple[int, int]],
    ) -> dict[Key, Group]:
        """Pools without the rows of seeds that are gone and with new ones.

        Modules are bound to their new rows last, so that a failure on the way leaves the old record whole.
        """
        touched = {key for key, pool in pools.items() if any((env, key.site) in gone for env in pool.envs)}
        touched |= set(newborn)
        stacked = {key: self._stacked(pools.get(key), newborn.get(key, {}), key, gone) for key in touched}
        bound = {key: _group(*rows) for key, rows in stacked.items() if rows is not None}
        kept = {key: pool for key, pool in pools.items() if key not in touched}
        return dict(sorted({**kept, **bound}.items()))

    def _stacked(
        self, pool: Group | None, newborn: Mapping[int, Seed], key: Key, gone: set[tuple[int, int]]
    ) -> tuple[Block, tuple[int, ...], list[nn.Module]] | None:
        """A block of the rows that stay and of new ones, by environment; None if nothing is left."""
        staying = [] if pool is None else [env for env in pool.envs if (env, key.site) not in gone]
        modules: dict[int, nn.Module] = dict(newborn)
        blocks = []
        if pool is not None and staying:
            blocks.append(pool.block.take([pool.row[env] for env in staying]))
            modules |= {env: pool.modules[pool.row[env]] for env in staying}
        if newborn:
            seeds = list(newborn.values())
            state = STATE[self._program.train.seed.name]
            blocks.append(Block.of(seeds, Layout.of(seeds[0]), state, self._like))
        if not blocks:
            return None
        block = blocks[0] if len(blocks) == 1 else blocks[0].join(blocks[1])
        order = [*staying, *newborn]
        envs = sorted(order)
        return block.take([order.index(env) for env in envs]), tuple(envs), [modules[env] for env in envs]


def _place(name: str) -> torch.device:
    """The device of a name.

    Raises:
        ConfigError: torch does not know it, or this machine does not have it.
    """
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device.place = {name!r}: {reason}; use 'cpu', or 'cuda' where there is one"
        ) from error
    if place.type == "meta":
        raise ConfigError(
            f"device.place = {name!r}: computes nothing; use 'cpu', or 'cuda' where there is one"
        )
    return place


def _group(block: Block, envs: tuple[int, ...], modules: Sequence[nn.Module]) -> Group:
    """Bind modules to the rows of a block."""
    parameters = tuple(bind(module, block, row) for row, module in enumerate(modules))
    return Group(block, envs, tuple(modules), parameters)


def _path(key: Key) -> str:
    return f"pool/{key.site}.{key.blueprint}.{key.blend}"


def _fill(block: Block, path: str, arrays: Mapping[str, Tensor]) -> None:
    """Copy exported tensors into a block, in place."""
    with torch.no_grad():
        for name, tensor in block.tensors():
            tensor.copy_(arrays[f"{path}/{name}"])


def _fetch(parts: Sequence[Tensor]) -> list[Floats]:
    """Bring tensors of one dtype to the host, in one transfer."""
    flat = torch.cat([part.reshape(-1) for part in parts]).cpu().numpy()
    pieces = np.split(flat, np.cumsum([part.numel() for part in parts])[:-1])
    return [piece.reshape(tuple(part.shape)) for piece, part in zip(pieces, parts, strict=True)]


def _read(epoch: Epoch, tensors: Tensors, plan: TrainPlan) -> TrainCounts:
    """Turn an epoch's sums and statistics into numbers, in one transfer."""
    tally, packed = _fetch([torch.stack(epoch.tally), epoch.packed()])
    ends = np.cumsum([tensors.hosts.block.rows, *(pool.block.rows for pool in tensors.pools.values())])
    host, *rest = np.split(packed, ends[:-1], axis=1)
    seeds = unsampled(*plan.influence.shape)
    for (key, pool), found in zip(tensors.pools.items(), rest, strict=True):
        seeds[:, list(pool.envs), key.site] = found
    return TrainCounts(
        loss_sum=tally[0],
        score_sum=tally[1],
        samples=plan.indices.shape[1] * plan.indices.shape[2],
        bad_losses=tally[2].astype(np.int64),
        host=statistics(host),
        seeds=statistics(seeds),
        wait_ms=0.0,
        device_ms=0.0,
    )
