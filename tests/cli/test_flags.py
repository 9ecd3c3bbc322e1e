"""Every flag of every command does what it says, and nothing when it is not given."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from distributions import Esper

import esper_core
from esper_core.cli import main
from esper_core.errors import ConfigError

FLAGS: dict[str, Any] = dict.fromkeys(("seed", "rounds", "envs", "policy"))
NOTHING: dict[str, Any] = {**FLAGS, "sets": (), "out": None, "display": "auto", "no_plugins": False}

RUN = {
    "nothing": ([], {}),
    "--set": (["--set", "a.b=1", "--set", "c=d"], {"sets": ("a.b=1", "c=d")}),
    "--out": (["--out", "here"], {"out": Path("here")}),
    "--seed": (["--seed", "0"], {"seed": 0}),
    "--rounds": (["--rounds", "3"], {"rounds": 3}),
    "--envs": (["--envs", "2"], {"envs": 2}),
    "--policy": (["--policy", "random"], {"policy": "random"}),
    "--quiet": (["--quiet"], {"display": "quiet"}),
    "--plain": (["--plain"], {"display": "plain"}),
    "--json": (["--json"], {"display": "json"}),
    "--no-plugins": (["--no-plugins"], {"no_plugins": True}),
    "all": (
        [
            "--set",
            "a=1",
            "--out",
            "o",
            "--seed",
            "1",
            "--rounds",
            "2",
            "--envs",
            "3",
            "--policy",
            "p.toml",
            "--json",
            "--no-plugins",
        ],
        {
            "sets": ("a=1",),
            "out": Path("o"),
            "seed": 1,
            "rounds": 2,
            "envs": 3,
            "policy": "p.toml",
            "display": "json",
            "no_plugins": True,
        },
    ),
}
RESUME = {
    "nothing": ([], "auto"),
    "--quiet": (["--quiet"], "quiet"),
    "--plain": (["--plain"], "plain"),
    "--json": (["--json"], "json"),
}
ELSEWHERE = {
    "inspect": {"--json"},
    "config show": {"--set", "--origins"},
    "config validate": {"--set"},
    "plugins": {"--json", "--failed"},
}
"""Flags that the other files of this folder test."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What the command line asks of the Python API."""
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for name in ("run", "resume"):
        fake = lambda *args, name=name, **kwargs: made.append((name, args, kwargs))  # noqa: E731
        monkeypatch.setitem(vars(esper_core), name, fake)
    return made


@pytest.mark.acceptance("X-16")
@pytest.mark.parametrize(("arguments", "changes"), RUN.values(), ids=RUN)
def test_run_hands_over_what_was_given(
    arguments: list[str], changes: dict[str, Any], calls: list[Any], esper: Esper
) -> None:
    result = esper("run", "digits", *arguments)
    assert (result.exit_code, result.output) == (0, "")
    assert calls == [("run", ("digits",), {**NOTHING, **changes})]


@pytest.mark.acceptance("X-16")
@pytest.mark.parametrize(("arguments", "display"), RESUME.values(), ids=RESUME)
def test_resume_hands_over_what_was_given(
    arguments: list[str], display: str, calls: list[Any], esper: Esper
) -> None:
    assert esper("resume", "runs/x", *arguments).exit_code == 0
    assert calls == [("resume", (Path("runs/x"),), {"display": display})]


@pytest.mark.acceptance("X-16")
def test_inspect_prints_a_picture_or_facts(esper: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(facts={"task": "esper/digits", "slots": [1]}, picture="a picture " * 10)
    monkeypatch.setitem(vars(esper_core), "inspect", lambda target: found if target == "digits" else None)
    assert esper("inspect", "digits").stdout.strip() == ("a picture " * 10).strip()
    assert json.loads(esper("inspect", "digits", "--json").stdout) == found.facts


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


@pytest.mark.acceptance("X-16")
def test_the_tables_name_every_flag() -> None:
    tested = {"run": set(RUN) - {"nothing", "all"}, "resume": set(RESUME) - {"nothing"}, **ELSEWHERE}
    found = {
        name: {option for p in command.params if isinstance(p, click.Option) for option in p.opts}
        for name, command in commands(main)
    }
    assert found == tested


@pytest.mark.parametrize("pair", [("--quiet", "--json"), ("--plain", "--quiet"), ("--json", "--plain")])
@pytest.mark.parametrize("command", ["run", "resume"])
def test_displays_exclude_each_other(
    command: str, pair: tuple[str, str], calls: list[Any], esper: Esper
) -> None:
    result = esper(command, "digits", *pair)
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr
    assert all(flag in result.stderr for flag in pair)
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument 'TASK|CONFIG.toml'"),
        (["run", "digits", "--seed", "x"], "Invalid value for '--seed': 'x' is not a valid integer"),
        (["run", "digits", "--sed", "1"], "No such option '--sed'"),
        (["run", "digits", "spirals"], "Got unexpected extra argument (spirals)"),
        (["rnu", "digits"], "No such command 'rnu'"),
        (["config", "shw", "digits"], "No such command 'shw'"),
        (["resume"], "Missing argument 'RUN'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, calls: list[Any], esper: Esper) -> None:
    result = esper(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert calls == []


@pytest.mark.acceptance("X-16")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--envs", "0"], "--envs: run.envs: must be >= 1, not 0"),
        (["--rounds", "-1"], "--rounds: run.rounds: must be >= 1, not -1"),
        (["--seed", "-1"], "--seed: run.seed: must be >= 0, not -1"),
        (
            ["--policy", "radnom"],
            "--policy: policy.name: there is no policy 'radnom'; did you mean 'random'?",
        ),
        (["--set", "run.envs"], "--set 'run.envs': expected KEY=VALUE"),
    ],
)
def test_flags_are_checked_like_everything_else(
    arguments: list[str], line: str, esper: Esper, monkeypatch: pytest.MonkeyPatch
) -> None:
    from esper_core.runner import config

    def fake(source: str, *, sets: Any, policy: Any, no_plugins: bool, **given: Any) -> None:
        flags = {"policy": policy, **{f"run.{key}": given[key] for key in ("seed", "rounds", "envs")}}
        catalogue = config.catalogue_for(source, sets=sets, no_plugins=no_plugins)
        config.load(source, sets=sets, flags=flags, catalogue=catalogue)
        raise AssertionError("the configuration was accepted")

    monkeypatch.setitem(vars(esper_core), "run", fake)
    result = esper("run", "digits", *arguments)
    assert result.exit_code == ConfigError.exit_code
    assert result.stderr.startswith(f"Error: {line}")
