"""Everything that is wrong with a configuration, collected until all of it is known.

Role: one line for each problem: where the value came from, its key, the reason. A key that does not exist is
answered with the nearest one that does, in whatever section that is.
Neighbours: `config.resolve` fills it, `runner.strict` finds the problems of one table.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from esper_core.errors import ConfigError, PluginError
from esper_core.plugin.catalogue import Entry
from esper_core.plugin.specs import Component
from esper_core.runner import strict
from esper_core.runner.config.layers import Keys, Tree, dotted, lookup

T = TypeVar("T")
Offer = Entry[Component]


class Report:
    """Problems so far, and every key that would have been right."""

    def __init__(self, tree: Tree, source: str) -> None:
        """Begin with no problem.

        Args:
            tree: of all layers; it knows who set a value.
            source: where a value that nobody set should have been.
        """
        self.tree = tree
        self._source = source
        self.keys: list[Keys] = []
        self._lines: list[str] = []
        self._unknown: list[tuple[Keys, str]] = []
        self._only_plugins = True

    def add(self, keys: Keys, reason: str, *, plugin: bool = False) -> None:
        """Note a problem of the value at `keys`; `plugin` if it is the fault of one."""
        # Something that is missing is missing where the rest of its table is.
        found = (lookup(self.tree, keys[:end]) for end in range(len(keys), 0, -1))
        leaf = next(filter(None, found), None)
        self._lines.append(f"{leaf.origin if leaf else self._source}: {dotted(keys)}: {reason}")
        self._only_plugins &= plugin

    def unknown(self, keys: Keys, owner: Offer | None = None) -> None:
        """Note a key that does not exist; `owner` is the record whose settings it would be one of."""
        self._unknown.append((keys, f" of {owner.kind} {owner.name!r}" if owner else ""))

    def section(self, name: str, table: Mapping[str, Any], record: type[T]) -> T:
        """Make a record of one of the core's sections; its defaults if something is wrong with it."""
        made = self.structure((name,), table.get(name, {}), record)
        return record() if made is None else made

    def structure(self, keys: Keys, table: object, record: type[T], owner: Offer | None = None) -> T | None:
        """Make a record of the table at `keys`, or note why not.

        Args:
            keys: where the table is.
            table: to structure.
            record: attrs class.
            owner: whose settings class it is; None for the core's own.
        """
        try:
            self.keys += [keys, *strict.leaves(record, keys)]
            return strict.structure(table, record)
        except strict.RejectedError as error:
            for problem in error.problems:
                if problem.unknown:
                    self.unknown((*keys, *problem.path), owner)
                else:
                    self.add((*keys, *problem.path), problem.reason)
        except Exception as error:  # a stranger's settings class may raise anything
            if owner is None:
                raise
            self.add(keys, f"the settings class of {owner.label} fails: {error!r}", plugin=True)
        return None

    def close(self) -> None:
        """Raise what was collected.

        Raises:
            ConfigError: with one line for every problem.
            PluginError: if all of them are faults of plugins.
        """
        for keys, owner in self._unknown:
            self.add(keys, f"unknown key{owner}{self._nearest(keys)}")
        if not self._lines:
            return
        kind = PluginError if self._only_plugins else ConfigError
        if len(self._lines) == 1:
            raise kind(self._lines[0])
        raise kind("\n".join([f"{len(self._lines)} things are wrong with the configuration:", *self._lines]))

    def _nearest(self, keys: Keys) -> str:
        """A hint at the keys that are most like an unknown one: the same word elsewhere, or a similar one."""
        last, parent = keys[-1], keys[:-1]
        siblings = [known for known in self.keys if known[:-1] == parent]
        same = [known for known in self.keys if known[-1] == last]
        for candidates in (same, siblings, self.keys):
            words = get_close_matches(last, [known[-1] for known in candidates], n=1)
            if words:
                near = list(dict.fromkeys(dotted(known) for known in candidates if known[-1] == words[0]))
                return f"; did you mean {' or '.join(near[:3])}?"
        return ""
