"""Telemetry never works on the device: the same operations run whatever is written down."""

import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, events
from torch.utils._python_dispatch import TorchDispatchMode

import esper_core
from esper_core.phases import collect
from esper_core.phases.collect import Cast, Episode, EpochReport

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "control_plane.py"
READS = "aten._local_scalar_dense"


class Operations(TorchDispatchMode):
    """Counts every operation that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func).rsplit(".", 1)[0]] += 1
        return func(*args, **(kwargs or {}))


def operations(folder: Path, *sets: str) -> Counter[str]:
    with Operations() as counted:
        esper_core.run("spirals", sets=[*SMALL, *sets], out=folder)
    return counted.counts


@pytest.mark.acceptance("TE-01", "TE-02")
def test_a_run_does_the_same_on_the_device_at_every_level(tmp_path: Path) -> None:
    silent = operations(tmp_path / "off", "run.level=off")
    full = operations(tmp_path / "debug", "run.level=debug")
    assert silent == full
    assert any(e["kind"] == "gradients" for e in events(tmp_path / "debug"))


@pytest.mark.acceptance("TE-01", "TE-02")
def test_reads_of_single_numbers_do_not_grow_with_environments_or_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch is read in one transfer; only the birth of a seed looks at single numbers (G1)."""
    advance, reads = collect.advance, []

    def counted(cast: Cast, episode: Episode) -> tuple[Episode, EpochReport]:
        with Operations() as mode:
            after, report = advance(cast, episode)
        if not report.built.any():
            reads.append(mode.counts[READS])
        return after, report

    monkeypatch.setattr(collect, "advance", counted)
    for envs, batch in ((1, 36), (3, 6)):
        sets = [*SMALL, f"run.envs={envs}", f"train.batch_size={batch}"]
        esper_core.run("spirals", sets=sets, out=tmp_path / str(envs))
    assert len(reads) > 20
    assert set(reads) == {0}


@pytest.mark.acceptance("TE-03")
def test_a_storm_of_failures_adds_no_work_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every loss of every step is NaN: telling it runs no operation, and rolling back a few in an epoch."""
    calm = operations(tmp_path / "calm", "policy.name=static", "run.level=debug")
    advance = collect.advance

    def stormy(cast: Cast, episode: Episode) -> tuple[Episode, EpochReport]:
        with torch.no_grad():
            episode.tensors.hosts.block.values.fill_(float("nan"))
        return advance(cast, episode)

    monkeypatch.setattr(collect, "advance", stormy)
    unwritten = operations(tmp_path / "unwritten", "policy.name=static", "run.level=off")
    storm = operations(tmp_path / "storm", "policy.name=static", "run.level=debug")
    written = events(tmp_path / "storm")
    assert [len([e for e in written if e["kind"] == k]) for k in ("nonfinite", "rollback")] == [2 * 8, 8]
    # one host is built once to look up the names of its parameters
    assert sum((storm - unwritten).values()) < 40, storm - unwritten
    epochs = 4 * 8  # of all arms
    assert sum((unwritten - calm).values()) < 40 * epochs, unwritten - calm


@pytest.mark.acceptance("QU-11")
def test_the_cost_of_the_control_plane_is_on_record(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), "1", "4"])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["N", "ms"]
    assert [int(line.split()[0]) for line in lines[1:]] == [1, 4]
    assert all(float(line.split()[1]) > 0 for line in lines[1:])
