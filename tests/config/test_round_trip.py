"""What `dumps` writes is complete, deterministic, and loads back to an equal record."""

import tomllib
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_core.plugin.catalogue import Catalogue
from esper_core.runner import config
from esper_core.runner.config.records import SECTIONS

SOURCES = {
    "preset": ("digits", []),
    "no preset": ("spirals", ["task.noise=0.25", "task.arms=many"]),
    "limits": ("digits", ["train.train_batches=3", "growth.budget=0", "run.seed=9223372036854775807"]),
    "no settings": ("digits", ["policy.name=static", "growth.blueprints=['linear']"]),
    "adamw": ("digits", ["train.host.name=adamw", "train.host.beta1=0.5", "train.seed.momentum=0.1"]),
    "sinks": ("digits", ["run.sinks=['columns', 'jsonl']", "sink.columns.every=2"]),
}


@pytest.mark.acceptance("CF-04")
@pytest.mark.parametrize(("source", "sets"), SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("preset", [False, True])
def test_it_loads_back_equal(
    source: str, sets: list[str], preset: bool, catalogue: Catalogue, tmp_path: Path
) -> None:
    loaded = config.load(source, sets=sets, catalogue=catalogue)
    file = tmp_path / "config.toml"
    file.write_text(config.dumps(loaded))
    again = config.load(file, catalogue=catalogue, preset=preset)
    assert again == loaded
    assert config.dumps(again) == config.dumps(loaded)


@pytest.mark.property
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(data=st.data())
def test_any_legal_numbers_load_back_equal(data: st.DataObject, catalogue: Catalogue) -> None:
    share = st.floats(0, 1, exclude_max=True, allow_nan=False)
    table = {
        "task": {"name": "digits"},
        "run": {"seed": data.draw(st.integers(0, 2**63 - 1)), "envs": data.draw(st.integers(1, 10**9))},
        "train": {
            "epochs": data.draw(st.integers(1, 10**6)),
            "warmup": data.draw(share),
            "host": {"lr": data.draw(st.floats(0, exclude_min=True, allow_infinity=False))},
        },
        "growth": {
            "targets": data.draw(st.lists(st.floats(0, 1, exclude_min=True), min_size=1, unique=True)),
            "slots": data.draw(st.lists(st.text(), unique=True)),
            "embargo": data.draw(share),
        },
    }
    loaded = config.load(table, catalogue=catalogue)
    assert config.load(tomllib.loads(config.dumps(loaded)), catalogue=catalogue) == loaded


@pytest.mark.acceptance("CF-03")
def test_every_field_is_written_or_known_to_be_unset(catalogue: Catalogue) -> None:
    loaded = config.load("digits", catalogue=catalogue)
    written = tomllib.loads(config.dumps(loaded))
    unset = {keys for keys, value in config.flatten(loaded) if value is None}
    for name, record in SECTIONS.items():
        for field in attrs.fields(record):
            assert field.name in written[name] or (name, field.name) in unset
    assert {keys for keys in unset if keys[0] in SECTIONS} == {
        ("train", "train_batches"),
        ("train", "validation_batches"),
        ("growth", "budget"),
        ("learn", "value_clip"),
    }
    assert list(written) == [field.name for field in attrs.fields(config.Config)]
    assert written["policy"] == {
        "name": "esper/scripted",
        "repeat": True,
        "steps": [{"epoch": 3, "op": "germinate", "slot": "first"}, {"epoch": 5, "op": "prune"}],
    }
    assert written["blueprint"] == {"esper/linear": {}, "esper/lowrank": {"rank": 6}}


def test_origins_name_every_key(catalogue: Catalogue) -> None:
    loaded = config.load("digits", sets=["train.epochs=5"], catalogue=catalogue)
    found = config.origins("digits", sets=["train.epochs=5"], catalogue=catalogue)
    assert len(found) == len(list(config.flatten(loaded)))
    assert found["task.name"] == "argument"
    assert found["train.epochs"] == "--set"
    assert found["blueprint.esper/lowrank.rank"] == "preset of esper/digits"
    assert found["growth.budget"] == "default"


def test_a_configuration_cannot_be_changed(catalogue: Catalogue) -> None:
    loaded = config.load("digits", catalogue=catalogue)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        loaded.run = None  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        loaded.run.seed = 3  # type: ignore[misc]
