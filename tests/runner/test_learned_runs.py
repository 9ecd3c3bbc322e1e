"""Runs of the policy that learns: they keep what every run promises, and tell of their learning."""

import json
import math
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import SMALL, events

import esper_core
from esper_core.errors import Interrupted
from esper_core.phases.collect import Episode, EpochReport
from esper_core.runner import api
from esper_core.runner.display.protocol import Quiet
from esper_core.runner.files import read_tensors
from esper_core.state.plans import EvalCounts, EvalPlan
from esper_plugins.devices.single import SingleDevice

LEARNED = (
    *SMALL,
    "run.rounds=3",
    "policy.name=lstm",
    "policy.hidden=8",
    "policy.slot_code=4",
    "policy.wait_bias=0.0",
    "learn.lr=0.05",
    "learn.kl_limit=1.0",
    "growth.training_dwell=0.0",
    "growth.prune_dwell=0.5",
    "growth.min_contribution=-1.0",
    "growth.speeds=[0, 1]",
    "growth.max_live=2",
)
"""Eventful runs of a policy that learns fast."""
NUMBERS = {
    "divergence",
    "policy_loss",
    "value_loss",
    "entropy",
    "clipped",
    "gradient_norm",
    "explained",
    "steps",
    "skipped",
}


class StopAt(Quiet):
    """Raises SIGINT at an epoch, as Ctrl-C would."""

    def __init__(self, round_index: int, epoch: int) -> None:
        self._at = (round_index, epoch)

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        if (episode.round_index, episode.epoch - 1) == self._at:
            signal.raise_signal(signal.SIGINT)


def stopped(folder: Path, display: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(api.display, "display", lambda mode: display)
        with pytest.raises(Interrupted):
            esper_core.run("spirals", sets=LEARNED, out=folder)


def of_kind(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(folder) if event["kind"] == kind]


def saved(folder: Path, number: int) -> dict[str, Any]:
    """Everything in a checkpoint that does not depend on the clock."""
    path = folder / "checkpoints" / f"round-{number:06d}"
    state = json.loads((path / "state.json").read_text())
    return {name: state[name] for name in ("state", "slots", "policy")}


def assert_equal_runs(one: Path, other: Path) -> None:
    assert events(one) == events(other)
    assert saved(one, 3) == saved(other, 3)
    assert (one / "report.json").read_text() == (other / "report.json").read_text()
    last = "checkpoints/round-000003"
    names = ("grown/weights", "policy/policy", f"{last}/policy", f"{last}/tensors")
    for name in names:
        mine, theirs = (read_tensors(folder / f"{name}.safetensors") for folder in (one, other))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not stopped."""
    return esper_core.run("spirals", sets=LEARNED, out=tmp_path_factory.mktemp("runs") / "whole").folder


def test_a_run_learns_and_tells_of_it(whole: Path) -> None:
    """Every round has a return for each environment and numbers of its updates, and moves the policy."""
    rounds = of_kind(whole, "round")
    rewards = np.asarray([event["reward"] for event in of_kind(whole, "epoch")]).reshape(3, 8, 2)
    assert [event["round"] for event in rounds] == [0, 1, 2]
    for event, paid in zip(rounds, rewards, strict=True):
        assert event["returns"] == pytest.approx(paid.sum(axis=0).tolist(), rel=1e-12)
        assert event["rollbacks"] == [0, 0]
        learning = event["learning"]
        assert learning.keys() == NUMBERS
        assert all(value is not None and math.isfinite(value) for value in learning.values())
        assert learning["steps"] > 0
        assert learning["skipped"] == 0
        assert 0 < learning["entropy"] < 8
    policies = [
        read_tensors(whole / "checkpoints" / f"round-{n:06d}" / "policy.safetensors") for n in (1, 2, 3)
    ]
    for before, after in pairwise(policies):
        assert not torch.equal(before["network/op.weight"], after["network/op.weight"])
    ops = {op for event in of_kind(whole, "decision") for op in event["op"]}
    assert {"germinate", "advance", "fossilize"} <= ops
    assert {reason for event in of_kind(whole, "decision") for reason in event["refused"]} == {None}


def test_two_runs_of_one_seed_learn_the_same(tmp_path: Path, whole: Path) -> None:
    torch.manual_seed(5)
    esper_core.run("spirals", sets=LEARNED, out=tmp_path / "again")
    assert_equal_runs(whole, tmp_path / "again")


def test_another_seed_learns_something_else(tmp_path: Path, whole: Path) -> None:
    esper_core.run("spirals", sets=[*LEARNED, "run.seed=1", "run.rounds=1"], out=tmp_path / "other")
    assert events(tmp_path / "other")[1:20] != events(whole)[1:20]


def test_an_added_environment_changes_nobody_before_the_first_update(tmp_path: Path, whole: Path) -> None:
    """From then on all learn from its experience, too."""
    esper_core.run("spirals", sets=[*LEARNED, "run.envs=3"], out=tmp_path / "three")
    for kind in ("decision", "epoch"):
        two, three = of_kind(whole, kind), of_kind(tmp_path / "three", kind)
        assert len(two) == len(three) == 24
        for small, large in zip(two, three, strict=True):
            columns = [name for name, value in small.items() if isinstance(value, list)]
            unchanged = {c: small[c] for c in columns} == {c: large[c][:2] for c in columns}
            assert unchanged or small["round"] > 0
    last = "checkpoints/round-000003/policy.safetensors"
    one, other = (read_tensors(folder / last)["network/op.weight"] for folder in (whole, tmp_path / "three"))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("round_index", "epoch"), [(0, 7), (2, 5)])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, whole: Path, round_index: int, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network, optimizer and normalisers come back; the round that was in play is played again."""
    stopped(tmp_path / "run", StopAt(round_index, epoch), monkeypatch)
    esper_core.resume(tmp_path / "run")
    assert_equal_runs(whole, tmp_path / "run")


def test_resume_in_a_fresh_process_equals_the_whole_run(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "run", StopAt(1, 0), monkeypatch)
    command = [sys.executable, "-m", "esper_core", "resume", str(tmp_path / "run"), "--quiet"]
    subprocess.run(command, check=True, timeout=120)
    assert_equal_runs(whole, tmp_path / "run")


@pytest.mark.acceptance("RL-02")
def test_rollbacks_are_counted_in_every_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In events of their own, in the round's event, and in the history that checkpoints keep."""
    when = {(0, 1), (0, 4), (2, 7)}
    calls: list[int] = []
    evaluate = SingleDevice.evaluate

    def sick(device: SingleDevice, tensors: Any, plan: EvalPlan) -> EvalCounts:
        counts = evaluate(device, tensors, plan)
        if divmod(len(calls), 8) in when:
            counts.loss_sum[1] = np.nan
        calls.append(1)
        return counts

    monkeypatch.setattr(SingleDevice, "evaluate", sick)
    folder = esper_core.run("spirals", sets=LEARNED, out=tmp_path / "run").folder
    told = of_kind(folder, "rollback")
    assert {(event["round"], event["epoch"]) for event in told} == when
    assert {tuple(event["env"]) for event in told} == {(1,)}
    counts = [[0, 2], [0, 0], [0, 1]]
    assert [event["rollbacks"] for event in of_kind(folder, "round")] == counts
    assert [summary["rollbacks"] for summary in saved(folder, 3)["state"]["history"]] == counts
    assert all(event["learning"]["steps"] > 0 for event in of_kind(folder, "round"))
