"""The loader: from installed entry points to a catalogue.

Role: every plugin gets one try, on its own. What fails becomes a `PluginFailure` and one visible line, and
takes nothing else down; what is not allowed is never imported. There is no global manager: each call makes
its own.
Neighbours: `plugin.hooks` has the specifications, `plugin.catalogue` the result; `runner.config` has the
settings `plugins.allow` and `plugins.block`.
"""

import logging
import os
import re
import traceback
from collections.abc import Collection, Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

import attrs
import pluggy

from esper_core.plugin import hooks
from esper_core.plugin.catalogue import BUILT_IN, Catalogue, Plugin, PluginFailure, Status
from esper_core.plugin.imports import GROUP
from esper_core.plugin.specs import API_LEVEL, Component

logger = logging.getLogger(__name__)

TRACE = "ESPER_TRACE_PLUGINS"
"""Environment variable; `1` shows on stderr what each hook of each plugin yielded."""


class _RejectedError(Exception):
    """A plugin that imports, but breaks the interface; the message says how."""


@attrs.frozen(kw_only=True)
class _Candidate:
    """An entry point before it is imported."""

    distribution: str
    version: str
    entry_point: EntryPoint

    @property
    def title(self) -> str:
        return f"{self.distribution} {self.version} (entry point {self.entry_point.name!r})"

    def plugin(self, status: Status, note: str, records: Iterable[Component] = ()) -> Plugin:
        return Plugin(
            distribution=self.distribution,
            version=self.version,
            entry_point=self.entry_point.name,
            module=self.entry_point.value,
            status=status,
            note=note,
            records=tuple(records),
        )


def normalise(distribution: str) -> str:
    """The canonical spelling of a distribution's name: "Acme.Esper" is "acme-esper"."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def load(*, allow: Iterable[str] = (), block: Iterable[str] = (), no_plugins: bool = False) -> Catalogue:
    """Load the installed plugins.

    Esper's own plugin is always loaded; the arguments choose among the others before any is imported.

    Args:
        allow: distributions that may be loaded; empty means all.
        block: distributions that may not.
        no_plugins: load none.

    Returns:
        The catalogue of everything that was offered, and of every failure.
    """
    allowed, blocked = set(map(normalise, allow)), set(map(normalise, block))
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    plugins: list[Plugin] = []
    failures: list[PluginFailure] = []
    for candidate in _discover():
        reason = _excluded(candidate.distribution, allowed, blocked, no_plugins)
        outcome = [] if reason else _try(manager, candidate)
        if reason:
            plugins.append(candidate.plugin("skipped", reason))
        elif isinstance(outcome, PluginFailure):
            plugins.append(candidate.plugin("failed", outcome.error))
            failures.append(outcome)
        else:
            plugins.append(candidate.plugin("loaded", "" if outcome else "registers nothing", outcome))
    return Catalogue(plugins=tuple(plugins), failures=(*failures, *_missing_built_in(plugins)))


def _discover() -> list[_Candidate]:
    """Every entry point of the group, in an order that does not depend on the installation."""
    found = []
    for entry_point in entry_points(group=GROUP):
        distribution = entry_point.dist
        if distribution is not None:
            name, version = normalise(distribution.name), distribution.version
            found.append(_Candidate(distribution=name, version=version, entry_point=entry_point))
    return sorted(found, key=lambda c: (c.distribution, c.entry_point.name))


def _excluded(distribution: str, allow: Collection[str], block: Collection[str], no_plugins: bool) -> str:
    """Why a distribution is not loaded; empty if it is."""
    if distribution == BUILT_IN:
        return ""
    if no_plugins:
        return "--no-plugins"
    if distribution in block:
        return "named in plugins.block"
    if allow and distribution not in allow:
        return "not named in plugins.allow"
    return ""


def _missing_built_in(plugins: Iterable[Plugin]) -> list[PluginFailure]:
    """Esper run from a source tree that nobody installed has no plugins at all, and that must be said."""
    if any(plugin.distribution == BUILT_IN for plugin in plugins):
        return []
    error = f"not installed. Next: `pip install {BUILT_IN}`, or `pip install -e .` in its source tree"
    logger.warning("%s: %s", BUILT_IN, error)
    return [PluginFailure(distribution=BUILT_IN, version="", entry_point="esper", error=error, traceback="")]


def _try(manager: pluggy.PluginManager, candidate: _Candidate) -> list[Component] | PluginFailure:
    """Import one plugin and collect what it offers; on failure the manager forgets it."""
    try:
        return _collect(manager, candidate)
    except Exception as error:  # a plugin may raise anything; an interrupt still ends the program
        manager.unregister(name=candidate.title)
        text = str(error) if isinstance(error, _RejectedError) else f"{type(error).__name__}: {error}"
        logger.warning(
            "plugin %s failed and is not used: %s. `esper plugins --failed` shows more", candidate.title, text
        )
        return PluginFailure(
            distribution=candidate.distribution,
            version=candidate.version,
            entry_point=candidate.entry_point.name,
            error=text,
            traceback=traceback.format_exc(),
        )


def _collect(manager: pluggy.PluginManager, candidate: _Candidate) -> list[Component]:
    """Everything that one plugin yields, checked."""
    module = candidate.entry_point.load()
    _check_level(module, candidate)
    manager.register(module, name=candidate.title)
    # Whatever is pending now is this plugin's: those before it were checked on their own.
    manager.check_pending()
    others = [plugin for plugin in manager.get_plugins() if plugin is not module]
    records: list[Component] = []
    for hook, kind in hooks.HOOKS.items():
        yielded = [
            record
            for results in manager.subset_hook_caller(hook, others)()
            for record in _iterate(results, hook)
        ]
        for record in yielded:
            if type(record) is not kind:
                raise _RejectedError(
                    f"hook {hook} must yield {kind.__name__} records, but yielded {record!r}"
                )
        names = [record.name for record in yielded]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise _RejectedError(f"hook {hook} yields {', '.join(repeated)} more than once")
        if names:
            visible = logging.WARNING if os.environ.get(TRACE) == "1" else logging.DEBUG
            logger.log(visible, "%s: %s -> %s", candidate.title, hook, ", ".join(names))
        records += yielded
    if not records:
        logger.warning("plugin %s registers nothing", candidate.title)
    return records


def _iterate(results: object, hook: str) -> list[Component]:
    if not isinstance(results, Iterable):
        raise _RejectedError(f"hook {hook} must yield records, but returned {results!r}")
    return list(results)


def _check_level(module: ModuleType, candidate: _Candidate) -> None:
    """Refuse a plugin that was written for another level of the interface."""
    level = getattr(module, "ESPER_API", 1)
    lowest = max(1, API_LEVEL - 1)
    if type(level) is not int:
        raise _RejectedError(f"ESPER_API must be a whole number, not {level!r}")
    if not lowest <= level <= API_LEVEL:
        spoken = f"{lowest} or {API_LEVEL}" if lowest < API_LEVEL else f"{API_LEVEL}"
        behind = BUILT_IN if level > API_LEVEL else candidate.distribution
        raise _RejectedError(
            f"needs plugin API level {level}, and this Esper speaks {spoken}. "
            f"Next: upgrade {behind}: `pip install --upgrade {behind}`"
        )
