"""Setup: from a configuration and a catalogue to everything that a run needs.

Role: resolves import strings, builds the task, checks what only the built things can tell (sizes, names of
slots, blueprints that fit nowhere), and puts the program together.
Neighbours: `runner.config` before, `runner.loop` after.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
import torch

from esper_core.errors import ConfigError, EsperError, PluginError, did_you_mean
from esper_core.model.hosts import Host
from esper_core.model.network import features
from esper_core.model.parts import Part
from esper_core.model.problem import Problem
from esper_core.model.program import (
    BuildError,
    Program,
    build_host,
    build_seed,
    count_parameters,
    is_sound,
    keyed_generator,
    seed_costs,
)
from esper_core.phases import reward
from esper_core.phases.collect import Cast
from esper_core.phases.reward import Rewards
from esper_core.plugin.catalogue import Catalogue
from esper_core.plugin.protocols import Device, Policy, PolicyContext, Sink, SinkContext
from esper_core.plugin.rewards import RewardFamily, Term
from esper_core.runner.config import Config, TermChoice
from esper_core.state.actions import ActionSpace, Blend, Curve
from esper_core.state.arrays import Ints


@attrs.frozen(kw_only=True, eq=False)
class Setup:
    """A run, ready to start.

    Attributes:
        config: what was asked for.
        catalogue: where plugins are found.
        cast: program, device, policy and reward.
        static: the policy that waits, for comparisons.
    """

    config: Config
    catalogue: Catalogue
    cast: Cast
    static: Policy

    def sinks(self, folder: Path, positions: Mapping[str, int]) -> dict[str, Sink]:
        """The receivers of events by name, each where a checkpoint saw it; a new run has no positions."""
        contexts = {
            name: SinkContext(folder=folder, resume_at=positions.get(name)) for name in self.config.sink
        }
        return {
            name: cast(Sink, make(part(self.catalogue, "sink", name, settings), "sink", contexts[name]))
            for name, settings in self.config.sink.items()
        }


def program_of(config: Config, catalogue: Catalogue) -> tuple[Program, Host]:
    """Build the task and the program; also a host, for its sites and parameters.

    Raises:
        ConfigError: sizes or names in the configuration do not match the task.
        PluginError: a plugin's builder failed or broke its contract.
    """
    task = part(catalogue, "task", config.task.name, config.task.settings)
    problem = make(task, "task")
    if not isinstance(problem, Problem):
        raise PluginError(f"task {task.name}: built a {type(problem).__name__}, expected a Problem")
    try:
        with keyed_generator(0):
            host = build_host(problem.host)
    except BuildError as error:
        raise PluginError(str(error)) from error
    _check_sizes(config, problem)
    names = [site.name for site in host.sites]
    _check_slots(config.growth.slots, names)
    blends = tuple(Blend[name.upper()] for name in config.growth.blends)
    parts, cost = _seeds(config, catalogue, host, blends)
    _check_seeds(parts, cost, host, problem, blends)
    space = ActionSpace(
        slots=tuple(names),
        blueprints=tuple(p.name for p in parts),
        blends=blends,
        curves=tuple(Curve[name.upper().replace("-", "_")] for name in config.growth.curves),
        targets=np.asarray(config.growth.targets),
        speeds=np.asarray(config.growth.speeds),
        enabled=np.asarray([not config.growth.slots or name in config.growth.slots for name in names]),
        cost=cost,
    )
    program = Program(
        problem=problem,
        sites=host.sites,
        space=space,
        blueprints=parts,
        train=config.train,
        growth=config.growth,
        root=config.run.seed,
    )
    return program, host


def assemble(config: Config, catalogue: Catalogue) -> Setup:
    """Everything that a run needs; see `program_of` for errors."""
    program, host = program_of(config, catalogue)
    parameters = count_parameters(host)
    context = PolicyContext(
        space=program.space,
        epochs=config.train.epochs,
        learn=config.learn,
        root=config.run.seed,
        host_parameters=parameters,
        oracle=_oracle(program),
        groups=len(config.reward.terms),
    )

    def chosen(kind: str, *arguments: Any) -> Any:
        choice = getattr(config, kind)
        return make(part(catalogue, kind, choice.name, choice.settings), kind, *arguments)

    actors = Cast(
        program=program,
        policy=cast(Policy, chosen("policy", context)),
        reward=rewards_of(config, catalogue),
        device=cast(Device, chosen("device", program)),
        governor=config.governor,
        gamma=config.learn.gamma,
        rounds=config.run.rounds,
        host_parameters=parameters,
    )
    _expect_members(f"policy {config.policy.name}", actors.policy, Policy)
    _expect_members(f"device {config.device.name}", actors.device, Device)
    static = make(part(catalogue, "policy", "esper/static", None), "policy", context)
    return Setup(config=config, catalogue=catalogue, cast=actors, static=cast(Policy, static))


def rewards_of(config: Config, catalogue: Catalogue) -> Rewards:
    """The families of a configuration's modes, each checked.

    Raises:
        PluginError: a term's builder failed or broke its contract.
    """
    families = {}
    for mode, terms in config.reward.terms.items():
        built = tuple(_term(catalogue, name, term) for name, term in terms.items() if term.weight)
        families[mode] = RewardFamily(name=f"{config.reward.name}, mode {mode!r}", terms=built)
        reward.check(families[mode])
    order = list(families)
    return Rewards(families=families, modes=np.asarray([order.index(mode) for mode in config.reward.modes]))


def _term(catalogue: Catalogue, name: str, chosen: TermChoice) -> Term:
    """A term of a reward, with the name and the weight that the family gives it."""
    built = make(part(catalogue, "term", chosen.component, chosen.settings), "term")
    if not isinstance(built, Term):
        raise PluginError(
            f"term {chosen.component}: built a {type(built).__name__}, "
            "expected Flow, Event, Potential, Account or Outcome"
        )
    return attrs.evolve(built, name=name, weight=chosen.weight)


def _expect_members(where: str, actor: object, interface: type) -> None:
    """Refuse what lacks a member of its interface before anything is trained."""
    missing = sorted(m for m in dir(interface) if not m.startswith("_") and not hasattr(actor, m))
    if missing:
        raise PluginError(
            f"{where}: a {type(actor).__name__} has no {', '.join(missing)}; "
            f"esper_core.plugin.protocols.{interface.__name__} says what they are"
        )


def _oracle(program: Program) -> Callable[[Ints, int], Ints] | None:
    """Which slot needs help most, where the task can tell from a newborn host."""
    bottleneck = program.problem.bottleneck
    if bottleneck is None:
        return None

    def slots(envs: Ints, round_index: int) -> Ints:
        names = [bottleneck(program.host(round_index, env)) for env in envs.tolist()]
        for name in {*names} - {None, *program.space.slots}:
            raise PluginError(
                f"host {program.problem.host.name}: its task's bottleneck names {name!r}, which is no slot; "
                f"it has {', '.join(program.space.slots)}"
            )
        return np.asarray([-1 if n is None else program.space.slots.index(n) for n in names], np.int64)

    return slots


def part(catalogue: Catalogue, kind: str, name: str, settings: object) -> Part:
    """A plugin's record, resolved."""
    entry = catalogue.find(kind, name)
    return Part(name=entry.name, build=entry.record.build, call=cast(Any, entry.build()), settings=settings)


def make(chosen: Part, kind: str, *arguments: Any) -> object:
    """Call a plugin's builder; whatever it raises becomes an error that names it.

    Raises:
        EsperError: the builder's own.
        PluginError: anything else that it raised.
    """
    try:
        return chosen.make(*arguments)
    except EsperError:
        raise
    except Exception as error:
        raise PluginError(
            f"{kind} {chosen.name}: its builder {chosen.build!r} failed with {type(error).__name__}: {error}"
        ) from error


def _seeds(
    config: Config, catalogue: Catalogue, host: Host, blends: tuple[Blend, ...]
) -> tuple[tuple[Part, ...], "np.ndarray[Any, np.dtype[np.int64]]"]:
    """Blueprints that fit at least one site, and their costs."""
    kinds = {site.kind for site in host.sites}
    entries = [catalogue.find("blueprint", name) for name in config.blueprint]
    fitting = [entry for entry in entries if entry.record.fits & kinds]
    misfits = [entry.name for entry in entries if entry not in fitting]
    if config.growth.blueprints and misfits:
        raise ConfigError(
            f"growth.blueprints: no slot of the host is fit for {', '.join(misfits)}; "
            f"its features are of the kind {', '.join(sorted(kinds))}"
        )
    if not fitting:
        raise ConfigError(
            f"growth.blueprints: no installed blueprint fits the kind {', '.join(sorted(kinds))}"
        )
    parts = tuple(part(catalogue, "blueprint", e.name, config.blueprint[e.name]) for e in fitting)
    fits = tuple(e.record.fits for e in fitting)
    try:
        return parts, seed_costs(parts, fits, host.sites, blends)
    except BuildError as error:
        raise PluginError(str(error)) from error


def _check_seeds(
    parts: tuple[Part, ...],
    cost: "np.ndarray[Any, np.dtype[np.int64]]",
    host: Host,
    problem: Problem,
    blends: tuple[Blend, ...],
) -> None:
    """Build every seed once, so that a broken blueprint stops the run before it starts."""
    with torch.no_grad(), keyed_generator(0):
        found = features(host.eval(), _as_read(problem.fit.inputs[:2], host))
        for s, p in np.argwhere(cost[:, :, 0] >= 0).tolist():
            where = f"blueprint {parts[p].name} at {host.sites[s].name!r}"
            try:
                seed = build_seed(parts[p], host.sites[s], blends[0]).eval()
                sound = is_sound(seed, *found[s])
            except Exception as error:
                raise PluginError(f"{where}: failed with {type(error).__name__}: {error}") from error
            if not sound:
                raise PluginError(
                    f"{where}: its change is not finite or does not keep the shape of its input"
                )


def _as_read(inputs: torch.Tensor, host: Host) -> torch.Tensor:
    """Inputs in the precision of a host's parameters; whole numbers stay what they are."""
    precision = next((p.dtype for p in host.parameters()), inputs.dtype)
    return inputs.to(precision) if inputs.is_floating_point() else inputs


def _check_sizes(config: Config, problem: Problem) -> None:
    samples = len(problem.fit)
    if config.train.batch_size > samples:
        raise ConfigError(
            f"train.batch_size: {config.train.batch_size} is more than the {samples} samples of fit data; "
            f"use at most {samples}"
        )


def _check_slots(wanted: Iterable[str], names: list[str]) -> None:
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"growth.slots: the host has no slot {name!r}{did_you_mean(name, names)}; "
                f"it has {', '.join(names)}"
            )
