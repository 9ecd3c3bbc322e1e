"""From a tree of values to the record `Config`, with everything that is wrong reported together.

Role: each section is structured on its own; the settings of plugins by the classes that their records name.
Neighbours: `config.stack` makes the tree, `runner.strict` the records, `config.report` collects what is
wrong, `plugin.catalogue` knows the names.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from esper_core.errors import EsperError, PluginError
from esper_core.plugin.catalogue import Catalogue, Entry
from esper_core.plugin.specs import Component
from esper_core.runner import strict
from esper_core.runner.config import contradictions, rewards
from esper_core.runner.config.layers import Keys, Tree, lookup, plain
from esper_core.runner.config.records import (
    CHOICES,
    SECTIONS,
    TABLES,
    Choice,
    Config,
    PluginSettings,
    RunSettings,
)
from esper_core.runner.config.report import Report
from esper_core.runner.config.rewards import PRESET
from esper_core.state.settings import GovernorSettings, GrowthSettings, LearnSettings, TrainSettings

Offer = Entry[Component]


def resolve(tree: Tree, catalogue: Catalogue, *, source: str) -> Config:
    """Make the configuration of a tree.

    Args:
        tree: of all layers, `config.stack`.
        catalogue: the names that may be chosen.
        source: where something that is missing should have been, for messages.

    Raises:
        ConfigError: with one line for everything that is wrong.
        PluginError: if all that is wrong is plugins.
    """
    report = Report(tree, source)
    table = plain(tree)
    for key in sorted(table.keys() - {*SECTIONS, *CHOICES, *TABLES}):
        report.unknown((key,))
    run = report.section("run", table, RunSettings)
    train = report.section("train", table, TrainSettings)
    growth = report.section("growth", table, GrowthSettings)
    governor = report.section("governor", table, GovernorSettings)
    learn = report.section("learn", table, LearnSettings)
    plugins = report.section("plugins", table, PluginSettings)
    choices = {
        kind: _choice(report, catalogue, kind, table.get(kind, {})) for kind in CHOICES if kind != "reward"
    }
    reward = rewards.resolve(report, catalogue, table.get("reward", {}), run.envs)
    sinks = _named(report, catalogue, "sink", run.sinks)
    blueprints = _named(report, catalogue, "blueprint", growth.blueprints)
    growing = blueprints if growth.blueprints else _built_in(report, catalogue)
    blueprint = _tables(report, catalogue, "blueprint", table.get("blueprint", {}), growing)
    sink = _tables(report, catalogue, "sink", table.get("sink", {}), sinks)
    for keys, reason in contradictions.of_training(table.get("train")):
        report.add(keys, reason)
    for keys, reason in contradictions.of_plugins(plugins, catalogue):
        report.add(keys, reason)
    report.close()
    return Config(
        run=attrs.evolve(run, sinks=tuple(entry.name for entry in sinks)),
        train=train,
        growth=attrs.evolve(growth, blueprints=tuple(entry.name for entry in blueprints)),
        governor=governor,
        learn=learn,
        plugins=plugins,
        task=choices["task"],
        policy=choices["policy"],
        reward=reward,
        device=choices["device"],
        blueprint=blueprint,
        sink=sink,
    )


def _choice(report: Report, catalogue: Catalogue, kind: str, table: object) -> Choice:
    """A section that chooses a record by name and holds its settings."""
    report.keys.append((kind, "name"))
    if not isinstance(table, Mapping):
        report.add((kind,), f'must be a table; choose with {kind}.name = "..."')
        return Choice(name="")
    name = table.get("name", CHOICES[kind])
    if name is None:
        report.add((kind, "name"), f"is required; choose one of {', '.join(catalogue.names(kind))}")
        return Choice(name="")
    if not isinstance(name, str):
        report.add((kind, "name"), f"must be text, not {strict.show(name)}")
        return Choice(name="")
    entry = _find(report, catalogue, kind, name, (kind, "name"))
    if entry is None:
        return Choice(name="")
    settings = {key: value for key, value in table.items() if key != "name"}
    return Choice(name=entry.name, settings=_settings(report, entry, (kind,), settings))


def _find(report: Report, catalogue: Catalogue, kind: str, name: object, keys: Keys) -> Offer | None:
    """Look a name up, or note why it cannot be chosen."""
    try:
        return catalogue.find(kind, str(name))
    except EsperError as error:
        report.add(keys, str(error), plugin=isinstance(error, PluginError))
        return None


def _settings(report: Report, entry: Offer, keys: Keys, table: object) -> object | None:
    """Settings of a record by the class that it names."""
    try:
        record = entry.settings()
        if record is not None and keys == (entry.kind,) and "name" in attrs.fields_dict(record):
            raise PluginError(f"{entry.label}: its settings class must not have a field 'name'")
    except PluginError as error:
        report.add(keys, str(error), plugin=True)
        return None
    if record is not None:
        return report.structure(keys, table, record, entry)
    if not isinstance(table, Mapping):
        report.add(keys, "must be a table")
    for key in table if isinstance(table, Mapping) else ():
        report.unknown((*keys, str(key)), entry)
    return None


def _named(report: Report, catalogue: Catalogue, kind: str, names: Iterable[str]) -> list[Offer]:
    """The records that a list of names chooses, each once."""
    keys = tuple(TABLES[kind].split("."))
    found: list[Offer] = []
    for name in names:
        entry = _find(report, catalogue, kind, name, keys)
        if entry in found:
            report.add(keys, f"names {entry.name} more than once")
        elif entry is not None:
            found.append(entry)
    return found


def _built_in(report: Report, catalogue: Catalogue) -> list[Offer]:
    try:
        return list(catalogue.built_in("blueprint"))
    except PluginError as error:
        report.add(("growth", "blueprints"), str(error), plugin=True)
        return []


def _tables(
    report: Report, catalogue: Catalogue, kind: str, section: Any, chosen: Iterable[Offer]
) -> dict[str, object | None]:
    """Settings of every chosen record; a table for another one is refused, unless a preset left it over."""
    if not isinstance(section, Mapping):
        report.add((kind,), f"must be a table with one table for each {kind}")
        return {}
    entries = {entry.name: entry for entry in chosen}
    for key in sorted(section.keys() - entries.keys()):
        leaf = lookup(report.tree, (kind, key))
        entry = _find(report, catalogue, kind, key, (kind, key))
        if entry is None or (leaf is not None and leaf.origin.startswith(PRESET)):
            continue
        if key == entry.name:
            report.add((kind, key), f"would be ignored: {TABLES[kind]} does not name it")
        else:
            report.add((kind, key), f"is given twice: as {key!r} and as {entry.name!r}")
    return {
        name: _settings(report, entry, (kind, name), section.get(name, {}))
        for name, entry in sorted(entries.items())
    }
