"""The section `[reward]`: a family's terms, with what a configuration changes and adds.

A family is a file that lies below the section like a preset: a table for each mode, in it a table for each
term. So the terms of a mode can be weighted, set, replaced and added to, and a mode of one's own is a table
like any other.

Role: finds the family's file, and makes records of the terms of the modes that are used.
Neighbours: `config.stack` lays the layers, `config.resolve` asks for the record.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import field, frozen

from esper_core.errors import ConfigError, EsperError, PluginError, did_you_mean
from esper_core.plugin.catalogue import Catalogue, Entry
from esper_core.plugin.imports import read_text
from esper_core.plugin.specs import PANIC, Component
from esper_core.runner import strict
from esper_core.runner.config.layers import Keys, Layer, Tree, lookup, parse
from esper_core.runner.config.records import CHOICES, RewardChoice, TermChoice
from esper_core.runner.config.report import Report
from esper_core.state.settings import finite

OWN = ("name", "mode", "modes")
"""Keys of `[reward]` that are no modes."""
FAMILY = "reward "
"""Beginning of the origin of what a family says."""
PRESET = "preset of "
"""Beginning of the origin of what a preset says."""


@frozen(kw_only=True)
class _Own:
    """Keys that every term has."""

    component: str
    weight: float = field(default=1.0, validator=finite)


def above_family(layers: Sequence[Layer], catalogue: Catalogue) -> list[Layer]:
    """The layers with that of the reward's family below the first of those that are about it.

    Raises:
        PluginError: the file of the family cannot be read.
    """
    names = [_name(layer.table) for layer in layers]
    chosen = next((name for name in reversed(names) if name is not None), CHOICES["reward"])
    try:
        entry = catalogue.find("reward", str(chosen))
    except EsperError:
        return list(layers)  # whoever makes the record says what is wrong with the name
    others = [at for at, name in enumerate(names) if name not in (None, entry.name)]
    first = max(others, default=-1) + 1
    table = {"reward": {"name": entry.name, **_family(entry)}}
    family = Layer(f"{FAMILY}{entry.name}", in_full(table, catalogue))
    return [*layers[:first], family, *layers[first:]]


def _name(table: Mapping[str, Any]) -> Any:
    section = table.get("reward")
    return section.get("name") if isinstance(section, Mapping) else None


def _family(entry: Entry[Component]) -> Mapping[str, Any]:
    """What the file of a family holds; what is wrong with it is its plugin's fault."""
    location = entry.record.build
    try:
        table = parse(read_text(location, owner=entry.label), origin=location)
    except ConfigError as error:
        raise PluginError(f"{entry.label}: its file is broken: {error}") from error
    if not table or not all(isinstance(mode, Mapping) for mode in table.values()) or {*OWN} & table.keys():
        raise PluginError(f"{entry.label}: its file {location!r} must hold a table for each of its modes")
    return table


def _terms(table: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Mode, name and table of every term in a configuration's table."""
    section = table.get("reward")
    for mode, terms in section.items() if isinstance(section, Mapping) else ():
        for name, term in terms.items() if isinstance(terms, Mapping) else ():
            if isinstance(term, Mapping):
                yield mode, name, term


def in_full(table: Mapping[str, Any], catalogue: Catalogue) -> Mapping[str, Any]:
    """Write the names of components in full, so that layers which spell them differently still meet."""
    changed = dict(table)
    for mode, name, term in _terms(table):
        if "component" in term:
            section = changed["reward"]
            full = {**term, "component": _full(catalogue, term["component"])}
            changed["reward"] = {**section, mode: {**section[mode], name: full}}
    return changed


def _full(catalogue: Catalogue, name: object) -> object:
    try:
        return catalogue.find("term", str(name)).name
    except EsperError:
        return name


def without_replaced(tree: Tree, layer: Layer) -> Tree:
    """Forget the settings of a term that the layer makes another component's; its weight is the family's."""
    kept = dict(tree)
    for mode, name, term in _terms(layer.table):
        below: Any = kept
        for key in ("reward", mode, name, "component"):
            below = below.get(key) if isinstance(below, dict) else None
        if below is not None and term.get("component", below.value) != below.value:
            section = kept["reward"]
            weight = {key: leaf for key, leaf in section[mode][name].items() if key == "weight"}
            kept["reward"] = {**section, mode: {**section[mode], name: weight}}
    return kept


def resolve(report: Report, catalogue: Catalogue, table: object, envs: int) -> RewardChoice:
    """Make the record of the section, or note why not.

    Args:
        report: collects what is wrong.
        catalogue: where families and terms are found.
        table: `[reward]` of all layers.
        envs: number of environments, for which modes are named.
    """
    nothing = RewardChoice(name="", modes=("",), terms={})
    report.keys += [("reward",), *(("reward", key) for key in OWN)]
    if not isinstance(table, Mapping):
        report.add(("reward",), 'must be a table; choose with reward.name = "..."')
        return nothing
    name = table.get("name", CHOICES["reward"])
    try:
        entry = catalogue.find("reward", name if isinstance(name, str) else strict.show(name))
    except EsperError as error:
        report.add(("reward", "name"), str(error), plugin=isinstance(error, PluginError))
        return nothing
    offered = [key for key in table if key not in OWN]
    for mode in [key for key in offered if not _is_table_of_tables(table[key])]:
        report.add(("reward", mode), f"must be a table of terms, because it is none of {', '.join(OWN)}")
        offered.remove(mode)
    for mode in [key for key in offered if not table[key]]:
        report.add(("reward", mode), "has no terms")
    modes = _modes(report, entry.name, table, offered, envs)
    for mode in set(offered) - set(modes):
        leaf = lookup(report.tree, ("reward", mode))
        if leaf is not None and not leaf.origin.startswith((FAMILY, PRESET)):
            report.add(("reward", mode), f"would be ignored: no environment is paid by the mode {mode!r}")
    terms = {
        mode: {key: _term(report, catalogue, ("reward", mode, key), table[mode]) for key in table[mode]}
        for mode in offered
    }
    used = {mode: terms[mode] for mode in dict.fromkeys(modes) if mode in terms}
    return RewardChoice(name=entry.name, modes=modes, terms=used)


def _is_table_of_tables(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, Mapping) for item in value.values())


def _modes(
    report: Report, family: str, table: Mapping[str, Any], offered: Sequence[str], envs: int
) -> tuple[str, ...]:
    """The mode of every environment, or one for all."""
    listed = table.get("modes")
    if listed is None:
        key, modes = ("reward", "mode"), (table.get("mode", next(iter(offered), "")),)
    elif isinstance(listed, list | tuple):
        key, modes = ("reward", "modes"), tuple(listed)
        if "mode" in table:
            report.add(key, f"contradicts reward.mode = {table['mode']!r}; one of them is enough")
        if len(modes) != envs:
            report.add(
                key, f"must name one mode for each of the {envs} environments (run.envs), not {len(modes)}"
            )
    else:
        report.add(("reward", "modes"), f"must be a list of modes, not {strict.show(listed)}")
        return ("",)
    for mode in dict.fromkeys(map(str, modes)):
        if mode not in offered:
            hint = did_you_mean(mode, offered)
            valid = ", ".join(offered) or "none"
            report.add(key, f"reward {family!r} has no mode {mode!r}{hint}; its modes are {valid}")
    return tuple(map(str, modes))


def _term(report: Report, catalogue: Catalogue, keys: Keys, terms: Mapping[str, Any]) -> TermChoice:
    """The record of one term, or note why not."""
    table = terms[keys[-1]]
    if keys[-1] == PANIC:
        report.add(keys, "the name is taken by what panics cost; choose another")
    if "component" not in table:
        hint = did_you_mean(keys[-1], [name for name in terms if "component" in terms[name]])
        report.add(keys, f"names no component, so it is no term{hint}")
        return TermChoice(component="", weight=1.0, settings=None)
    fields = attrs.fields_dict(_Own)
    own = report.structure(keys, {key: table[key] for key in table if key in fields}, _Own)
    rest = {key: value for key, value in table.items() if key not in fields}
    if own is None:
        return TermChoice(component="", weight=1.0, settings=None)
    try:
        entry = catalogue.find("term", own.component)
        record = entry.settings()
        taken = sorted(fields.keys() & attrs.fields_dict(record)) if record is not None else []
        if taken:
            raise PluginError(f"{entry.label}: its settings class must not have a field {taken[0]!r}")
    except EsperError as error:
        report.add((*keys, "component"), str(error), plugin=isinstance(error, PluginError))
        return TermChoice(component=own.component, weight=own.weight, settings=None)
    settings = None if record is None else report.structure(keys, rest, record, entry)
    for key in rest if record is None else ():
        report.unknown((*keys, key), entry)
    return TermChoice(component=entry.name, weight=own.weight, settings=settings)
