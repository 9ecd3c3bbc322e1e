"""Small worlds for the tests of the tensor plane: problems, programs and episodes, without configuration."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, cast

import numpy as np
import torch
from attrs import frozen
from torch import Tensor, nn

import esper_plugins
from esper_core.model.hosts import Host, Site
from esper_core.model.parts import Part
from esper_core.model.problem import Problem, Split
from esper_core.model.program import Program, build_host, count_parameters, keyed_generator, seed_costs
from esper_core.phases import collect
from esper_core.phases.collect import Cast, Episode, EpochReport
from esper_core.phases.reward import Rewards
from esper_core.plugin import Blueprint, PolicyContext
from esper_core.plugin.catalogue import Catalogue
from esper_core.plugin.loader import load
from esper_core.plugin.protocols import Policy
from esper_core.plugin.rewards import RewardFamily
from esper_core.rules import lifecycle, ramps
from esper_core.state.actions import ActionSpace, Blend, Curve
from esper_core.state.plans import TrainPlan
from esper_core.state.settings import GovernorSettings, GrowthSettings, LearnSettings, TrainSettings
from esper_core.state.slots import PLANTED, SlotTable, Stage
from esper_core.testing import families
from esper_plugins.blueprints.settings import LowRank
from esper_plugins.devices import single
from esper_plugins.devices.settings import Single
from esper_plugins.devices.single import SingleDevice
from esper_plugins.policies import scripted
from esper_plugins.policies.settings import Scripted, ScriptStep
from esper_plugins.tasks import digits as digits_task
from esper_plugins.tasks import spirals as spirals_task
from esper_plugins.tasks.classification import cross_entropy, hits
from esper_plugins.tasks.settings import Digits, Spirals

torch.set_num_threads(1)

OPEN: dict[str, Any] = {
    "training_dwell": 0.0,
    "min_health": 0.0,
    "min_contribution": -1e9,
    "contact_bound": 1e9,
    "embargo": 0.0,
}
"""Growth settings under which no gate is closed by what was measured."""
EVERYTHING: dict[str, Any] = {
    **OPEN,
    "blends": ("add", "multiply", "gate"),
    "curves": ("linear", "cosine", "sigmoid-gentle", "sigmoid", "sigmoid-sharp"),
    "speeds": (0, 1, 2, 3),
    "max_live": 2,
}
"""Open gates and a large vocabulary of actions."""

PolicyBuilder = Callable[[PolicyContext], Policy]


def digits(**settings: Any) -> Problem:
    return digits_task.build(Digits(**{"width": 8, "blocks": 2, "narrow": 0, **settings}))


def spirals(**settings: Any) -> Problem:
    return spirals_task.build(Spirals(**{"samples": 60, "width": 4, "blocks": 2, **settings}))


class PictureHost(nn.Module):
    """The host of somebody who has never seen our base class: convolutions, batch normalisation, 2 sites."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        block = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout)
        )
        head = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(9 * width, 3))
        self.segments = nn.ModuleList([stem, block, head])
        self.sites = (
            Site(name="behind", after=0, kind="map", width=width),
            Site(name="across", after=1, kind="map", width=width, across=True),
        )


def pictures(samples: int = 30, width: int = 4, dropout: float = 0.0) -> Problem:
    """Three classes of noisy 6 x 6 pictures for a `PictureHost`; `samples` in each part of the data."""
    draw = np.random.default_rng(0)
    patterns = draw.normal(size=(3, 1, 6, 6))
    labels = np.arange(samples) % 3

    def part() -> Split:
        images = patterns[labels] + draw.normal(size=(samples, 1, 6, 6))
        return Split(torch.from_numpy(images).float(), torch.from_numpy(labels))

    return Problem(
        fit=part(),
        validation=part(),
        report=part(),
        host=Part(name="test/pictures", build="", call=lambda: PictureHost(width, dropout)),
        loss=cross_entropy,
        score=hits,
    )


def host_of(problem: Problem) -> Host:
    """A host, without touching torch's global generator."""
    with keyed_generator(0):
        return build_host(problem.host)


def builtin() -> tuple[tuple[Part, ...], tuple[frozenset[str], ...]]:
    """Parts of the built-in blueprints, and the kinds that they fit."""
    records = list(cast(Iterable[Blueprint], esper_plugins.esper_blueprints()))
    settings = {"esper/lowrank": LowRank(rank=4)}
    parts = tuple(
        Part(name=r.name, build=r.build, call=_found(r), settings=settings.get(r.name)) for r in records
    )
    return parts, tuple(r.fits for r in records)


def _found(record: Blueprint) -> Callable[..., Any]:
    module, _, attribute = record.build.partition(":")
    return cast(Callable[..., Any], getattr(import_module(module), attribute))


def program(
    problem: Problem,
    *,
    train: TrainSettings | None = None,
    growth: GrowthSettings | None = None,
    parts: Sequence[Part] = (),
    root: int = 0,
) -> Program:
    """A program with the built-in blueprints that fit the host, or with other parts, which must."""
    growth = growth or GrowthSettings(**EVERYTHING)
    sites = host_of(problem).sites
    kinds = frozenset(site.kind for site in sites)
    blends = tuple(Blend[name.upper()] for name in growth.blends)
    fitting = [part for part, fits in zip(*builtin(), strict=True) if fits & kinds]
    blueprints = tuple(parts or fitting)
    space = ActionSpace(
        slots=tuple(site.name for site in sites),
        blueprints=tuple(part.name for part in blueprints),
        blends=blends,
        curves=tuple(Curve[name.upper().replace("-", "_")] for name in growth.curves),
        targets=np.asarray(growth.targets),
        speeds=np.asarray(growth.speeds),
        enabled=np.ones(len(sites), np.bool_),
        cost=seed_costs(blueprints, (kinds,) * len(blueprints), sites, blends),
    )
    return Program(
        problem=problem,
        sites=sites,
        space=space,
        blueprints=blueprints,
        train=train or TrainSettings(epochs=6, batch_size=8, train_batches=2),
        growth=growth,
        root=root,
    )


def script(*steps: ScriptStep) -> PolicyBuilder:
    return lambda context: scripted.build(context, Scripted(steps=steps))


def step(epoch: int, op: Any, slot: str, **choices: Any) -> ScriptStep:
    """One step of a script that is tried in its epoch only."""
    return ScriptStep(epoch=epoch, op=op, slot=slot, **choices)


def context_of(program: Program, learn: LearnSettings | None = None) -> PolicyContext:
    return PolicyContext(
        space=program.space,
        epochs=program.train.epochs,
        learn=learn or LearnSettings(),
        root=program.root,
        host_parameters=count_parameters(host_of(program.problem)),
    )


@cache
def catalogue() -> Catalogue:
    """What Esper itself brings."""
    return load(no_plugins=True)


def rewards(name: str = "shipped", mode: str | None = None, **changes: Any) -> Rewards:
    """A built-in reward; `changes` are tables of its terms, by term: rent={"weight": 0.0}."""
    return Rewards.of(family(name, mode, **changes))


def family(name: str = "shipped", mode: str | None = None, **changes: Any) -> RewardFamily:
    """A built-in reward's family in one mode."""
    return families.family(name, mode, catalogue=catalogue(), **changes)


def cast_of(program: Program, policy: PolicyBuilder, dtype: Any = "float64", **device: Any) -> Cast:
    """The program, on `esper/single`, with a policy and the default reward."""
    return Cast(
        program=program,
        device=single.build(program, Single(dtype=dtype, **device)),
        policy=policy(context_of(program)),
        reward=rewards(),
        governor=GovernorSettings(),
        gamma=1.0,
        rounds=1,
        host_parameters=count_parameters(host_of(program.problem)),
    )


def epochs(
    cast: Cast, envs: Sequence[int] = (0,), *, round_index: int = 0, planted: SlotTable | None = None
) -> Iterator[tuple[Episode, EpochReport]]:
    """An episode, epoch by epoch; only the last one that was yielded may be used."""
    episode = collect.begin(cast, np.asarray(envs), round_index, planted)
    for _ in range(cast.program.train.epochs):
        episode, report = collect.advance(cast, episode)
        yield episode, report


def table_of(program: Program, envs: int, *seeds: tuple[int, str, Stage, float]) -> SlotTable:
    """The same seeds in every environment, each as (site, blueprint, stage, influence where it blends)."""
    names = [name.split("/")[1] for name in program.space.blueprints]
    blueprint = np.full(len(program.sites), -1)
    alpha = np.zeros(len(program.sites))
    for site, name, _, influence in seeds:
        blueprint[site], alpha[site] = names.index(name), influence
    table = lifecycle.plant(program.space, envs, blueprint, np.zeros_like(blueprint), alpha)
    for site, _, stage, _ in seeds:
        table.stage[:, site] = stage
    return table


def plan_of(program: Program, table: SlotTable, indices: Any, rate: float = 1.0, **changes: Any) -> TrainPlan:
    """One epoch by hand; `indices` is `[N, T, B]` samples of the fit data."""
    indices = np.asarray(indices)
    steps = indices.shape[1]
    fields = {
        "epoch": 0,
        "indices": indices,
        "rate": np.full(steps, rate),
        "sampled": np.ones(steps, np.bool_),
        "influence": ramps.influence(table),
        "incubating": table.stage == Stage.TRAINING,
        "training": table.within(PLANTED) & ~table.withdrawing,
        "input_gain": program.growth.input_gain,
    }
    return TrainPlan(**{**fields, **changes})


def lively(device: SingleDevice, table: SlotTable, envs: Sequence[int] = (0,)) -> Any:
    """Tensors for a slot table, with seeds and batch statistics far from what they are at birth."""
    numbers = np.asarray(envs)
    tensors, _ = device.edit(device.start(numbers, 0), lifecycle.edits(SlotTable.empty(*table.shape), table))
    arrays = dict(device.export(tensors))
    generator = torch.Generator().manual_seed(0)
    for name, value in arrays.items():
        if name.startswith("pool/") and "/parameters/" in name:
            arrays[name] = value + 0.5 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        if "/running_" in name:
            arrays[name] = 0.5 + torch.rand(value.shape, generator=generator, dtype=value.dtype)
    return device.adopt(arrays, table, numbers, 0)


def rows_of(exported: Mapping[str, Tensor], slots: SlotTable, row: int) -> dict[str, Tensor]:
    """What an export says of one environment: its row of the hosts and of every pool that it is in."""
    rows = {"host": row}
    for site in np.flatnonzero(slots.blueprint[row] >= 0).tolist():
        key = slots.blueprint[:, site], slots.blend[:, site]
        same = (key[0] == key[0][row]) & (key[1] == key[1][row])
        rows[f"pool/{site}.{key[0][row]}.{key[1][row]}"] = int(same[:row].sum())
    return {
        name: tensor[rows[path]].clone()
        for name, tensor in exported.items()
        for path in rows
        if name.startswith(f"{path}/")
    }


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """The same tensors, bit for bit; NaN equals itself."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        same = (tensor == other[name]) | ((tensor != tensor) & (other[name] != other[name]))
        assert tensor.dtype == other[name].dtype, name
        assert bool(same.all()), name


@frozen(eq=False)
class Played:
    """An episode that is over: its last state, and what was reported of every epoch."""

    cast: Cast
    episode: Episode
    reports: tuple[EpochReport, ...]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return dict(self.cast.device.export(self.episode.tensors))

    def alone(self, row: int) -> dict[str, Tensor]:
        """Tensors of one environment, whoever its neighbours are."""
        return rows_of(self.tensors, self.episode.slots, row)


def play(cast: Cast, envs: Sequence[int] = (0,), **begin: Any) -> Played:
    episodes, reports = zip(*epochs(cast, envs, **begin), strict=True)
    return Played(cast, episodes[-1], reports)
