"""Where values come from: presets, files, `--set` and flags, laid over each other with their origins kept.

Role: every source becomes a `Layer`; `merge` lays one over the tree of those before it. Each value of the
tree remembers its origin, so that a message, and `esper config show --origins`, can say who set it.
Neighbours: `config.stack` chooses the layers, `config.resolve` makes records of the merged tree.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from esper_core.errors import ConfigError, did_you_mean

DEFAULT = "default"
"""Origin of a value that nobody set."""

Keys = tuple[str, ...]
Tree = dict[str, Any]
"""Nested dictionaries whose leaves are `Leaf`."""

_BARE_KEY = re.compile(r"[\w./+-]+")


@attrs.frozen
class Layer:
    """The values that one source sets."""

    origin: str
    """Name of the source, for messages."""
    table: Mapping[str, Any]
    """As a TOML parser returns it."""
    replaces: Keys = ()
    """Tables that this layer sets as a whole, so that nothing of the layers below stays in them."""


@attrs.frozen
class Leaf:
    """One value of the tree."""

    value: Any
    """As a TOML parser returns it."""
    origin: str
    """Name of the source that set it."""
    rank: int
    """Number of the layer that set it; later layers lie above earlier ones."""


def merge(tree: Tree, layer: Layer, rank: int) -> Tree:
    """Lay a layer over a tree: tables are merged key by key, anything else is replaced.

    Args:
        tree: of the layers below; it is not changed.
        layer: to lay above it.
        rank: number of the layer.
    """
    kept = {key: item for key, item in tree.items() if key not in layer.replaces}
    return _merged(kept, layer.table, layer.origin, rank)


def _merged(tree: Tree, table: Mapping[str, Any], origin: str, rank: int) -> Tree:
    merged = dict(tree)
    for key, value in table.items():
        below = tree.get(key)
        if isinstance(value, Mapping):
            merged[key] = _merged(below if isinstance(below, dict) else {}, value, origin, rank)
        else:
            merged[key] = Leaf(value, origin, rank)
    return merged


def plain(tree: Any) -> Any:
    """The tree's values without their origins."""
    if isinstance(tree, Leaf):
        return tree.value
    return {key: plain(item) for key, item in tree.items()} if isinstance(tree, dict) else tree


def lookup(tree: Tree, keys: Keys) -> Leaf | None:
    """The leaf at `keys`: for the inside of a leaf the leaf itself, for a table its topmost leaf."""
    inner: Any = tree
    for key in keys:
        inner = inner.get(key) if isinstance(inner, dict) else inner
    return max(_leaves(inner), key=lambda leaf: leaf.rank, default=None)


def _leaves(tree: Any) -> Iterator[Leaf]:
    if isinstance(tree, Leaf):
        yield tree
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _leaves(item)


def dotted(keys: Iterable[str]) -> str:
    """Keys as `--set` takes them; a key with a dot in it is quoted."""
    return ".".join(f'"{key}"' if "." in key else key for key in keys)


def names_file(source: str) -> bool:
    """Whether a source that was given as text is a file and not the name of a task."""
    return source.endswith(".toml") or Path(source).is_file()


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; `ConfigError` with path and line if that is impossible."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        hint = did_you_mean(path.name, _neighbours(path))
        raise ConfigError(f"{path}: there is no such file{hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, and a TOML file is expected") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error
    try:
        return parse(data.decode("utf-8"), origin=str(path))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line}: is not UTF-8 text") from error


def _neighbours(path: Path) -> list[str]:
    return [other.name for other in path.parent.glob("*.toml")] if path.parent.is_dir() else []


def parse(text: str, *, origin: str) -> dict[str, Any]:
    """Parse TOML; `ConfigError` with the origin and the line if it is malformed."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{origin}: is not valid TOML: {error}") from error


def parse_sets(sets: Iterable[str]) -> Layer:
    """The layer of all `--set KEY=VALUE`; a later one wins over an earlier one.

    Raises:
        ConfigError: a text is not of that form.
    """
    tree: Tree = {}
    for rank, text in enumerate(sets):
        tree = merge(tree, Layer("--set", _nested(*_parse_set(text))), rank)
    return Layer("--set", plain(tree))


def parse_flags(flags: Mapping[str, object]) -> list[Layer]:
    """One layer per flag that was given.

    Args:
        flags: values by dotted key ("run.seed"), or by "policy" what `policy_flag` takes; None is not given.
    """
    return [_parse_flag(key, value) for key, value in flags.items() if value is not None]


def _parse_flag(key: str, value: object) -> Layer:
    if key == "policy" and isinstance(value, str):
        return policy_flag(value)
    return Layer("--" + key.removeprefix("run."), _nested(tuple(key.split(".")), value))


def policy_flag(value: str) -> Layer:
    """The layer of `--policy`.

    Args:
        value: name of a policy, or path of a TOML file that holds what a configuration has in `[policy]`; a
            file that names no policy is a script.

    Raises:
        ConfigError: the file cannot be read.
    """
    if not names_file(value):
        return Layer("--policy", {"policy": {"name": value}})
    table = {"name": "esper/scripted", **read_file(value)}
    return Layer(f"--policy {value}", {"policy": table}, replaces=("policy",))


def _nested(keys: Keys, value: object) -> dict[str, Any]:
    for key in reversed(keys[1:]):
        value = {key: value}
    return {keys[0]: value}


def _parse_set(text: str) -> tuple[Keys, object]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key or not value:
        raise ConfigError(f"--set {text!r}: expected KEY=VALUE, for example --set train.epochs=8")
    return _parse_key(key, text), _parse_value(value, text)


def _parse_key(key: str, text: str) -> Keys:
    """Split a dotted key; names of plugins need no quotes around their '/'."""
    if _BARE_KEY.fullmatch(key):
        keys = tuple(key.split("."))
        if all(keys):
            return keys
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except ValueError:
        table = {}
    keys = ()
    while isinstance(table, dict) and len(table) == 1:
        (name, table), *_ = table.items()
        keys = (*keys, name)
    if table != 0:
        raise ConfigError(f"--set {text!r}: {key!r} is not a key; keys are dotted, such as train.epochs")
    return keys


def _parse_value(value: str, text: str) -> object:
    """A TOML value; what is none is a word, unless it begins like a value that needs an end."""
    try:
        table = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError) as error:
        if value[0] in "[{\"'":
            raise ConfigError(f"--set {text!r}: the value is not valid TOML: {error}") from error
        return value
    if set(table) != {"value"}:
        raise ConfigError(f"--set {text!r}: expected one value")
    return table["value"]
