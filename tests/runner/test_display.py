"""What a user sees: the board, the lines, and that neither changes a result."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from small_runs import SMALL, events

import esper_core
from esper_core.runner import api
from esper_core.runner.display import display
from esper_core.runner.display.lines import Lines
from esper_core.runner.display.live import Board
from esper_core.runner.display.objects import Objects
from esper_core.runner.display.picture import trend
from esper_core.runner.display.protocol import Display

ROUNDS = (*SMALL, "run.rounds=3", "train.epochs=4", "growth.training_dwell=0.0", "policy.name=random")


def seen(
    made: Display,
    stream: io.StringIO,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    sets: tuple[str, ...] = SMALL,
) -> str:
    """What a display writes during a small run."""
    monkeypatch.setattr(api.display, "display", lambda mode: made)
    esper_core.run("spirals", sets=sets, out=folder)
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


def test_lines_have_every_round_and_the_epochs_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    made = Lines(Console(file=stream, width=200, soft_wrap=True, highlight=False))
    text = seen(made, stream, tmp_path / "run", monkeypatch, ROUNDS)
    said = [event for event in events(tmp_path / "run") if event["kind"] == "round"]
    rounds = re.findall(
        r"^round (\d)/3  return +(\S+)  shipped accuracy (\S+) best (\S+) ", text, re.MULTILINE
    )
    assert [(int(n), float(r)) for n, r, _, _ in rounds] == [
        (n + 1, pytest.approx(np.mean(event["returns"]), abs=1e-4)) for n, event in enumerate(said)
    ]
    assert [float(best) for *_, best in rounds] == [
        pytest.approx(max(event["committed"]), abs=1e-3) for event in said
    ]
    assert re.findall(r"^round (\d)/3 epoch (\d)/4", text, re.MULTILINE) == [("3", e) for e in "1234"]


@pytest.mark.filterwarnings("error")
def test_lines_count_rollbacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    made = Lines(Console(file=stream, width=200, soft_wrap=True, highlight=False))
    broken = ("run.rounds=2", "policy.name=static", "train.host.lr=1e30", "train.host.clip=0.0")
    text = seen(made, stream, tmp_path / "run", monkeypatch, (*SMALL, "train.epochs=2", *broken))
    assert re.findall(r"^round (\d)/2 .* (\d) rolled back$", text, re.MULTILINE) == [("1", "4"), ("2", "4")]


def test_the_board_and_inspect_show_the_trend_of_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = terminal(110)
    assert isinstance(console.file, io.StringIO)
    text = seen(Board(console), console.file, tmp_path / "run", monkeypatch, ROUNDS)
    returns = [np.mean(e["returns"]) for e in events(tmp_path / "run") if e["kind"] == "round"]
    assert "last round: return" in text
    assert f"mean return by round  {trend(returns)}" in text
    found = esper_core.inspect(tmp_path / "run")
    assert found.facts["returns"] == pytest.approx(returns)
    assert f"from {returns[0]:.3f} to {returns[-1]:.3f}:  {trend(returns)}" in str(found)


def test_a_trend_goes_from_the_lowest_to_the_highest() -> None:
    assert trend([0.0, 7.0, 3.5, 7.0]) == "▁█▅█"
    assert trend([-2.0, -1.0]) == "▁█"
    assert trend([5.0]) == "▁"


def test_a_display_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = esper_core.run("spirals", sets=SMALL, out=tmp_path / "quiet").arms
    for name, made in (("board", Board(terminal(90))), ("objects", Objects(io.StringIO()))):
        monkeypatch.setattr(api.display, "display", lambda mode, made=made: made)
        assert esper_core.run("spirals", sets=SMALL, out=tmp_path / name).arms == quiet


def test_auto_is_lines_where_there_is_no_terminal() -> None:
    assert isinstance(display("auto"), Lines)
    assert isinstance(display("plain"), Lines)
    assert isinstance(display("json"), Objects)
