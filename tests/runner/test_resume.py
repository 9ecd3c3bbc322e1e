"""Stopping and going on: what is resumed equals what was never stopped, bit for bit."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, events

import esper_core
from esper_core.errors import Interrupted, RunError
from esper_core.phases.collect import Episode, EpochReport
from esper_core.runner import api, checkpoint
from esper_core.runner.display.protocol import Quiet
from esper_core.runner.files import read_tensors

ROUNDS = [*SMALL, "run.rounds=2", "policy.name=random", "growth.training_dwell=0.0", "growth.speeds=[0, 1]"]


class StopAt(Quiet):
    """Raises SIGINT at an epoch, as Ctrl-C would."""

    def __init__(self, round_index: int, epoch: int) -> None:
        self._at = (round_index, epoch)

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        if (episode.round_index, episode.epoch - 1) == self._at:
            signal.raise_signal(signal.SIGINT)


class StopInArm(Quiet):
    """Raises SIGINT in the comparison, after the last round was saved."""

    def arm(self, name: str, episode: Episode) -> None:
        if name == "everywhere":
            signal.raise_signal(signal.SIGINT)


def stopped(folder: Path, display: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(api.display, "display", lambda mode: display)
        with pytest.raises(Interrupted, match=r"stopped; the last checkpoint is [\s\S]*esper resume"):
            esper_core.run("spirals", sets=ROUNDS, out=folder)
    assert json.loads((folder / "manifest.json").read_text())["status"] == "interrupted"


def assert_equal_runs(one: Path, other: Path) -> None:
    assert events(one) == events(other)
    last = "checkpoints/round-000002/tensors.safetensors"
    for name in ("grown/weights.safetensors", "grown/probe.safetensors", last):
        mine, theirs = read_tensors(one / name), read_tensors(other / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine), name
    assert (one / "report.json").read_text() == (other / "report.json").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not stopped."""
    return esper_core.run("spirals", sets=ROUNDS, out=tmp_path_factory.mktemp("runs") / "whole").folder


@pytest.mark.acceptance("CK-01", "X-11")
@pytest.mark.parametrize(
    "display",
    [StopAt(0, 3), StopAt(0, 7), StopAt(1, 0), StopAt(1, 5), StopInArm()],
    ids=["middle of round 1", "end of round 1", "start of round 2", "middle of round 2", "comparison"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, whole: Path, display: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "run", display, monkeypatch)
    result = esper_core.resume(tmp_path / "run")
    assert_equal_runs(whole, result.folder)


@pytest.mark.acceptance("CK-01")
def test_resume_in_a_fresh_process_equals_the_whole_run(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "run", StopAt(1, 2), monkeypatch)
    command = [sys.executable, "-m", "esper_core", "resume", str(tmp_path / "run"), "--quiet"]
    subprocess.run(command, check=True, timeout=120)
    assert_equal_runs(whole, tmp_path / "run")


def test_a_checkpoint_that_is_not_whole_is_passed_over(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "run", StopAt(1, 2), monkeypatch)
    broken = tmp_path / "run" / "checkpoints" / "round-000001" / "tensors.safetensors"
    broken.write_bytes(broken.read_bytes()[:-10])
    result = esper_core.resume(tmp_path / "run")
    assert_equal_runs(whole, result.folder)
    passed_over = json.loads((result.folder / "manifest.json").read_text())["passed_over"]
    assert len(passed_over) == 1
    assert "tensors.safetensors: has changed since it was written" in passed_over[0]


def test_without_a_whole_checkpoint_the_message_names_every_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "run", StopAt(0, 2), monkeypatch)
    (tmp_path / "run" / "checkpoints" / "round-000000" / "state.json").unlink()
    with pytest.raises(RunError, match=r"no whole checkpoint[\s\S]*state.json: is missing"):
        esper_core.resume(tmp_path / "run")


def test_a_finished_run_is_not_resumed(whole: Path) -> None:
    with pytest.raises(esper_core.ConfigError, match="the run is finished; look at it with: esper inspect"):
        esper_core.resume(whole)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(esper_core.ConfigError, match="is not a run folder"):
        esper_core.resume(tmp_path)


def test_another_fingerprint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path / "run", StopAt(0, 2), monkeypatch)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["fingerprint"]["torch"] = "1.0"
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(esper_core.ConfigError, match=r"computes other bits[\s\S]*torch: was '1.0', is"):
        esper_core.resume(tmp_path / "run")


def test_a_failure_leaves_a_checkpoint_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Quiet):
        def epoch(self, episode: Episode, report: EpochReport) -> None:
            if episode.round_index == 1:
                raise ValueError("a defect")

    monkeypatch.setattr(api.display, "display", lambda mode: Broken())
    with pytest.raises(RunError, match=r"a defect\nfailed; the last checkpoint is .*round-000001"):
        esper_core.run("spirals", sets=ROUNDS, out=tmp_path / "run")
    monkeypatch.undo()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"
    assert esper_core.resume(tmp_path / "run").arms.keys() == {"static", "everywhere", "grown", "twin"}


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    sets = [*SMALL, "run.rounds=4", "run.keep_checkpoints=2", "train.epochs=1", "policy.name=static"]
    folder = esper_core.run("spirals", sets=sets, out=tmp_path / "run").folder
    assert [p.name for p in checkpoint.listed(folder / "checkpoints")] == ["round-000003", "round-000004"]


def test_ctrl_c_ends_with_a_checkpoint_and_130(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sets = [flag for s in (*SMALL, "train.epochs=2000") for flag in ("--set", s)]
    command = [sys.executable, "-m", "esper_core", "run", "spirals", *sets, "--out", str(folder), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["kind"] == "epoch":
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"esper resume {folder}" in err
    last = json.loads(out.splitlines()[-1])
    assert last["exit_code"] == 130
    assert checkpoint.last(folder / "checkpoints")[0].state.rounds_done == 0


def test_nothing_is_left_of_a_checkpoint_that_was_being_written(tmp_path: Path, whole: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    half = copy / "checkpoints" / ".round-000003.part"
    half.mkdir()
    (half / "state.json").write_text("{")
    found, complaints = checkpoint.last(copy / "checkpoints")
    assert (found.state.rounds_done, complaints) == (2, [])


@pytest.mark.acceptance("CK-02")
def test_what_is_read_equals_what_was_written(tmp_path: Path, whole: Path) -> None:
    found = checkpoint.load(whole / "checkpoints" / "round-000002")
    again: Any = checkpoint.save(tmp_path, found, keep=1)
    for name in ("state.json", "tensors.safetensors", "policy.safetensors", "hashes.json"):
        assert (again / name).read_bytes() == (whole / "checkpoints" / "round-000002" / name).read_bytes()


def test_time_passes_between_two_runs_and_only_clocks_show_it(tmp_path: Path, whole: Path) -> None:
    time.sleep(0.01)
    lines = [json.loads(line) for line in (whole / "events.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert all({"time", "wait_ms", "device_ms", "host_ms"} == e["clock"].keys() for e in epochs)
    assert all(e["clock"]["device_ms"] > 0 for e in epochs)
