"""What users, disks, pipes and files do to a run: it goes on, or says in one message what is wrong."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_runs import SMALL, events

import esper_core
from esper_core.errors import ConfigError, Interrupted, PluginError, RunError
from esper_core.phases import collect
from esper_core.phases.collect import Episode, EpochReport
from esper_core.plugin.protocols import Learned, Rule, SinkContext
from esper_core.runner import api, checkpoint, folder, setup
from esper_core.runner.display.lines import Lines
from esper_core.runner.display.objects import Objects
from esper_core.runner.display.protocol import Quiet
from esper_core.runner.display.screen import Screen
from esper_core.runner.files import read_tensors
from esper_core.runner.setup import Setup
from esper_core.state.rollout import Rollout
from esper_plugins.sinks.jsonl import JsonLines

ROUNDS = [*SMALL, "run.rounds=2", "train.epochs=3", "policy.name=static"]


def status(run: Path) -> str:
    return str(json.loads((run / "manifest.json").read_text())["status"])


def stop_in_round(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the middle of a round."""

    class Stop(Quiet):
        def epoch(self, episode: Episode, report: EpochReport) -> None:
            if (episode.round_index, episode.epoch) == (number, 2):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(api.display, "display", lambda mode: Stop())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = [*SMALL, "growth.min_contribution=-1.0"]
    return esper_core.run("spirals", sets=sets, out=tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted in its second round."""
    with monkeypatch.context() as patch:
        stop_in_round(1, patch)
        with pytest.raises(Interrupted):
            esper_core.run("spirals", sets=ROUNDS, out=tmp_path / "stopped")
    return tmp_path / "stopped"


class Counting(Rule):
    """A policy that learns how many epochs it has decided about, and what scores it has seen."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.decided, self.seen = inner, 0, torch.zeros(())

    def start(self, *episode: Any) -> Any:
        return self._inner.start(*episode)

    def decide(self, *seen: Any) -> Any:
        self.decided += 1
        return self._inner.decide(*seen)

    def learn(self, rollout: Rollout, round_index: int, rounds: int) -> dict[str, float]:
        assert rounds == 2
        self.seen = self.seen + rollout.score.sum()
        return {"seen": float(self.seen)}

    def state(self) -> Learned:
        return Learned(values={"decided": self.decided}, tensors={"seen": self.seen})

    def restore(self, state: Learned) -> None:
        self.decided, self.seen = state.values["decided"], state.tensors["seen"]


def test_a_resumed_run_goes_on_with_what_the_policy_has_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = setup.make

    def counting(chosen: Any, kind: str, *arguments: Any) -> object:
        made = build(chosen, kind, *arguments)
        return Counting(made) if kind == "policy" else made

    monkeypatch.setattr(setup, "make", counting)
    with monkeypatch.context() as patch:
        stop_in_round(1, patch)
        with pytest.raises(Interrupted):
            esper_core.run("spirals", sets=ROUNDS, out=tmp_path / "run")
    esper_core.resume(tmp_path / "run")
    learned = json.loads((tmp_path / "run" / "policy" / "policy.json").read_text())
    assert learned["state"] == {"decided": 6}
    written = events(tmp_path / "run")
    told = [e["learning"]["seen"] for e in written if e["kind"] == "round"]
    scores = [sum(e["score"]) for e in written if e["kind"] == "epoch"]
    assert told == pytest.approx([sum(scores[:3]), sum(scores)])
    saved = read_tensors(tmp_path / "run" / "policy" / "policy.safetensors")
    assert float(saved["seen"]) == told[1]


def test_an_escalation_ends_with_its_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint does not have it, so the next round must not, whether the run was stopped or not."""
    begin = collect.begin

    def sick(cast: Any, envs: Any, round_index: int, *more: Any) -> Episode:
        episode = begin(cast, envs, round_index, *more)
        if round_index == 0:
            episode.tensors.hosts.block.values.fill_(float("nan"))
        return episode

    monkeypatch.setattr(collect, "begin", sick)
    run = esper_core.run("spirals", sets=ROUNDS, out=tmp_path / "run").folder
    assert {e["round"] for e in events(run) if e["kind"] == "gradients"} == {0}


# --- pipes and displays


def test_a_broken_pipe_ends_the_output_and_not_the_run(tmp_path: Path) -> None:
    sets = " ".join(f"--set {s}" for s in (*SMALL, "run.level=off"))
    for mode in ("--plain", "--json"):
        run = tmp_path / mode
        command = f"{sys.executable} -m esper_core run spirals {sets} --out {run} {mode}"
        shell = f"set -o pipefail; {command} | head -c 1"
        found = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=120, check=False)
        assert (found.returncode, found.stderr) == (0, b"")
        assert status(run) == "finished"


def test_a_display_that_cannot_write_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(api.display, "display", lambda mode: Objects(Full()))
    run = esper_core.run("spirals", sets=SMALL, out=tmp_path / "run").folder
    assert status(run) == "finished"


def test_a_screen_whose_pipe_broke_says_no_more() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    screen = Screen(file=Broken())
    screen.print("one")
    screen.print("two")
    assert screen.quiet


def test_names_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    made = Lines(Console(file=stream, width=200, soft_wrap=True, highlight=False))
    monkeypatch.setattr(api.display, "display", lambda mode: made)
    run = esper_core.run("spirals", sets=SMALL, out=tmp_path / "y[" / "b]:x:").folder
    assert f"everything about the run:  {run}\n" in stream.getvalue()
    assert status(run) == "finished"
    assert str(run) in str(esper_core.inspect(run))


def test_a_display_that_fails_at_the_end_leaves_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clumsy(Quiet):
        def finish(self, *_: Any) -> None:
            raise ValueError("a defect")

    monkeypatch.setattr(api.display, "display", lambda mode: Clumsy())
    with pytest.raises(ValueError, match="a defect"):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "run")
    assert status(tmp_path / "run") == "finished"


def test_whatever_ends_a_run_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: Any) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(collect, "advance", leave)
    with pytest.raises(SystemExit):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "run")
    assert status(tmp_path / "run") == "failed"


# --- one process per folder


def test_a_second_process_is_refused_and_may_look(stopped: Path) -> None:
    (held := folder.open_existing(stopped)).mark("running")
    assert esper_core.inspect(stopped).facts["status"] == "killed"
    with held.held():
        assert esper_core.inspect(stopped).facts["status"] == "running"
        with pytest.raises(ConfigError, match=r"another process is running it; [\s\S]*esper inspect"):
            esper_core.resume(stopped)
    assert status(esper_core.resume(stopped).folder) == "finished"


def test_a_run_holds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Look(Quiet):
        def epoch(self, episode: Episode, report: EpochReport) -> None:
            seen.append(esper_core.inspect(tmp_path / "run").facts["status"])

    monkeypatch.setattr(api.display, "display", lambda mode: Look())
    esper_core.run("spirals", sets=SMALL, out=tmp_path / "run")
    assert set(seen) == {"running"}


# --- full disks


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "write_json", full)
    with pytest.raises(ConfigError, match="cannot be made: No space left on device"):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="cannot be made: No space left on device"):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_full_disk_does_not_hide_what_came_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(cast: Any, episode: Episode) -> None:
        monkeypatch.setattr(folder, "write_json", full)
        monkeypatch.setattr(JsonLines, "close", full)
        raise ValueError("the first error")

    monkeypatch.setattr(collect, "advance", broken)
    with pytest.raises(RunError, match=r"ValueError: the first error[\s\S]*esper resume"):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "run")


def test_sinks_that_cannot_be_opened_fail_the_run(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match=r"events.jsonl: cannot be written: No space left on device"):
        JsonLines(SinkContext(folder=stopped))
    monkeypatch.undo()
    monkeypatch.setattr(Setup, "sinks", full)
    with pytest.raises(RunError, match=r"No space left on device[\s\S]*esper resume"):
        esper_core.resume(stopped)
    assert status(stopped) == "failed"


def test_a_full_disk_when_sinks_close_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JsonLines, "close", full)
    with pytest.raises(RunError, match=r"No space left on device[\s\S]*esper resume"):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "run")
    assert status(tmp_path / "run") == "failed"


# --- sinks go back by themselves


def test_the_checkpoint_says_how_far_each_sink_has_written(stopped: Path) -> None:
    saved, _ = checkpoint.last(stopped / "checkpoints")
    assert saved.sinks.keys() == {"esper/jsonl"}
    kept = (stopped / "events.jsonl").read_bytes()[: saved.sinks["esper/jsonl"]]
    assert [json.loads(line)["kind"] for line in kept.splitlines()][-1] == "round"
    assert len(kept) < (stopped / "events.jsonl").stat().st_size


def test_events_that_are_missing_are_refused(stopped: Path) -> None:
    os.truncate(stopped / "events.jsonl", 10)
    with pytest.raises(RunError, match=r"events.jsonl: has 10 bytes, and had \d+ at the checkpoint"):
        esper_core.resume(stopped)


# --- malformed files


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "must be a JSON object, not list"),
        ("{}", "was written in the format None"),
        ('{"format": 1}', "is malformed: status, seed, fingerprint missing"),
        (
            '{"format": 1, "status": 3, "seed": 0, "fingerprint": {}}',
            "is malformed: status missing or of a wrong",
        ),
    ],
)
@pytest.mark.parametrize("command", ["resume", "inspect"])
def test_a_malformed_manifest_is_named(stopped: Path, text: str, reason: str, command: str) -> None:
    (stopped / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        getattr(esper_core, command)(stopped)


@pytest.mark.parametrize("text", ["[]", "{}", '{"state.json": "0"}', '{"format": 1}'])
def test_a_checkpoint_needs_the_hashes_of_all_files(stopped: Path, text: str) -> None:
    path = stopped / "checkpoints" / "round-000001"
    (path / "hashes.json").write_text(text)
    with pytest.raises(
        RunError, match=r"hashes.json: must have the hashes of policy.* and state.json and tensors"
    ):
        checkpoint.load(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 1}', '{"format": 1, "state": 3}'])
def test_a_malformed_state_is_named(stopped: Path, text: str) -> None:
    path = stopped / "checkpoints" / "round-000001"
    (path / "state.json").write_text(text)
    hashes = {name: checkpoint.sha256(path / name) for name in checkpoint.FILES}
    (path / "hashes.json").write_text(json.dumps(hashes))
    with pytest.raises(RunError, match=r"format None|state.json: is malformed"):
        checkpoint.load(path)


Change = Callable[[dict[str, Any]], Any]


def seed(described: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = described["seeds"][0]
    return found


MALFORMED: dict[str, tuple[Change, str]] = {
    "a list": (lambda d: [d], "was written in the format None"),
    "no host": (lambda d: d.pop("host"), "host: is required"),
    "more": (lambda d: d.update(colour="red"), "colour: unknown key"),
    "no dtype": (lambda d: d.update(dtype="nope"), "dtype: must be one of .*, not 'nope'"),
    "a function": (lambda d: d.update(dtype="save"), "dtype: must be one of"),
    "site": (lambda d: seed(d)["site"].pop("width"), "seeds.0.site.width: is required"),
    "nowhere": (lambda d: seed(d)["site"].update(name="attic"), "a seed sits at 'attic', which the host"),
    "twice": (lambda d: d["seeds"].append(seed(d)), "a seed sits at .* only once"),
    "blend": (lambda d: seed(d).update(blend="stir"), "seeds.0.blend: "),
    "influence": (lambda d: seed(d).update(influence="1"), "seeds.0.influence: must be a number"),
    "hashes": (lambda d: d.update(hashes={}), "hashes: must have the hashes of weights.safetensors"),
    "values": (
        lambda d: seed(d)["blueprint"]["settings"]["values"].update(rank="x"),
        "rank: must be a whole",
    ),
    "record": (
        lambda d: seed(d)["blueprint"]["settings"].update(kind="esper_plugins.blueprints.vector:linear"),
        "must be an attrs class",
    ),
    "builder": (
        lambda d: seed(d)["blueprint"].update(build="esper_plugins:ESPER_API"),
        r"ESPER_API.* is not loaded",
    ),
    "raises": (
        lambda d: seed(d)["blueprint"].update(build="esper_plugins.tasks.hosts:dense"),
        "a part cannot be built|cannot load",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_network_is_refused_with_path_and_reason(
    finished: Path, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "grown"
    shutil.copytree(finished / "grown", copy)
    described = json.loads((copy / "grown.json").read_text())
    change, reason = MALFORMED[name]
    changed = change(described)
    (copy / "grown.json").write_text(json.dumps(changed if isinstance(changed, list) else described))
    with pytest.raises((RunError, PluginError), match=reason) as caught:
        esper_core.load_grown(copy)
    assert str(copy) in str(caught.value)


# --- settings that only the machine can judge


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("device.threads=100000000", "device.threads: must be <= 1024"),
        ("device.place=meta", "--set: device.place = 'meta': computes nothing"),
        ("device.place=moon", "--set: device.place = 'moon'"),
        ('growth.slots=["attic"]', "--set: growth.slots: the host has no slot 'attic'"),
        ("train.batch_size=100000", "--set: train.batch_size: 100000 is more than"),
        ("task.name=3", "task.name: must be text, not 3"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_origin(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        esper_core.run("spirals", sets=[text], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("op", "more", "unused"),
    [
        ("advance", 'blueprint = "linear"', "blueprint"),
        ("fossilize", "target = 1.0\nspeed = 1", "target, speed"),
        ("prune", 'blend = "add"', "blend"),
        ("set-alpha-target", 'blueprint = "linear"', "blueprint"),
    ],
)
def test_a_key_of_a_step_that_its_operation_does_not_use_is_refused(
    tmp_path: Path, op: str, more: str, unused: str
) -> None:
    script = tmp_path / "script.toml"
    script.write_text(f'[[steps]]\nepoch = 0\nop = "{op}"\nslot = "block0"\n{more}\n')
    with pytest.raises(
        ConfigError, match=rf"policy.steps\[0\]: op = '{op}' does not use {unused}; it uses slot"
    ):
        esper_core.run("spirals", sets=SMALL, policy=script, out=tmp_path / "run")


def test_a_folder_of_the_name_of_a_task_hides_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spirals").mkdir()
    Path("other").mkdir()
    assert esper_core.inspect("spirals").facts["task"] == "esper/spirals"
    with pytest.raises(ConfigError, match="other: is not a run folder"):
        esper_core.inspect("other")


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"score": "accuracy", "arms": {}}', '{"score": "a", "arms": {"static": 1}}']
)
def test_inspect_names_a_report_that_is_not_whole(tmp_path: Path, content: str) -> None:
    folder = esper_core.run("spirals", sets=[*SMALL, "train.epochs=1"], out=tmp_path / "run").folder
    (folder / "report.json").write_text(content)
    with pytest.raises(RunError, match=r"report.json: is not a whole report"):
        esper_core.inspect(folder)
    (folder / "report.json").unlink()
    (folder / "grown" / "grown.json").write_text(content)
    with pytest.raises(RunError, match=r"grown.json: was written in the format None"):
        esper_core.inspect(folder)
