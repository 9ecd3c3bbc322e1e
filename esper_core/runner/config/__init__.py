"""The configuration: from presets, TOML, `--set` and flags to one frozen record, checked as a whole.

Role: `load` lays the sources over each other and makes records of the result once, so that no override
escapes a check. Precedence, lowest first: defaults, the task's preset, the file, `--set`, flags.
Neighbours: the modules of this package, one step each; the rest of the runner reads `Config`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import tomli_w

from esper_core.plugin.catalogue import Catalogue
from esper_core.plugin.loader import load as load_plugins
from esper_core.runner import strict
from esper_core.runner.config.layers import (
    DEFAULT,
    Keys,
    Tree,
    dotted,
    lookup,
    merge,
    parse_sets,
    plain,
    policy_flag,
)
from esper_core.runner.config.records import (
    Choice,
    Config,
    PluginSettings,
    RewardChoice,
    RunSettings,
    TermChoice,
)
from esper_core.runner.config.resolve import resolve
from esper_core.runner.config.stack import Source, source_layer, stack

__all__ = [
    "Choice",
    "Config",
    "PluginSettings",
    "RewardChoice",
    "RunSettings",
    "Source",
    "TermChoice",
    "catalogue_for",
    "dumps",
    "flatten",
    "load",
    "origins",
    "policy_flag",
]


def load(
    source: Source,
    *,
    sets: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    catalogue: Catalogue,
    preset: bool = True,
) -> Config:
    """Resolve and check a configuration.

    Args:
        source: name of a task, path of a TOML file, or the content of one. Text that ends in `.toml` or names
            an existing file is a path.
        sets: overrides, "train.epochs=8"; a later one wins.
        flags: overrides of the command line, by dotted key ("run.seed"), and "policy" as `policy_flag` takes
            it; they win over `sets`, and None is not given.
        catalogue: the names that may be chosen.
        preset: lay the task's preset below; what `dumps` wrote is complete and needs none.

    Raises:
        ConfigError: with one line for everything that is wrong.
        PluginError: if all that is wrong is plugins.
    """
    tree = stack(source, sets, flags or {}, catalogue, preset=preset)
    return resolve(tree, catalogue, source=source_layer(source).origin)


def origins(
    source: Source,
    *,
    sets: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    catalogue: Catalogue,
    preset: bool = True,
) -> dict[str, str]:
    """Who set each value of what `load` returns for the same arguments, by dotted key; see `load`."""
    tree = stack(source, sets, flags or {}, catalogue, preset=preset)
    config = resolve(tree, catalogue, source=source_layer(source).origin)
    found = {keys: lookup(tree, keys) for keys, _ in flatten(config)}
    return {dotted(keys): leaf.origin if leaf else DEFAULT for keys, leaf in found.items()}


def catalogue_for(source: Source, *, sets: Sequence[str] = (), no_plugins: bool = False) -> Catalogue:
    """Load the plugins that a configuration's `[plugins]` admits, before anything else of it is read.

    Args:
        source: as for `load`.
        sets: as for `load`.
        no_plugins: load only Esper's own.

    Raises:
        ConfigError: the source or an override cannot be read.
    """
    tree: Tree = {}
    for rank, layer in enumerate([source_layer(source), parse_sets(sets)]):
        tree = merge(tree, layer, rank)
    try:
        settings = strict.structure(plain(tree.get("plugins", {})), PluginSettings)
    except strict.RejectedError:
        # `load` will say what is wrong with it; until then nobody knows what may be imported.
        return load_plugins(no_plugins=True)
    return load_plugins(allow=settings.allow, block=settings.block, no_plugins=no_plugins)


def dumps(config: Config) -> str:
    """The complete configuration as TOML, which loads back to an equal record; None is left out."""
    return tomli_w.dumps(strict.without_none(_table(config)))


def flatten(config: Config) -> Iterator[tuple[Keys, Any]]:
    """Every key of a configuration with its value as TOML has it, in order; None where nothing is set."""
    return _flatten(_table(config), ())


def _flatten(table: Mapping[str, Any], prefix: Keys) -> Iterator[tuple[Keys, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, (*prefix, key))
        else:
            yield (*prefix, key), strict.without_none(value)


def _table(config: Config) -> dict[str, Any]:
    return {field.name: _section(getattr(config, field.name)) for field in attrs.fields(Config)}


def _section(value: Any) -> dict[str, Any]:
    if isinstance(value, RewardChoice):
        modes = {"mode": value.modes[0]} if len(value.modes) == 1 else {"modes": list(value.modes)}
        return {"name": value.name, **modes, **_section(value.terms)}
    if isinstance(value, TermChoice):
        return {"component": value.component, "weight": value.weight, **_section(value.settings)}
    if isinstance(value, Choice):
        return {"name": value.name, **_section(value.settings)}
    if isinstance(value, Mapping):
        return {name: _section(settings) for name, settings in value.items()}
    return {} if value is None else dict(strict.unstructure(value))
