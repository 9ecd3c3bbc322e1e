"""`esper inspect`: what a task's host is made of, or what grew in a run, where and when."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from esper_core.cli import options


@click.command()
@click.argument("target", metavar="TASK|RUN")
@options.json
def inspect(target: str) -> None:
    """Show the host of a task, or what grew in a run."""
    import esper_core

    report = esper_core.inspect(target)
    if options.display() == "json":
        click.echo(json.dumps(report))
    else:
        click.echo("\n".join(_lines(report)))


def _lines(report: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """An outline of nested tables and lists."""
    for key, value in report.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield f"{indent}{key}"
            yield from (f"{indent}  - {_row(item)}" for item in value)
        else:
            yield f"{indent}{key}: {_text(value)}"


def _row(item: Any) -> str:
    return ", ".join(f"{key} {_text(value)}" for key, value in item.items())


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)
