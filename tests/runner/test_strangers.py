"""What a stranger's policy, device or task does wrong is refused by name; and what the screen survives."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from rich.console import Console
from small_runs import SMALL, events
from worlds import program, spirals

import esper_core
from esper_core.errors import PluginError
from esper_core.model.program import Program
from esper_core.runner import inspect, setup
from esper_core.runner.display.lines import known, told
from esper_core.runner.display.live import Board
from esper_core.runner.files import read_tensors, write_tensors
from esper_core.state.run import RoundSummary
from esper_plugins.policies import random

RUN = {"policy": "random", "sets": [*SMALL, "train.epochs=2"]}


def test_a_policy_without_the_members_of_a_policy_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half:
        def decide(self, *seen: Any) -> None: ...

    monkeypatch.setattr(random, "build", lambda context: Half())
    with pytest.raises(PluginError, match="esper/random: a Half has no learn, needs, restore, start"):
        esper_core.run("spirals", out=tmp_path / "run", **RUN)
    assert not (tmp_path / "run").exists()


def test_a_device_that_cannot_roll_back_is_refused() -> None:
    with pytest.raises(PluginError, match=r"acme/x: a object has no .*restore, snapshot, start, train"):
        setup._expect_members("device acme/x", object(), setup.Device)


@pytest.mark.parametrize("given", [{"loss": None}, {"loss": "low"}, None])
def test_a_policy_that_tells_no_numbers_is_named(
    given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random.Random, "learn", lambda *episode: given)
    with pytest.raises(PluginError, match="policy esper/random: 'learn' must return numbers by name"):
        esper_core.run("spirals", out=tmp_path / "run", **RUN)


def test_a_policy_may_tell_numbers_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"loss": np.float32(0.5), "steps": 3, "unknown": torch.tensor(torch.nan)}
    monkeypatch.setattr(random.Random, "learn", lambda *episode: given)
    folder = esper_core.run("spirals", out=tmp_path / "run", **RUN).folder
    (learning,) = (e["learning"] for e in events(folder) if e["kind"] == "round")
    assert learning == {"loss": 0.5, "steps": 3.0, "unknown": None}


def test_a_bottleneck_that_is_no_slot_names_the_host() -> None:
    built: Program = program(evolve(spirals(), bottleneck=lambda host: "blok0"))
    oracle = setup._oracle(built)
    assert oracle is not None
    with pytest.raises(PluginError, match="names 'blok0', which is no slot; it has block0, block1"):
        oracle(np.arange(2), 0)


@pytest.mark.parametrize("width", [10, 24, 25, 200])
def test_a_board_fits_any_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    board = Board(console)
    board._returns = [0.1, 0.3, 0.2]
    board._redraw("round 4/9", None)
    board.close()


def test_what_is_not_known_hides_nothing() -> None:
    assert known([1.0, float("nan"), 3.0]) == [1.0, 3.0]
    assert np.isnan(known([float("nan")])).all()


def test_tensors_are_whole_or_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_tensors(path, {"a": torch.zeros(2)})
    assert read_tensors(path)["a"].tolist() == [1.0, 1.0]


def test_inspect_draws_the_last_round_though_nothing_grew_in_it() -> None:
    row = {"round": 0, "epoch": 1, "env": 0, "slot": "block0", "to": "training"}
    head, *rest = inspect._lanes([row], {"epochs": 4, "rounds": 3}, done=2)
    assert str(head).startswith("round 3 of 3")
    assert len(rest) == 1
    head, _, lane = inspect._lanes([row], {"epochs": 4, "rounds": 3}, done=0)
    assert str(head).startswith("round 1 of 3")
    assert str(lane).endswith(".ttt")


def test_a_summary_of_hosts_that_never_scored_is_told() -> None:
    nan = float("nan")
    summary = RoundSummary(
        round_index=0,
        modes=("shipped",),
        returns=(-1.0,),
        score=(nan,),
        committed=(nan,),
        parameters=(0,),
        operations=((2, 0, 0, 0, 0, 0),),
        rollbacks=(2,),
        learning={},
    )
    assert told(summary, spirals()).endswith("2 rolled back")
