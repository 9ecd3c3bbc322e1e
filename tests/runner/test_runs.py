"""A run from the outside: what it writes, and that it writes the same twice."""

import json
import math
from pathlib import Path

import pytest
import torch
from small_runs import SMALL, events

import esper_core
from esper_core.runner.events import LEVELS
from esper_core.runner.files import read_tensors


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "grown" / "weights.safetensors")


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_two_runs_of_one_seed_write_the_same_events_and_weights(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        esper_core.run("spirals", sets=SMALL, out=folder)
    assert events(folders[0]) == events(folders[1])
    assert_same_tensors(weights(folders[0]), weights(folders[1]))


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    for seed in (0, 1):
        esper_core.run("spirals", sets=[*SMALL, f"run.seed={seed}"], out=tmp_path / str(seed))
    assert events(tmp_path / "0") != events(tmp_path / "1")


@pytest.mark.acceptance("X-02", "X-09")
def test_an_added_environment_leaves_the_others_unchanged(tmp_path: Path) -> None:
    for envs in (2, 3):
        sets = [*SMALL, f"run.envs={envs}", "policy.name=random", "run.level=debug"]
        esper_core.run("spirals", sets=sets, out=tmp_path / str(envs))
    two, three = ([e for e in events(tmp_path / n) if e["kind"] in ("epoch", "decision")] for n in ("2", "3"))
    assert len(two) == len(three) > 0
    for small, large in zip(two, three, strict=True):
        columns = [name for name, value in small.items() if isinstance(value, list)]
        assert {c: small[c] for c in columns} == {c: large[c][:2] for c in columns}


def test_the_folder_holds_everything(tmp_path: Path) -> None:
    result = esper_core.run("spirals", sets=SMALL, out=tmp_path / "run")
    names = {p.name for p in result.folder.iterdir()}
    expected = {
        "config.toml",
        "manifest.json",
        "events.jsonl",
        "checkpoints",
        "policy",
        "grown",
        "report.json",
        "run.lock",
    }
    assert names == expected
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["seed"] == 0
    assert manifest["versions"]["torch"] == torch.__version__
    assert {"cores", "system", "processor"} == manifest["machine"].keys()
    assert {p["name"] for p in manifest["plugins"]} >= {"esper/spirals", "esper/scripted", "esper/lowrank"}
    assert set(result.arms) == {"static", "everywhere", "grown", "twin"}
    assert all(arm.epochs == 8 and arm.tries == 2 for arm in result.arms.values())


def test_the_written_configuration_repeats_the_run(tmp_path: Path) -> None:
    esper_core.run("spirals", sets=SMALL, out=tmp_path / "one")
    esper_core.run(str(tmp_path / "one" / "config.toml"), out=tmp_path / "two")
    assert events(tmp_path / "one") == events(tmp_path / "two")


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(
        esper_core.ConfigError, match=r"mine: exists and is not empty.*never overwritten.*--out"
    ):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("precious")
    with pytest.raises(esper_core.ConfigError, match="file: exists"):
        esper_core.run("spirals", sets=SMALL, out=tmp_path / "file")


@pytest.mark.acceptance("TR-05")
@pytest.mark.parametrize("envs", [1, 2])
@pytest.mark.parametrize("epochs", [1, 4])
@pytest.mark.parametrize("slots", [1, 2])
def test_one_of_everything_works(tmp_path: Path, envs: int, epochs: int, slots: int) -> None:
    sets = [
        "task.samples=60",
        f"task.blocks={slots}",
        f"train.epochs={epochs}",
        "train.batch_size=12",
        f"run.envs={envs}",
        "policy.name=random",
        "growth.training_dwell=0.0",
        "growth.speeds=[0, 1]",
    ]
    result = esper_core.run("spirals", sets=sets, out=tmp_path / "run")
    assert all(math.isfinite(arm.score) for arm in result.arms.values())
    epochs_seen = [e["epoch"] for e in events(result.folder) if e["kind"] == "epoch"]
    assert epochs_seen == list(range(epochs))
    assert esper_core.load_grown(result.folder) is not None


@pytest.mark.acceptance("TE-04", "X-15")
def test_removing_every_sink_changes_nothing(tmp_path: Path) -> None:
    with_sink = esper_core.run("spirals", sets=SMALL, out=tmp_path / "with")
    without = esper_core.run("spirals", sets=[*SMALL, "run.sinks=[]"], out=tmp_path / "without")
    silent = esper_core.run("spirals", sets=[*SMALL, "run.level=off"], out=tmp_path / "silent")
    assert with_sink.arms == without.arms == silent.arms
    assert_same_tensors(weights(with_sink.folder), weights(without.folder))
    assert_same_tensors(weights(with_sink.folder), weights(silent.folder))
    assert not (without.folder / "events.jsonl").exists()
    assert (silent.folder / "events.jsonl").read_text() == ""


def test_levels_never_change_results_either(tmp_path: Path) -> None:
    found = [
        esper_core.run("spirals", sets=[*SMALL, f"run.level={x}"], out=tmp_path / x).arms for x in LEVELS
    ]
    assert all(arms == found[0] for arms in found)


@pytest.mark.acceptance("TE-04")
def test_two_runs_in_one_process_share_nothing(tmp_path: Path) -> None:
    before = torch.get_num_threads(), torch.random.get_rng_state()
    esper_core.run("spirals", sets=[*SMALL, "run.seed=5"], out=tmp_path / "other")
    esper_core.run("spirals", sets=SMALL, out=tmp_path / "after")
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    esper_core.run("spirals", sets=SMALL, out=tmp_path / "again")
    assert events(tmp_path / "after") == events(tmp_path / "again")


def test_inspect_a_run_tells_what_grew_where_and_when(tmp_path: Path) -> None:
    sets = [*SMALL, "task.data_seed=3"]
    folder = esper_core.run("spirals", sets=sets, out=tmp_path / "run").folder
    found = esper_core.inspect(folder)
    births = [row for row in found.facts["lifecycle"] if row["cause"] == "germinate"]
    assert [(row["env"], row["epoch"], row["slot"]) for row in births] == [(0, 1, "block0"), (1, 1, "block0")]
    assert found.facts["host"]["parameters"] > 0
    assert "env   0  block0" in str(found)
    assert found.facts["status"] == "finished"


def test_inspect_a_task_shows_the_host_and_its_slots() -> None:
    found = esper_core.inspect("spirals")
    assert found.facts["host"]["parameters"] == (2 * 8 + 8) + 2 * (8 * 8 + 8) + (8 * 2 + 2)
    assert [slot["name"] for slot in found.facts["slots"]] == ["block0", "block1"]
    assert found.facts["slots"][0]["seeds"]["esper/linear"] == 8 * 8 + 8
    assert sum(found.facts["data"].values()) == 300


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(esper_core.ConfigError, match=r"train.batch_size: 5000 is more than the 36 samples"):
        esper_core.run("spirals", sets=[*SMALL, "train.batch_size=5000"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_slot_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(esper_core.ConfigError, match=r"no slot 'blok0'; did you mean 'block0'"):
        esper_core.run("spirals", sets=[*SMALL, 'growth.slots=["blok0"]'], out=tmp_path / "run")


def test_a_script_that_names_an_unknown_slot_or_blueprint_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    step = '[[steps]]\nepoch = 1\nop = "germinate"\nslot = "{}"\nblueprint = "{}"\n'
    for slot, blueprint, message in (
        (
            "blck0",
            "lowrank",
            r"policy.steps\[0\].slot = 'blck0' is not one of block0, block1; did you mean 'block0'",
        ),
        (
            "block0",
            "lowrnk",
            r"policy.steps\[0\].blueprint = 'lowrnk' is not one of esper/linear, esper/lowrank",
        ),
    ):
        script.write_text(step.format(slot, blueprint))
        with pytest.raises(esper_core.ConfigError, match=message):
            esper_core.run("spirals", sets=SMALL, policy=script, out=tmp_path / "run")


def test_freezing_what_is_committed_does_not_freeze_the_arms_of_the_comparison(tmp_path: Path) -> None:
    """Their seeds are committed from the start, and still have to be trained."""
    sets = [*SMALL, "train.epochs=12"]
    found = [
        esper_core.run("spirals", sets=[*sets, f"growth.freeze_fossils={frozen}"], out=tmp_path / frozen).arms
        for frozen in ("false", "true")
    ]
    assert found[0]["everywhere"] == found[1]["everywhere"]
    assert found[1]["everywhere"].validation != found[1]["static"].validation
