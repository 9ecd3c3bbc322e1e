"""What a user sees: the board, the lines, and that neither changes a result."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from small_runs import SMALL

import esper_core
from esper_core.runner import api
from esper_core.runner.display import display
from esper_core.runner.display.lines import Lines
from esper_core.runner.display.live import Board
from esper_core.runner.display.objects import Objects
from esper_core.runner.display.protocol import Display


def seen(made: Display, stream: io.StringIO, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a display writes during a small run."""
    monkeypatch.setattr(api.display, "display", lambda mode: made)
    esper_core.run("spirals", sets=SMALL, out=folder)
    return stream.getvalue()


def terminal(width: int) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=40, _environ={"TERM": "xterm"}
    )


@pytest.mark.parametrize("width", [110, 40])
def test_the_board_shows_hosts_slots_progress_and_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    console = terminal(width)
    assert isinstance(console.file, io.StringIO)
    text = seen(Board(console), console.file, tmp_path / "run", monkeypatch)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert f"esper inspect {tmp_path / 'run'}" in plain
    if width > 100:
        assert "its twin from scratch" in plain
        assert "host epochs/s" in plain
        assert "left" in plain
        assert ".tt" in plain
        assert "germinate block0 with esper/lowrank in 2 hosts" in plain


def test_lines_have_no_escape_codes_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    made = Lines(Console(file=stream, width=110, soft_wrap=True, highlight=False))
    text = seen(made, stream, tmp_path / "run", monkeypatch)
    assert "\x1b" not in text
    assert "epoch 8/8  loss " in text
    assert "    germinate block0 with esper/lowrank in 2 hosts" in text
    assert f'esper_core.load_grown("{tmp_path / "run"}")' in text


def test_a_display_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = esper_core.run("spirals", sets=SMALL, out=tmp_path / "quiet").arms
    for name, made in (("board", Board(terminal(90))), ("objects", Objects(io.StringIO()))):
        monkeypatch.setattr(api.display, "display", lambda mode, made=made: made)
        assert esper_core.run("spirals", sets=SMALL, out=tmp_path / name).arms == quiet


def test_auto_is_lines_where_there_is_no_terminal() -> None:
    assert isinstance(display("auto"), Lines)
    assert isinstance(display("plain"), Lines)
    assert isinstance(display("json"), Objects)
