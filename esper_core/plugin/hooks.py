"""Hooks of the plugin interface: each yields records of `plugin.specs`.

Role: the names and signatures that pluggy checks. A registration module (the value of an entry point in the
group `esper.plugins`) defines any of them with `hookimpl`.
Neighbours: `plugin.specs` has the records, `plugin.loader` calls the hooks.
"""

from collections.abc import Iterable

import pluggy

from esper_core.plugin.specs import Blueprint, Command, Component, Device, Policy, Reward, Sink, Task, Term

PROJECT = "esper"

HOOKS: dict[str, type[Component]] = {
    "esper_blueprints": Blueprint,
    "esper_terms": Term,
    "esper_rewards": Reward,
    "esper_policies": Policy,
    "esper_devices": Device,
    "esper_tasks": Task,
    "esper_sinks": Sink,
    "esper_commands": Command,
}
"""Which record each hook yields."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def esper_blueprints() -> Iterable[Blueprint]:
    """Yield the architectures that a seed may have."""
    raise AssertionError("a hook specification is never called")


@hookspec
def esper_terms() -> Iterable[Term]:
    """Yield terms that rewards are made of."""
    raise AssertionError("a hook specification is never called")


@hookspec
def esper_rewards() -> Iterable[Reward]:
    """Yield reward families."""
    raise AssertionError("a hook specification is never called")


@hookspec
def esper_policies() -> Iterable[Policy]:
    """Yield controllers."""
    raise AssertionError("a hook specification is never called")


@hookspec
def esper_devices() -> Iterable[Device]:
    """Yield device strategies."""
    raise AssertionError("a hook specification is never called")


@hookspec
def esper_tasks() -> Iterable[Task]:
    """Yield tasks."""
    raise AssertionError("a hook specification is never called")


@hookspec
def esper_sinks() -> Iterable[Sink]:
    """Yield receivers of events."""
    raise AssertionError("a hook specification is never called")


@hookspec
def esper_commands() -> Iterable[Command]:
    """Yield subcommands of `esper`."""
    raise AssertionError("a hook specification is never called")
