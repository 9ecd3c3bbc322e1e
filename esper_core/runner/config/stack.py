"""Which layer lies on which: defaults, the task's preset, the file, `--set`, flags.

Role: one tree of everything that was said, with the names of plugins' records written in full, and without
what lower layers say about a choice that a higher one replaced.
Neighbours: `config.layers` reads and merges, `config.resolve` makes records of the tree.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from esper_core.errors import ConfigError, EsperError, PluginError
from esper_core.plugin.catalogue import Catalogue, Entry
from esper_core.plugin.imports import read_text
from esper_core.plugin.specs import Task
from esper_core.runner.config import contradictions, rewards
from esper_core.runner.config.layers import (
    Layer,
    Tree,
    merge,
    names_file,
    parse,
    parse_flags,
    parse_sets,
    plain,
    read_file,
)
from esper_core.runner.config.records import CHOICES, TABLES
from esper_core.runner.config.rewards import PRESET

Source = str | Path | Mapping[str, Any]
"""Name of a task, path of a TOML file, or what such a file holds."""


def stack(
    source: Source,
    sets: Sequence[str],
    flags: Mapping[str, object],
    catalogue: Catalogue,
    *,
    preset: bool,
) -> Tree:
    """Lay all sources over each other.

    Args:
        source: as for `config.load`.
        sets: overrides, "train.epochs=8".
        flags: overrides by dotted key.
        catalogue: the names that may be chosen.
        preset: begin with the preset of the task that is chosen.

    Raises:
        ConfigError: a source cannot be read.
        PluginError: the preset cannot be read.
    """
    if isinstance(source, str):
        _refuse_directory(source, catalogue)
    said = [source_layer(source), parse_sets(sets), *parse_flags(flags)]
    layers = [_in_full(layer, catalogue) for layer in said]
    if preset:
        layers = [*_presets(layers, catalogue), *layers]
        layers = rewards.above_family(layers, catalogue)
    tree: Tree = {}
    for rank, layer in enumerate(layers):
        tree = merge(rewards.without_replaced(_without_replaced(tree, layer), layer), layer, rank)
    return contradictions.without_outdated(tree)


def source_layer(source: Source) -> Layer:
    """The layer of what a user named; `ConfigError` if it is a file that cannot be read."""
    if isinstance(source, Mapping):
        return Layer("mapping", source)
    if isinstance(source, str) and not source.strip():
        raise ConfigError(
            "the source is empty; the name of a task or a TOML file is expected, such as digits"
        )
    if isinstance(source, Path) or names_file(source):
        return Layer(str(source), read_file(source))
    return Layer("argument", {"task": {"name": source}})


def _refuse_directory(source: str, catalogue: Catalogue) -> None:
    if not names_file(source) and Path(source).is_dir() and _full(catalogue, "task", source) is None:
        raise ConfigError(
            f"{source}: is a directory, and the name of a task or a TOML file is expected. "
            f"Next: `esper resume {source}`, if it is the folder of a run"
        )


def _full(catalogue: Catalogue, kind: str, name: object) -> str | None:
    """The full name, if there is one; whoever structures the name says what is wrong otherwise."""
    try:
        return catalogue.find(kind, str(name)).name
    except EsperError:
        return None


def _in_full(layer: Layer, catalogue: Catalogue) -> Layer:
    """Write names in full, so that layers which spell them differently still meet."""
    table = dict(layer.table)
    for kind in CHOICES:
        section = table.get(kind)
        if isinstance(section, Mapping) and "name" in section:
            table[kind] = {**section, "name": _full(catalogue, kind, section["name"]) or section["name"]}
    for kind in TABLES:
        section = table.get(kind)
        if isinstance(section, Mapping):
            names = {key: _full(catalogue, kind, key) or key for key in section}
            # A record that is named twice keeps both spellings, and is refused for it later.
            twice = {key for key in section if list(names.values()).count(names[key]) > 1}
            table[kind] = {key if key in twice else names[key]: item for key, item in section.items()}
    return evolve(layer, table=rewards.in_full(table, catalogue))


def _chosen(table: Mapping[str, Any], kind: str) -> Any:
    section = table.get(kind)
    return section.get("name") if isinstance(section, Mapping) else None


def _presets(layers: Iterable[Layer], catalogue: Catalogue) -> list[Layer]:
    """The preset of the task that the layers choose; none if the task has none, or there is no such task."""
    names = [name for layer in layers if (name := _chosen(layer.table, "task")) is not None]
    if not names or _full(catalogue, "task", names[-1]) is None:
        return []
    entry = catalogue.find("task", names[-1])
    if entry.record.preset is None:
        return []
    table = _preset_table(entry, entry.record.preset)
    return [_in_full(Layer(f"{PRESET}{entry.name}", table), catalogue)]


def _preset_table(entry: Entry[Task], location: str) -> dict[str, Any]:
    """Parse a preset; what is wrong with it is its plugin's fault."""
    try:
        table = parse(read_text(location, owner=entry.label), origin=location)
    except ConfigError as error:
        raise PluginError(f"{entry.label}: its preset is broken: {error}") from error
    if "plugins" in table:
        raise PluginError(f"{entry.label}: its preset {location!r} must not have the table [plugins]")
    return table


def _without_replaced(tree: Tree, layer: Layer) -> Tree:
    """Forget the settings of a record that the layer replaces by another one."""
    below = plain(tree)
    replaced = {
        kind
        for kind, default in CHOICES.items()
        if _chosen(layer.table, kind) not in (None, _chosen(below, kind) or default)
    }
    return {key: item for key, item in tree.items() if key not in replaced}
