"""`esper plugins`: what is installed, what each plugin offers, and what failed.

Role: prints a catalogue; imports no plugin's builder.
Neighbours: `plugin.loader` makes the catalogue, `cli.options` has the shared options.
"""

import json
from collections.abc import Iterator
from typing import Any

import attrs
import click

from esper_core.cli import options
from esper_core.plugin.catalogue import PLURALS, Catalogue, Plugin
from esper_core.plugin.loader import load


@click.command()
@options.json
@click.option("--failed", is_flag=True, help="Only plugins that failed, with the full error.")
def plugins(failed: bool) -> None:
    """List the installed plugins and what they offer."""
    catalogue = load()
    if options.display() == "json":
        click.echo(json.dumps(_report(catalogue, failed)))
        return
    lines = _failures(catalogue) if failed else _listing(catalogue)
    click.echo("\n".join(lines))


def _conflicts(catalogue: Catalogue) -> Iterator[tuple[str, str, list[str]]]:
    """Kind, name and sources of every name that more than one plugin offers."""
    for kind in PLURALS:
        for name, entries in catalogue.conflicts(kind).items():
            yield kind, name, [entry.source for entry in entries]


def _report(catalogue: Catalogue, failed: bool) -> dict[str, Any]:
    shown = [plugin for plugin in catalogue.plugins if plugin.status == "failed" or not failed]
    return {
        "plugins": [_plugin(plugin) for plugin in shown],
        "failures": [attrs.asdict(failure) for failure in catalogue.failures],
        "conflicts": [{"kind": k, "name": n, "sources": s} for k, n, s in _conflicts(catalogue)],
    }


def _plugin(plugin: Plugin) -> dict[str, Any]:
    records = [
        {"kind": type(record).__name__.lower(), "name": record.name, "summary": record.summary}
        for record in plugin.records
    ]
    return {**attrs.asdict(plugin, recurse=False), "records": records}


def _listing(catalogue: Catalogue) -> Iterator[str]:
    for plugin in catalogue.plugins:
        note = f": {plugin.note}" if plugin.note else ""
        yield f"{plugin.source} ({plugin.entry_point}), {plugin.status}{note}"
        for kind, plural in PLURALS.items():
            names = [record.name for record in plugin.records if type(record).__name__.lower() == kind]
            if names:
                yield f"  {plural:<12}{', '.join(sorted(names))}"
    for kind, name, sources in _conflicts(catalogue):
        yield f"conflict: {kind} {name!r} is offered by {' and by '.join(sources)}; neither can be chosen"
    if not catalogue.plugins:
        yield from (f"{failure.source}: {failure.error}" for failure in catalogue.failures)


def _failures(catalogue: Catalogue) -> Iterator[str]:
    for failure in catalogue.failures:
        yield f"{failure.source} ({failure.entry_point}): {failure.error}"
        yield failure.traceback
    if not catalogue.failures:
        yield "no plugin failed"
