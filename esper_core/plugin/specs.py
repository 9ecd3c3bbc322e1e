"""Records that a plugin yields: what it offers, under which name, and where the code is.

Role: small frozen descriptions that import without torch. `build` and `settings` are import strings
("package.module:attribute") that are resolved only when a run chooses the record.
Neighbours: `plugin.hooks` says which hook yields which record, `plugin.loader` collects them,
`plugin.catalogue` looks them up by name.
"""

import re
from collections.abc import Iterable
from typing import Any

from attrs import Attribute, field, frozen

API_LEVEL = 1
"""Level of the plugin interface that this version speaks; the level before it is accepted, too."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*/[a-z0-9][a-z0-9_.-]*")
_IMPORT_STRING = re.compile(r"[A-Za-z_][\w]*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_LOCATION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[\w.-]+\.toml")
PANIC = "panic"
"""Name of the component that every reward has: what panics cost. No term may have it."""
KINDS = frozenset({"vector", "map", "sequence"})


def _name(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"{type(instance).__name__} name {value!r} must read 'namespace/name', "
            "in lower-case letters, digits, '.', '_' and '-'"
        )


def _import_string(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    if not isinstance(value, str) or not _IMPORT_STRING.fullmatch(value):
        raise ValueError(
            f"{type(instance).__name__} {instance.name!r}: {attribute.name} = {value!r} "
            "must be an import string of the form 'package.module:attribute'"
        )


def _location(instance: Any, attribute: "Attribute[str]", value: str) -> None:
    if not isinstance(value, str) or not _LOCATION.fullmatch(value):
        raise ValueError(
            f"{type(instance).__name__} {instance.name!r}: {attribute.name} = {value!r} "
            "must have the form 'package:file.toml'"
        )


def _optional_location(instance: Any, attribute: "Attribute[str | None]", value: str | None) -> None:
    if value is not None:
        _location(instance, attribute, value)  # type: ignore[arg-type]


def _optional_import_string(instance: Any, attribute: "Attribute[str | None]", value: str | None) -> None:
    if value is not None:
        _import_string(instance, attribute, value)  # type: ignore[arg-type]


def _frozen(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


def _kinds(instance: Any, attribute: "Attribute[frozenset[str]]", value: frozenset[str]) -> None:
    if not value or not value <= KINDS:
        raise ValueError(
            f"{type(instance).__name__} {instance.name!r}: fits = {sorted(value)} must name "
            f"at least one of {sorted(KINDS)}"
        )


@frozen(kw_only=True)
class Component:
    """What every record has: a name, an import string, and one line of summary."""

    name: str = field(validator=_name)
    """`namespace/name`; the bare name works in a configuration while it is unique."""
    build: str = field(validator=_import_string)
    """Import string of the builder; where there are settings, they are its last argument."""
    summary: str = ""
    """One line for `esper plugins`."""
    settings: str | None = field(default=None, validator=_optional_import_string)
    """Import string of an attrs class that imports without torch; absent means that there are none."""


@frozen(kw_only=True)
class Blueprint(Component):
    """A seed's architecture.

    `build(site)` returns an `nn.Module` that maps `[B, width, ...]` to the same shape: the change that the
    seed proposes. It is exactly 0 at birth and gives every parameter gradient.
    """

    fits: frozenset[str] = field(converter=_frozen, validator=_kinds)
    """Kinds of feature that it maps: `vector` `[B, C]`, `map` `[B, C, H, W]`, `sequence` `[B, T, C]`."""


@frozen(kw_only=True)
class Term(Component):
    """A term that rewards are made of. `build()` returns one of the five kinds in `plugin.rewards`."""


@frozen(kw_only=True)
class Reward(Component):
    """A reward family: a file with a table for each of its modes, which has a table for each of its terms."""

    build: str = field(validator=_location)
    """`package:file.toml`; the first mode in it is the one that is used unless another is chosen."""
    settings: None = field(default=None, init=False)
    """None: its terms have settings."""


@frozen(kw_only=True)
class Policy(Component):
    """A controller. `build(context)` takes a `plugin.protocols.PolicyContext` and returns a `Policy`."""


@frozen(kw_only=True)
class Device(Component):
    """A device strategy. `build(program)` returns a `plugin.protocols.Device`."""


@frozen(kw_only=True)
class Task(Component):
    """A task: data, host, loss and score. `build()` returns a `model.problem.Problem`."""

    preset: str | None = field(default=None, validator=_optional_location)
    """`package:file.toml`, a complete configuration that works for this task out of the box."""


@frozen(kw_only=True)
class Sink(Component):
    """A receiver of events. `build(context)` takes a `plugin.protocols.SinkContext` and returns a `Sink`."""


@frozen(kw_only=True)
class Command(Component):
    """A subcommand of `esper`; `build` is the import string of a click command, whose options it has."""

    settings: None = field(default=None, init=False)
    """None: a command has options instead."""
