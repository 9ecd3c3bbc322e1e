"""The catalogue: everything that installed plugins offer, looked up by kind and name.

Role: a frozen record that answers "which record has this name", or says why none has. Two plugins that offer
the same name are in conflict, and neither wins: whoever asks for the name is told about both.
Neighbours: `plugin.loader` makes it, `runner.config` and the runner ask it, `esper plugins` prints it.
"""

from collections.abc import Iterable
from typing import Generic, Literal, TypeVar, overload

import attrs

from esper_core.errors import ConfigError, PluginError, did_you_mean
from esper_core.plugin.hooks import HOOKS
from esper_core.plugin.imports import resolve
from esper_core.plugin.specs import Blueprint, Component, Task

BUILT_IN = "esper-morph"
"""Normalised name of the distribution whose plugin is always loaded."""

PLURALS = {record.__name__.lower(): hook.removeprefix("esper_") for hook, record in HOOKS.items()}
"""Every kind of record, in the singular and in the plural."""

Status = Literal["loaded", "failed", "skipped"]
Record = TypeVar("Record", bound=Component, covariant=True)


@attrs.frozen(kw_only=True)
class Entry(Generic[Record]):
    """A record and the distribution that it came with.

    Attributes:
        record: what a hook yielded.
        distribution: normalised name.
        version: of the distribution.
    """

    record: Record
    distribution: str
    version: str

    @property
    def kind(self) -> str:
        """Kind of the record, in the singular: "blueprint"."""
        return type(self.record).__name__.lower()

    @property
    def name(self) -> str:
        """Full name, "namespace/name"."""
        return self.record.name

    @property
    def bare(self) -> str:
        """Name without its namespace."""
        return self.record.name.split("/", 1)[1]

    @property
    def source(self) -> str:
        """Distribution and version, for messages: "acme-esper 0.3"."""
        return f"{self.distribution} {self.version}"

    @property
    def label(self) -> str:
        """The record and its source, for messages: "blueprint 'acme/ghost' of acme-esper 0.3"."""
        return f"{self.kind} {self.name!r} of {self.source}"

    def build(self) -> object:
        """Import the builder; raises `PluginError` if that fails."""
        return resolve(self.record.build, owner=self.label)

    def settings(self) -> type | None:
        """Import the settings class, None if there is none; raises `PluginError` if it is no attrs class."""
        if self.record.settings is None:
            return None
        found = resolve(self.record.settings, owner=self.label)
        if not isinstance(found, type) or not attrs.has(found):
            raise PluginError(f"{self.label}: settings {self.record.settings!r} must be an attrs class")
        return found


@attrs.frozen(kw_only=True)
class PluginFailure:
    """A plugin that could not be loaded, and why.

    Attributes:
        distribution: normalised name.
        version: of the distribution.
        entry_point: name in the group.
    """

    distribution: str
    version: str
    entry_point: str
    error: str
    """One line."""
    traceback: str
    """Full text, for whoever repairs it."""

    @property
    def source(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}".strip()


@attrs.frozen(kw_only=True)
class Plugin:
    """One entry point of the group, as `esper plugins` shows it.

    Attributes:
        distribution: normalised name.
        version: of the distribution.
        entry_point: name in the group.
        module: import name of the registration module.
        status: what became of it.
        records: everything that its hooks yielded.
    """

    distribution: str
    version: str
    entry_point: str
    module: str
    status: Status
    note: str = ""
    """Why it failed or was skipped, or a warning."""
    records: tuple[Component, ...] = ()

    @property
    def source(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}"


def _known(kind: str) -> str:
    if kind not in PLURALS:
        raise ValueError(f"no such kind of record: {kind!r}; the kinds are {', '.join(PLURALS)}")
    return kind


@attrs.frozen(kw_only=True)
class Catalogue:
    """What is installed: the records, the plugins that offer them, and the plugins that failed.

    Attributes:
        plugins: every entry point of the group, whatever became of it.
        failures: of those that could not be loaded.
    """

    plugins: tuple[Plugin, ...] = ()
    failures: tuple[PluginFailure, ...] = ()

    @overload
    def entries(self, kind: Literal["blueprint"]) -> tuple[Entry[Blueprint], ...]: ...
    @overload
    def entries(self, kind: Literal["task"]) -> tuple[Entry[Task], ...]: ...
    @overload
    def entries(self, kind: str) -> tuple[Entry[Component], ...]: ...
    def entries(self, kind: str) -> tuple[Entry[Component], ...]:
        """Entries of a kind that are not in conflict, sorted by name.

        Args:
            kind: in the singular: "blueprint", "task", ...
        """
        offers = self._offers(kind)
        names = [entry.name for entry in offers]
        return tuple(entry for entry in offers if names.count(entry.name) == 1)

    def names(self, kind: str) -> tuple[str, ...]:
        """Full names of the entries of a kind, sorted."""
        return tuple(entry.name for entry in self.entries(kind))

    def conflicts(self, kind: str) -> dict[str, tuple[Entry[Component], ...]]:
        """Names of a kind that more than one plugin offers, with all who do."""
        offers = self._offers(kind)
        groups = {
            name: tuple(e for e in offers if e.name == name) for name in sorted({e.name for e in offers})
        }
        return {name: group for name, group in groups.items() if len(group) > 1}

    @overload
    def built_in(self, kind: Literal["blueprint"]) -> tuple[Entry[Blueprint], ...]: ...
    @overload
    def built_in(self, kind: str) -> tuple[Entry[Component], ...]: ...
    def built_in(self, kind: str) -> tuple[Entry[Component], ...]:
        """What Esper itself brings of a kind, sorted; `PluginError` if another plugin claims one of them."""
        own = sorted({entry.name for entry in self._offers(kind) if entry.distribution == BUILT_IN})
        return tuple(self.find(kind, name) for name in own)

    @overload
    def find(
        self, kind: Literal["blueprint"], name: str, *, where: str | None = None
    ) -> Entry[Blueprint]: ...
    @overload
    def find(self, kind: Literal["task"], name: str, *, where: str | None = None) -> Entry[Task]: ...
    @overload
    def find(self, kind: str, name: str, *, where: str | None = None) -> Entry[Component]: ...
    def find(self, kind: str, name: str, *, where: str | None = None) -> Entry[Component]:
        """Look a record up.

        Args:
            kind: in the singular: "blueprint", "task", ...
            name: "namespace/name", or the bare name while only one namespace has it.
            where: what asks, put before a message: "growth.blueprints".

        Raises:
            ConfigError: no record has the name, or several namespaces have the bare name.
            PluginError: two plugins offer the name, or one that failed to load may be the one that has it.
        """
        prefix = f"{where}: " if where else ""
        matches = [e for e in self._offers(kind) if name in (e.name, e.bare)]
        names = list(dict.fromkeys(entry.name for entry in matches))
        if not matches:
            raise self._unknown(kind, name, prefix)
        if len(names) > 1:
            raise ConfigError(f"{prefix}{name!r} is ambiguous: write one of {', '.join(names)} in full")
        if len(matches) > 1:
            sources = " and ".join(entry.source for entry in matches)
            raise PluginError(
                f"{prefix}{kind} {names[0]!r} is offered by {sources}, and neither wins. "
                f"Next: uninstall one, or block it: plugins.block = [{matches[-1].distribution!r}]"
            )
        return matches[0]

    def _offers(self, kind: str) -> tuple[Entry[Component], ...]:
        """Everything of a kind that was offered, conflicts included, sorted by name."""
        wanted = _known(kind)
        offers = (
            Entry(record=record, distribution=plugin.distribution, version=plugin.version)
            for plugin in self.plugins
            for record in plugin.records
        )
        found = (entry for entry in offers if entry.kind == wanted)
        return tuple(sorted(found, key=lambda entry: (entry.name, entry.distribution)))

    def _unknown(self, kind: str, name: str, prefix: str) -> ConfigError | PluginError:
        """The error for a name that nothing offers; a plugin that failed may be the one that would."""
        offers = self._offers(kind)
        candidates = [word for entry in offers for word in ((entry.name,) if "/" in name else (entry.bare,))]
        text = f"{prefix}there is no {kind} {name!r}{did_you_mean(name, candidates)}"
        valid = _joined(dict.fromkeys(entry.name for entry in offers))
        lines = [f"{text} ({PLURALS[kind]} that are installed: {valid})"]
        skipped = _joined(f"{p.source} ({p.note})" for p in self.plugins if p.status == "skipped")
        if skipped != "none":
            lines.append(f"Not loaded, and so not searched: {skipped}")
        if not self.failures:
            return ConfigError(". ".join(lines))
        failed = _joined(f"{f.source} ({f.error})" for f in self.failures)
        lines.append(f"It may belong to a plugin that failed: {failed}. Next: `esper plugins --failed`")
        return PluginError(". ".join(lines))


def _joined(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
