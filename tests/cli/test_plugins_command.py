"""`esper plugins` shows what is installed, what failed and who is in conflict; plugins bring commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from distributions import Esper, blueprint, fake_esper, install, plugin


def test_it_lists_plugins_with_what_they_offer(site: Path, esper: Esper) -> None:
    plugin(site, "acme-esper", blueprint("acme/ghost"), "0.3")
    result = esper("plugins")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:3] == [
        "acme-esper 0.3 (acme_esper), loaded",
        "  blueprints  acme/ghost",
        "esper-morph 9.9 (esper), loaded",
    ]
    assert "  policies    esper/random, esper/scripted, esper/static" in result.stdout

    (acme, _) = json.loads(esper("plugins", "--json").stdout)["plugins"]
    assert acme == {
        "distribution": "acme-esper",
        "version": "0.3",
        "entry_point": "acme_esper",
        "module": "acme_esper",
        "status": "loaded",
        "note": "",
        "records": [{"kind": "blueprint", "name": "acme/ghost", "summary": "A test"}],
    }


def test_a_failed_plugin_is_shown_and_harms_nothing(
    site: Path, esper: Esper, caplog: pytest.LogCaptureFixture
) -> None:
    plugin(site, "acme-esper", "raise RuntimeError('no licence')", "0.3")
    result = esper("plugins")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "acme-esper 0.3 (acme_esper), failed: RuntimeError: no licence"
    assert "acme-esper 0.3 (entry point 'acme_esper') failed and is not used" in caplog.text

    failed = esper("plugins", "--failed").stdout
    assert failed.startswith("acme-esper 0.3 (acme_esper): RuntimeError: no licence\nTraceback ")
    assert "esper-morph" not in failed
    report = json.loads(esper("plugins", "--failed", "--json").stdout)
    assert [entry["status"] for entry in report["plugins"]] == ["failed"]
    assert report["failures"][0]["traceback"].startswith("Traceback")

    assert esper("config", "validate", "digits").exit_code == 0
    result = esper("config", "validate", "digits", "--set", "growth.blueprints=['acme/ghost']")
    assert result.exit_code == 3
    assert "It may belong to a plugin that failed: acme-esper 0.3" in result.stderr


@pytest.mark.parametrize(("trace", "lines"), [("0", 1), ("1", 8)])
def test_stderr_has_one_line_for_a_failed_plugin_and_more_on_request(
    site: Path, trace: str, lines: int
) -> None:
    fake_esper(site)
    plugin(site, "acme-esper", "raise RuntimeError('no licence')", "0.3")
    environment = {**os.environ, "PYTHONPATH": str(site), "ESPER_TRACE_PLUGINS": trace}
    command = [sys.executable, "-m", "esper_core", "config", "validate", "digits"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "digits: valid\n")
    head, *traced = result.stderr.splitlines()
    assert head == (
        "plugin acme-esper 0.3 (entry point 'acme_esper') failed and is not used: "
        "RuntimeError: no licence. `esper plugins --failed` shows more"
    )
    assert len(traced) == lines - 1
    expected = "esper-morph 9.9 (entry point 'esper'): esper_blueprints -> esper/linear, esper/lowrank"
    assert (expected in traced) is (trace == "1")


def test_nothing_failed(esper: Esper) -> None:
    assert esper("plugins", "--failed").stdout == "no plugin failed\n"


def test_a_plugin_that_registers_nothing_is_shown_with_a_warning(site: Path, esper: Esper) -> None:
    plugin(site, "idle-esper", "")
    assert "idle-esper 1.0 (idle_esper), loaded: registers nothing" in esper("plugins").stdout


def test_a_conflict_is_shown_and_stops_only_who_chooses_it(site: Path, esper: Esper) -> None:
    plugin(site, "one-esper", blueprint("acme/a"), "1.1")
    plugin(site, "two-esper", blueprint("acme/a"), "2.2")
    line = (
        "conflict: blueprint 'acme/a' is offered by one-esper 1.1 and by two-esper 2.2; neither can be chosen"
    )
    assert line in esper("plugins").stdout
    assert json.loads(esper("plugins", "--json").stdout)["conflicts"] == [
        {"kind": "blueprint", "name": "acme/a", "sources": ["one-esper 1.1", "two-esper 2.2"]}
    ]
    assert esper("config", "validate", "digits").exit_code == 0
    chosen = ["config", "validate", "digits", "--set", "growth.blueprints=['acme/a']"]
    assert esper(*chosen).exit_code == 3
    assert esper(*chosen, "--set", "plugins.block=['two-esper']").exit_code == 0


HELLO = """
import click

nothing = 3

@click.command()
@click.argument("who")
def hello(who):
    click.echo("hello " + who)
"""


def commands(site: Path, *names: str, build: str = "acme_cli:hello") -> None:
    """Install a distribution that offers commands, all with one builder."""
    yields = "\n".join(f"    yield Command(name={n!r}, build={build!r}, summary='Says hello')" for n in names)
    source = f"from esper_core.plugin import Command, hookimpl\n@hookimpl\ndef esper_commands():\n{yields}\n"
    install(
        site,
        "acme-cli",
        entry_points={"acme": "acme_reg"},
        files={"acme_reg.py": source, "acme_cli.py": HELLO},
    )


def test_a_plugins_command_is_listed_and_imported_only_when_it_is_called(site: Path, esper: Esper) -> None:
    commands(site, "acme/hello")
    listing = esper("--help").stdout
    assert "hello    Says hello" in listing
    assert "acme_cli" not in sys.modules
    for name in ("hello", "acme/hello"):
        assert esper(name, "you").stdout == "hello you\n"
    assert esper("hello").exit_code == 2


def test_a_plugins_command_shadows_nothing(site: Path, esper: Esper) -> None:
    commands(site, "acme/plugins")
    assert esper("plugins").stdout.startswith("acme-cli 1.0 (acme), loaded")
    assert "acme/plugins  Says hello" in esper("--help").stdout
    assert esper("acme/plugins", "you").stdout == "hello you\n"


def test_two_commands_of_one_bare_name_are_called_in_full(site: Path, esper: Esper) -> None:
    commands(site, "acme/hello", "other/hello")
    assert esper("hello", "you").exit_code == 2
    assert esper("other/hello", "you").stdout == "hello you\n"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ("acme_cli:nothing", "'acme_cli:nothing' must be a click command, not 3"),
        ("acme_cli:absent", "cannot load 'acme_cli:absent'"),
    ],
)
def test_a_command_that_is_none_is_its_plugins_fault(
    site: Path, esper: Esper, build: str, message: str
) -> None:
    commands(site, "acme/hello", build=build)
    result = esper("hello", "you")
    assert result.exit_code == 3
    assert f"command 'acme/hello' of acme-cli 1.0: {message}" in result.stderr
