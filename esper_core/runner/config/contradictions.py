"""Keys that are right on their own and wrong together.

Role: the rules that span fields. A key that nothing would read is refused, as is a pair of keys of which only
one can hold.
Neighbours: `config.stack` and `config.resolve` ask; the records themselves have the rules of single fields.
"""

from collections.abc import Iterator, Mapping

from esper_core.errors import did_you_mean
from esper_core.plugin.catalogue import BUILT_IN, Catalogue
from esper_core.plugin.loader import normalise
from esper_core.runner.config.layers import Keys, Leaf, Tree
from esper_core.runner.config.records import PluginSettings
from esper_core.state.settings import OptimizerSettings

Found = Iterator[tuple[Keys, str]]

READ_BY = {"momentum": "sgd", "beta1": "adamw", "beta2": "adamw", "eps": "adamw"}
"""Keys of an optimizer that only one update rule reads."""

_DEFAULTS = OptimizerSettings()


def without_outdated(tree: Tree) -> Tree:
    """Forget what lower layers say about an update rule that a higher layer has replaced."""
    train = tree.get("train")
    if not isinstance(train, dict):
        return tree
    return {**tree, "train": {key: _without_outdated(item) for key, item in train.items()}}


def _without_outdated(optimizer: object) -> object:
    name = optimizer.get("name") if isinstance(optimizer, dict) else None
    if not isinstance(optimizer, dict) or not isinstance(name, Leaf):
        return optimizer
    return {
        key: item
        for key, item in optimizer.items()
        if READ_BY.get(key, name.value) == name.value or not isinstance(item, Leaf) or item.rank >= name.rank
    }


def of_training(train: object) -> Found:
    """Contradictions of the update rules: what nothing reads, and two limits where there is one norm.

    Args:
        train: the table `[train]` as it was given, so that other mistakes in it hide none of these.
    """
    groups = {group: _given(train, group) for group in ("host", "seed")}
    for group, optimizer in groups.items():
        name = optimizer.get("name", _DEFAULTS.name)
        for key, rule in READ_BY.items():
            unread = name in READ_BY.values() and name != rule
            if unread and optimizer.get(key, getattr(_DEFAULTS, key)) != getattr(_DEFAULTS, key):
                reason = f"contradicts train.{group}.name = {name!r}: only {rule!r} reads it"
                yield ("train", group, key), reason
    host, seed = (optimizer.get("clip", _DEFAULTS.clip) for optimizer in groups.values())
    if isinstance(train, Mapping) and train.get("clip_scope") == "joint" and host != seed:
        yield (
            ("train", "clip_scope"),
            "'joint' clips host and seeds by one norm, which contradicts two limits, "
            f"train.host.clip = {host} and train.seed.clip = {seed}; make them equal",
        )


def _given(table: object, key: str) -> Mapping[str, object]:
    inner = table.get(key) if isinstance(table, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def of_plugins(plugins: PluginSettings, catalogue: Catalogue) -> Found:
    """Contradictions between what may be loaded, what may not, and what is installed."""
    allowed = {normalise(name): name for name in plugins.allow}
    for name in plugins.block:
        if normalise(name) in allowed:
            yield ("plugins", "block"), f"{name!r} is in plugins.allow, too"
        if normalise(name) == BUILT_IN:
            yield ("plugins", "block"), f"{name!r} is Esper itself and always loaded"
    installed = [plugin.distribution for plugin in catalogue.plugins]
    for normal, name in allowed.items():
        if normal not in installed:
            yield ("plugins", "allow"), f"no plugin {name!r} is installed{did_you_mean(normal, installed)}"
