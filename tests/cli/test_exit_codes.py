"""What the API raises becomes a message on stderr and an exit code; with `--json` an object on stdout."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from distributions import Esper

import esper_core
from esper_core.errors import ConfigError, EsperError, Interrupted, PluginError, RunError

CODES = {ConfigError: 2, PluginError: 3, RunError: 4, Interrupted: 130}
CALLS = {"run": "digits", "resume": "runs/x", "inspect": "digits"}


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fake(*_: Any, **__: Any) -> None:
        raise error

    for name in CALLS:
        monkeypatch.setitem(vars(esper_core), name, fake)


@pytest.mark.parametrize("command", CALLS)
@pytest.mark.parametrize("kind", CODES)
def test_errors_leave_with_their_code(
    command: str, kind: type[EsperError], esper: Esper, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, kind("what, where, and what next"))
    result = esper(command, CALLS[command])
    prefix = "" if kind is Interrupted else "Error: "
    assert (result.exit_code, result.stdout) == (CODES[kind], "")
    assert result.stderr == f"{prefix}what, where, and what next\n"

    result = esper(command, CALLS[command], "--json")
    assert result.exit_code == CODES[kind]
    assert result.stderr == f"{prefix}what, where, and what next\n"
    assert json.loads(result.stdout) == {"error": "what, where, and what next", "exit_code": CODES[kind]}


@pytest.mark.parametrize("command", CALLS)
def test_an_interrupt_leaves_with_130(command: str, esper: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    result = esper(command, CALLS[command])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_a_defect_is_not_dressed_up(esper: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("a defect"))
    result = esper("run", "digits")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run", "digits", "--bogus"], "No such option"),
        (["run"], "Missing argument"),
        (["run", "digits", "--quiet"], "exclude each other"),
        (["rnu", "digits"], "No such command"),
    ],
)
def test_what_cannot_be_understood_is_json_too(arguments: list[str], reason: str, esper: Esper) -> None:
    result = esper(*arguments, "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert reason in found["error"]
    assert found["exit_code"] == 2
    assert reason in result.stderr
    assert esper(*arguments[:1], "--bogus").stdout == ""


def test_an_interrupt_while_the_program_loads_leaves_with_130(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "esper_core", "run", "digits"]
    found = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


def test_an_empty_source_is_named(esper: Esper) -> None:
    for command in (["config", "validate", ""], ["config", "show", " "]):
        result = esper(*command)
        assert result.exit_code == 2
        assert "the source is empty; the name of a task or a TOML file is expected" in result.stderr
