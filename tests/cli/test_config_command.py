"""`esper config show` prints all there is, and `validate` all that is wrong."""

import tomllib
from pathlib import Path

import pytest
from distributions import Esper

from esper_core.plugin.loader import load
from esper_core.runner import config


@pytest.mark.acceptance("CF-03")
def test_show_prints_every_field_or_that_it_is_not_set(esper: Esper) -> None:
    result = esper("config", "show", "digits", "--set", "train.epochs=5")
    loaded = config.load("digits", sets=["train.epochs=5"], catalogue=load())
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(config.dumps(loaded))
    unset = [line for line in result.stdout.splitlines() if line.startswith("#")]
    assert unset == [
        "# device.chunk_mib is not set",
        "# train.train_batches is not set",
        "# train.validation_batches is not set",
        "# growth.budget is not set",
        "# learn.value_clip is not set",
    ]
    assert config.load(tomllib.loads(result.stdout), catalogue=load()) == loaded


@pytest.mark.acceptance("CF-03")
def test_origins_are_toml_too_with_one_key_a_line(esper: Esper, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('task.name = "digits"\ntrain.batch_size = 16\n')
    result = esper("config", "show", str(file), "--set", "growth.slots=['a', 'b']", "--origins")
    assert config.load(tomllib.loads(result.stdout), catalogue=load()) == config.load(
        file, sets=["growth.slots=['a', 'b']"], catalogue=load()
    )
    lines = result.stdout.splitlines()
    assert f"train.batch_size = 16  # {file}" in lines
    assert 'growth.slots = ["a", "b"]  # --set' in lines
    assert "train.epochs = 12  # preset of esper/digits" in lines
    assert 'blueprint."esper/lowrank".rank = 6  # preset of esper/digits' in lines
    steps = '[{epoch = 3, op = "germinate", slot = "first"}, {epoch = 5, op = "prune"}]'
    assert f"policy.steps = {steps}  # preset of esper/digits" in lines
    assert 'run.level = "normal"  # default' in lines
    assert "# growth.budget is not set" in lines


def test_validate(esper: Esper) -> None:
    result = esper("config", "validate", "digits", "--set", "train.epochs=5")
    assert (result.exit_code, result.stdout) == (0, "digits: valid\n")
    result = esper("config", "validate", "digits", "--set", "train.epochs=0", "--set", "run.sed=1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "Error: 2 things are wrong with the configuration:\n"
        "--set: train.epochs: must be >= 1, not 0\n"
        "--set: run.sed: unknown key; did you mean run.seed?\n"
    )


@pytest.mark.parametrize("command", ["show", "validate"])
def test_what_cannot_be_read_exits_with_2(command: str, esper: Esper, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[run\n")
    result = esper("config", command, str(file))
    assert result.exit_code == 2
    assert f"{file}: is not valid TOML: " in result.stderr
    assert "line 1" in result.stderr
    assert esper("config", command, "digitz").exit_code == 2
