"""`docs/commands.md` has every command, argument and flag, in the words of the command line itself."""

import re
from collections.abc import Iterator

import click
import pytest
from pages import ROOT, code, page

from esper_core.cli import main
from esper_core.plugin.loader import TRACE

PAGE = page("docs/commands.md")


def commands(command: click.Command, path: str = "esper") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{path} {name}")


ALL = dict(commands(main))


def test_every_command_has_a_heading_and_no_other_has() -> None:
    headings = re.findall(r"^## `(esper[^`]*)`$", PAGE.text, re.MULTILINE)
    assert headings == list(ALL) or sorted(headings) == sorted(ALL)


@pytest.mark.parametrize("path", ALL)
def test_usage_and_options_are_those_of_the_command_line(path: str) -> None:
    context = click.Context(ALL[path], info_name=path, help_option_names=["-h", "--help"])
    usage = ALL[path].get_usage(context).removeprefix("Usage: ")
    section = PAGE.text.partition(f"## `{path}`\n")[2].partition("\n## ")[0]
    assert f"`{' '.join(usage.split())}`" in section
    expected = {record[0]: " ".join(record[1].split()) for record in options(context)}
    (table,) = (t for t in PAGE.tables if t.heading == f"`{path}`" and t.columns[0] == "option")
    written = {", ".join(code(part) for part in cell.split(", ")): meaning for cell, meaning in table.rows}
    assert written == expected


def options(context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            yield record


@pytest.mark.parametrize("path", [path for path, command in ALL.items() if isinstance(command, click.Group)])
def test_subcommands_are_listed_with_their_summary(path: str) -> None:
    group = ALL[path]
    assert isinstance(group, click.Group)
    (table,) = (t for t in PAGE.tables if t.heading == f"`{path}`" and t.columns[0] == "command")
    written = {code(name): meaning for name, meaning in table.rows}
    assert written == {name: inner.get_short_help_str(200) for name, inner in group.commands.items()}


def test_every_environment_variable_is_named() -> None:
    assert f"`{TRACE}=1`" in PAGE.text


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    readme, makefile = page("README.md").text, (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "esper run digits" in makefile.partition("\ndemo:")[2].partition("\n\n")[0]
