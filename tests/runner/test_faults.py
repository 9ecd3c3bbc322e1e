"""What goes wrong is said, and nothing else is lost."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import SMALL, events

import esper_core
from esper_core.errors import RunError
from esper_core.phases import collect
from esper_core.phases.collect import Cast, Episode, EpochReport
from esper_core.plugin.protocols import SinkContext
from esper_core.plugin.rewards import Potential
from esper_core.runner.events import Events
from esper_plugins.rewards import potentials
from esper_plugins.sinks.jsonl import JsonLines


def poison(monkeypatch: pytest.MonkeyPatch, env: int, epoch: int, name: str) -> None:
    """Put a NaN into a parameter of an environment's seed, or host, before an epoch."""
    advance = collect.advance

    def poisoned(cast: Cast, episode: Episode) -> tuple[Episode, EpochReport]:
        if episode.epoch == epoch and episode.rollout.reward.shape[1] == 2 and not poisoned.done:  # type: ignore[attr-defined]
            poisoned.done = True  # type: ignore[attr-defined]
            groups = [episode.tensors.hosts, *episode.tensors.pools.values()]
            with torch.no_grad():
                for group in groups:
                    for label, tensor in group.block.tensors():
                        if label == f"parameters/{name}":
                            tensor[group.envs.index(env)].view(-1)[0] = float("nan")
        return advance(cast, episode)

    poisoned.done = False  # type: ignore[attr-defined]
    monkeypatch.setattr(collect, "advance", poisoned)


def test_a_diverged_seed_is_named_and_pruned_on_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = esper_core.run("spirals", sets=SMALL, out=tmp_path / "sound").folder
    poison(monkeypatch, env=1, epoch=2, name="branch.up.weight")
    folder = esper_core.run("spirals", sets=SMALL, out=tmp_path / "run").folder
    bad = [e for e in events(folder) if e["kind"] == "nonfinite"]
    assert [(e["epoch"], e["env"], e["slot"], e["what"]) for e in bad] == [(2, 1, "block0", "gradient")]
    assert bad[0]["parameter"].startswith("branch.")
    ends = [
        (e["epoch"], e["env"], e["to"], e["cause"])
        for e in events(folder)
        if e["kind"] == "lifecycle" and "diverged" in e["cause"]
    ]
    assert ends == [(3, [0, 1], ["blending", "pruned"], ["advance", "diverged"])]
    for mine, theirs in zip(
        *([e for e in events(f) if e["kind"] == "epoch"] for f in (folder, sound)), strict=True
    ):
        assert mine["loss"][0] == theirs["loss"][0]
        if mine["epoch"] <= 2:
            assert mine["loss"] == theirs["loss"], "an incubating seed never touches the host"


@pytest.mark.acceptance("RL-02")
def test_a_host_that_is_not_finite_is_one_event_that_names_it_and_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, env=0, epoch=3, name="segments.0.0.weight")
    sets = [*SMALL, "policy.name=static"]
    folder = esper_core.run("spirals", sets=sets, out=tmp_path / "run").folder
    bad = [e for e in events(folder) if e["kind"] == "nonfinite" and e["epoch"] == 3]
    assert [(e["what"], e["env"], e["slot"], e["steps"]) for e in bad] == [
        ("loss", 0, None, 3),
    ]
    assert bad[0]["parameter"].startswith("segments.")
    told = {e["epoch"]: e for e in events(folder) if e["kind"] == "epoch"}
    (rollback,) = (e for e in events(folder) if e["kind"] == "rollback")
    assert rollback == {
        "kind": "rollback",
        "round": 0,
        "epoch": 3,
        "env": [0],
        "verdict": ["nonfinite"],
        "loss": [None],
        "score": [rollback["score"][0]],
        "restored": [2],
        "reward": [told[3]["reward"][0]],
    }
    assert told[3]["score"][0] == told[2]["score"][0], "what is known is what was known then"
    assert [epoch for epoch, e in told.items() if e["loss"][0] is None] == [3]
    assert all(e["loss"][1] is not None for e in told.values())
    (summary,) = (e for e in events(folder) if e["kind"] == "round")
    assert summary["rollbacks"] == [1, 0]


@pytest.mark.acceptance("TE-06")
def test_a_normal_run_turns_to_debug_for_a_while_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, env=1, epoch=1, name="segments.0.0.weight")
    sets = [*SMALL, "policy.name=random", "train.epochs=3", "run.level=normal"]
    folder = esper_core.run("spirals", sets=sets, out=tmp_path / "run").folder
    assert [e["epoch"] for e in events(folder) if e["kind"] == "gradients"] == [1, 2]


@pytest.mark.acceptance("X-18")
def test_a_burst_of_events_is_written_whole(tmp_path: Path) -> None:
    sink = JsonLines(SinkContext(folder=tmp_path))
    stream = Events("debug", [sink], None)  # type: ignore[arg-type]
    for number in range(100_000):
        stream.send("reward", number=number, total=np.asarray([1.0, np.nan]))
    stream.close()
    with (tmp_path / "events.jsonl").open() as lines:
        numbers = [json.loads(line)["number"] for line in lines]
    assert numbers == list(range(100_000))


def test_a_reward_that_is_not_finite_stops_the_run_and_names_the_component(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Potential:
        return Potential(
            units="score", low=-np.inf, high=np.inf, level=lambda after: np.asarray([0.0, np.inf])
        )

    monkeypatch.setattr(potentials, "score", broken)
    with pytest.raises(RunError, match=r"component 'score' is not finite in epoch 0, environments \[1\]"):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "run")


def test_a_full_disk_stops_the_run_with_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: JsonLines, event: Mapping[str, Any]) -> None:
        if event["kind"] == "epoch":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(JsonLines, "write", full)
    with pytest.raises(RunError, match=r"No space left on device[\s\S]*esper resume"):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "run")
