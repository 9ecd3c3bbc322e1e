"""`esper inspect`: what a task's host is made of, or what grew in a run, where and when.

Role: prints an inspection, for the eye or as JSON.
Neighbours: `cli.options` has the shared options, `runner.inspect` the work.
"""

import json
import sys

import click

from esper_core.cli import options


@click.command()
@click.argument("target", metavar="TASK|RUN")
@options.json
def inspect(target: str) -> None:
    """Show the host of a task, or what grew in a run."""
    from rich.console import Console

    import esper_core

    found = esper_core.inspect(target)
    if options.display() == "json":
        click.echo(json.dumps(found.facts))
    else:
        # Where there is no terminal there is no width to keep to.
        Console(width=None if sys.stdout.isatty() else 110).print(found.picture)
