"""`esper config`: show or check a configuration without running it.

Role: prints what `runner.config` resolves, as TOML.
Neighbours: `cli.options` has the shared options, `runner.config` the work.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import click

from esper_core.cli import options


@click.group()
def config() -> None:
    """Show or check a configuration."""


@config.command()
@click.argument("source", metavar="TASK|CONFIG.toml")
@options.sets
@click.option("--origins", is_flag=True, help="One key a line, each with who set it.")
def show(source: str, sets: tuple[str, ...], origins: bool) -> None:
    """Print the complete configuration that a run would have, as TOML."""
    from esper_core.runner import config as configuration

    catalogue = configuration.catalogue_for(source, sets=sets)
    loaded = configuration.load(source, sets=sets, catalogue=catalogue)
    if origins:
        found = configuration.origins(source, sets=sets, catalogue=catalogue)
        for (keys, value), origin in zip(configuration.flatten(loaded), found.values(), strict=True):
            if value is not None:
                click.echo(f"{'.'.join(map(_key, keys))} = {_inline(value)}  # {origin}")
    else:
        click.echo(configuration.dumps(loaded), nl=False)
    for keys, value in configuration.flatten(loaded):
        if value is None:
            click.echo(f"# {'.'.join(map(_key, keys))} is not set")


@config.command()
@click.argument("source", metavar="TASK|CONFIG.toml")
@options.sets
def validate(source: str, sets: tuple[str, ...]) -> None:
    """Check a configuration, and say everything that is wrong with it."""
    from esper_core.runner import config as configuration

    configuration.load(source, sets=sets, catalogue=configuration.catalogue_for(source, sets=sets))
    click.echo(f"{source}: valid")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name)


def _inline(value: Any) -> str:
    """A value as TOML on one line."""
    import tomli_w

    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()
