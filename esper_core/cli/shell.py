"""The group behind `esper`: commands of plugins, and exit codes.

Role: built-in commands come first, so no plugin can shadow one; a plugin's command is imported when it is
called and not before. Whatever the API raises leaves as a message on stderr and an exit code.
Neighbours: `errors` has the codes, `plugin.catalogue` the commands of plugins.
"""

import json
import os
import sys
from typing import Any

import click

from esper_core.cli.options import wants_json
from esper_core.errors import EsperError, Interrupted, PluginError
from esper_core.plugin.catalogue import Catalogue, Entry
from esper_core.plugin.loader import load
from esper_core.plugin.specs import Component

_CATALOGUE = "esper.catalogue"
_JSON = "esper.json"


class Shell(click.Group):
    """Built-in commands, then those of plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return [*self.commands, *_short_names(self, _catalogue(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, which for a plugin's is its full name, or the bare one while it is free."""
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        catalogue = _catalogue(ctx)
        names = {entry.name: entry for entry in catalogue.entries("command")}
        entry = {**names, **_short_names(self, catalogue)}.get(cmd_name)
        return None if entry is None else _imported(entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing those of plugins."""
        rows = [(name, command.get_short_help_str(60)) for name, command in self.commands.items()]
        rows += [(name, entry.record.summary) for name, entry in _short_names(self, _catalogue(ctx)).items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether JSON is asked for, in case the rest cannot be understood."""
        ctx.meta[_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was called."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if ctx.meta[_JSON]:
                click.echo(json.dumps({"error": error.format_message(), "exit_code": error.exit_code}))
            raise
        except EsperError as error:
            _leave(ctx, error)
        except KeyboardInterrupt:
            _leave(ctx, Interrupted("interrupted"))
        finally:
            _forget_broken_pipe()


def _leave(ctx: click.Context, error: EsperError) -> None:
    """Say what happened and exit with its code."""
    prefix = "" if isinstance(error, Interrupted) else "Error: "
    click.echo(f"{prefix}{error}", err=True)
    if wants_json(ctx):
        click.echo(json.dumps({"error": str(error), "exit_code": error.exit_code}))
    ctx.exit(error.exit_code)


def _forget_broken_pipe() -> None:
    """Let what nobody reads go nowhere, so that the program does not end with a complaint about it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _catalogue(ctx: click.Context) -> Catalogue:
    """The installed plugins, loaded once for one call of the program."""
    if _CATALOGUE not in ctx.meta:
        ctx.meta[_CATALOGUE] = load()
    found: Catalogue = ctx.meta[_CATALOGUE]
    return found


def _short_names(shell: click.Group, catalogue: Catalogue) -> dict[str, Entry[Component]]:
    """Plugins' commands by what is typed: the bare name while nothing else has it."""
    entries = catalogue.entries("command")
    bare = [entry.bare for entry in entries]
    taken = {name for name in bare if bare.count(name) > 1} | shell.commands.keys()
    return {(entry.name if entry.bare in taken else entry.bare): entry for entry in entries}


def _imported(entry: Entry[Component]) -> click.Command:
    command = entry.build()
    if not isinstance(command, click.Command):
        raise PluginError(f"{entry.label}: {entry.record.build!r} must be a click command, not {command!r}")
    return command
