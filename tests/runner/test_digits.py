"""The demonstration: what a newcomer sees first has to be true."""

import json
from pathlib import Path

import pytest
from small_runs import events

import esper_core

SCRIPT = """
[[steps]]
epoch = 1
op = "germinate"
slot = "block1"
blueprint = "lowrank"
speed = 4
curve = "linear"
target = 1.0

[[steps]]
epoch = 4
op = "advance"
slot = "block1"
wait = true

[[steps]]
epoch = 8
op = "fossilize"
slot = "block1"
wait = true
"""
"""Plants one seed across the narrow block."""
SETS = (
    "run.rounds=1",
    "run.level=normal",
    "task.narrow=1",
    "task.narrow_width=2",
    "growth.auto_advance=false",
    "growth.speeds=[0, 4]",
    "growth.contact_bound=10",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> esper_core.Result:
    """A script on digits, in hosts whose second block is narrow."""
    folder = tmp_path_factory.mktemp("digits")
    script = folder / "script.toml"
    script.write_text(SCRIPT)
    return esper_core.run("digits", envs=4, policy=script, sets=SETS, out=folder / "run")


def test_the_grown_network_beats_the_static_host(run: esper_core.Result) -> None:
    assert run.score == "accuracy"
    assert run.arms["grown"].score > run.arms["static"].score
    assert run.arms["grown"].mean > run.arms["static"].mean + 0.05
    assert run.arms["grown"].parameters == run.arms["static"].parameters + 220
    assert run.arms["twin"].parameters == run.arms["grown"].parameters


def test_the_script_grows_at_its_epochs(run: esper_core.Result) -> None:
    """Germinate to fossilize at stated epochs, in every environment."""
    lives: dict[int, list[tuple[int, str, str]]] = {}
    for event in events(run.folder):
        if event["kind"] == "lifecycle":
            for env, slot, there, cause in zip(
                event["env"], event["slot"], event["to"], event["cause"], strict=True
            ):
                assert slot == "block1"
                lives.setdefault(env, []).append((event["epoch"], there, cause))
    expected = [
        (1, "training", "germinate"),
        (4, "blending", "advance"),
        (7, "holding", "automatic"),
        (8, "fossilized", "fossilize"),
    ]
    assert lives == dict.fromkeys(range(4), expected)


def test_influence_follows_the_ramp(run: esper_core.Result) -> None:
    seeds = {e["epoch"]: e["influence"] for e in events(run.folder) if e["kind"] == "seeds" and e["env"]}
    assert [seeds[epoch][0] for epoch in range(1, 10)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_the_preset_learns_and_compares(tmp_path: Path) -> None:
    """The demonstration in small: everything that it does, a little of each."""
    sets = ["train.epochs=6", "train.train_batches=2"]
    result = esper_core.run("digits", envs=4, rounds=2, sets=sets, out=tmp_path / "run")
    rounds = [e for e in events(result.folder) if e["kind"] == "round"]
    assert [len(e["returns"]) for e in rounds] == [4, 4]
    assert all(e["learning"]["steps"] > 0 for e in rounds)
    assert result.arms.keys() == {"static", "everywhere", "grown", "twin"}
    assert {arm.tries for arm in result.arms.values()} == {4}
    assert all(0.0 <= arm.mean <= 1.0 and arm.mean_error >= 0.0 for arm in result.arms.values())


def test_the_last_line_of_json_has_the_four_arms(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from esper_core.cli import main

    arguments = ["run", "spirals", "--set", "task.samples=60", "--set", "train.epochs=2", "--json"]
    found = CliRunner().invoke(
        main, [*arguments, "--set", "train.batch_size=12", "--out", str(tmp_path / "run")]
    )
    assert found.exit_code == 0, found.output
    lines = [json.loads(line) for line in found.output.splitlines()]
    for arm in ("static", "everywhere", "grown", "twin"):
        assert lines[-1][arm].keys() == {"accuracy", "parameters", "epochs"}
    assert lines[-1]["folder"] == str(tmp_path / "run")
