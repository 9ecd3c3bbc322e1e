"""Defaults < preset < file < `--set` < flags that were given; and what a replaced choice leaves behind."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from esper_core.plugin.catalogue import Catalogue
from esper_core.runner import config

KEYS = {
    "run.seed": (0, 5, 6, 7),
    "run.rounds": (2, 5, 6, 7),
    "run.envs": (8, 5, 6, 7),
    "policy.name": ("esper/scripted", "esper/random", "esper/static", "esper/scripted"),
    "train.epochs": (12, 5, 6, 7),
    "train.host.lr": (0.05, 0.5, 0.6, 0.7),
}
"""Value with neither file nor override (the preset's, or the default), in the file, by --set, by flag."""
FLAGS = {"policy.name": "policy"}
"""Keys whose flag takes more than a value."""


def value_at(loaded: config.Config, key: str) -> object:
    return {".".join(keys): value for keys, value in config.flatten(loaded)}[key]


def toml(key: str, value: object) -> str:
    return f'task.name = "digits"\n{key} = {value!r}\n'


@pytest.mark.acceptance("X-16")
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("by_set", [False, True])
@pytest.mark.parametrize("by_flag", [False, True])
def test_the_highest_layer_that_speaks_wins(
    key: str, in_file: bool, by_set: bool, by_flag: bool, catalogue: Catalogue, tmp_path: Path
) -> None:
    base, filed, setted, flagged = KEYS[key]
    file = tmp_path / "my.toml"
    file.write_text(toml(key, filed))
    source = str(file) if in_file else "digits"
    sets = [f"{key}={setted}"] if by_set else []
    flags = {FLAGS.get(key, key): flagged} if by_flag else {FLAGS.get(key, key): None}
    expected = flagged if by_flag else setted if by_set else filed if in_file else base
    loaded = config.load(source, sets=sets, flags=flags, catalogue=catalogue)
    assert value_at(loaded, key) == expected

    flag = "--" + FLAGS.get(key, key).removeprefix("run.")
    below = "default" if key in ("run.seed", "run.envs", "train.host.lr") else "preset of esper/digits"
    origin = flag if by_flag else "--set" if by_set else str(file) if in_file else below
    found = config.origins(source, sets=sets, flags=flags, catalogue=catalogue)
    assert found[key] == origin


@pytest.mark.acceptance("X-16")
def test_only_the_keys_that_were_given_change(catalogue: Catalogue) -> None:
    plain = dict(config.flatten(config.load("digits", catalogue=catalogue)))
    changed = dict(config.flatten(config.load("digits", flags={"run.envs": 3}, catalogue=catalogue)))
    assert {key for key in plain if plain[key] != changed[key]} == {("run", "envs")}


def test_the_later_of_two_sets_wins(catalogue: Catalogue) -> None:
    loaded = config.load("digits", sets=["run.seed=1", "run.seed=2"], catalogue=catalogue)
    assert loaded.run.seed == 2


def test_tables_merge_key_by_key_and_lists_are_replaced(catalogue: Catalogue) -> None:
    sets = ["train.host.lr=0.2", 'policy.steps=[{epoch = 1, op = "prune"}]']
    loaded = config.load("digits", sets=sets, catalogue=catalogue)
    assert (loaded.train.host.lr, loaded.train.host.momentum) == (0.2, 0.5)
    steps = loaded.policy.settings.steps  # type: ignore[union-attr]
    assert [(step.epoch, step.op, step.slot) for step in steps] == [(1, "prune", None)]
    assert loaded.policy.settings.repeat is True  # type: ignore[union-attr]


@pytest.mark.parametrize("flags", [{"policy": "random"}, {"policy": "esper/static"}])
def test_another_choice_drops_the_settings_of_the_one_below(
    flags: Mapping[str, object], catalogue: Catalogue
) -> None:
    assert config.load("digits", flags=flags, catalogue=catalogue).policy.settings is None


@pytest.mark.parametrize("name", ["scripted", "esper/scripted"])
def test_the_same_choice_in_either_spelling_keeps_them(name: str, catalogue: Catalogue) -> None:
    loaded = config.load("digits", flags={"policy": name}, catalogue=catalogue)
    assert loaded.policy == config.load("digits", catalogue=catalogue).policy


def test_sets_of_one_choice_need_no_order(catalogue: Catalogue) -> None:
    sets = ["policy.repeat=true", "policy.name=scripted"]
    both = [
        config.load("spirals", sets=order, catalogue=catalogue).policy
        for order in ([*sets, "task.noise=0.1"], [*sets[::-1], "task.noise=0.1"])
    ]
    assert both[0] == both[1]
    assert both[0].settings.repeat is True  # type: ignore[union-attr]


def test_a_policy_file_is_the_whole_section(catalogue: Catalogue, tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text('[[steps]]\nepoch = 7\nop = "prune"\n')
    loaded = config.load("digits", flags={"policy": str(script)}, catalogue=catalogue)
    assert loaded.policy.name == "esper/scripted"
    assert [step.epoch for step in loaded.policy.settings.steps] == [7]  # type: ignore[union-attr]
    assert loaded.policy.settings.repeat is False  # type: ignore[union-attr]

    script.write_text('name = "random"\n')
    loaded = config.load("digits", flags={"policy": str(script)}, catalogue=catalogue)
    assert loaded.policy == config.Choice(name="esper/random")


def test_another_task_brings_its_own_preset(catalogue: Catalogue) -> None:
    loaded = config.load("digits", sets=["task.name=spirals", "task.noise=0.1"], catalogue=catalogue)
    assert (loaded.task.name, loaded.run.rounds, loaded.train.epochs) == ("esper/spirals", 1, 24)


def test_no_preset_on_request(catalogue: Catalogue) -> None:
    """Neither the task's nor the reward's file is read; what was written down needs none."""
    written = tomllib.loads(config.dumps(config.load("digits", catalogue=catalogue)))
    assert written["train"].pop("epochs") == 12
    assert config.load(written, catalogue=catalogue, preset=False).train.epochs == 24


def test_another_update_rule_drops_what_the_preset_says_of_the_one_below(catalogue: Catalogue) -> None:
    loaded = config.load("digits", sets=["train.host.name=adamw"], catalogue=catalogue)
    assert (loaded.train.host.name, loaded.train.host.momentum) == ("adamw", 0.9)


def test_settings_of_blueprints_and_sinks_are_complete(catalogue: Catalogue) -> None:
    loaded = config.load(
        "digits", sets=["sink.columns.every=3", 'run.sinks=["columns"]'], catalogue=catalogue
    )
    assert {name: repr(item) for name, item in loaded.blueprint.items()} == {
        "esper/linear": "None",
        "esper/lowrank": "LowRank(rank=6)",
    }
    assert {name: repr(item) for name, item in loaded.sink.items()} == {"esper/columns": "Columns(every=3)"}
    assert loaded.run.sinks == ("esper/columns",)


def test_a_preset_may_set_a_blueprint_that_the_user_does_not_choose(catalogue: Catalogue) -> None:
    loaded = config.load("digits", sets=['growth.blueprints=["linear"]'], catalogue=catalogue)
    assert loaded.growth.blueprints == ("esper/linear",)
    assert dict(loaded.blueprint) == {"esper/linear": None}


def test_tables_meet_whatever_their_spelling(catalogue: Catalogue) -> None:
    table = {"task": {"name": "digits"}, "blueprint": {"esper/lowrank": {"rank": 9}}}
    loaded = config.load(table, catalogue=catalogue)
    assert repr(loaded.blueprint["esper/lowrank"]) == "LowRank(rank=9)"
    sets = ["blueprint.lowrank.rank=10", "blueprint.esper/lowrank.rank=11"]
    for text, rank in zip(sets, (10, 11), strict=True):
        loaded = config.load(table, sets=[text], catalogue=catalogue)
        assert repr(loaded.blueprint["esper/lowrank"]) == f"LowRank(rank={rank})"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("run.level=debug", "run.level", "debug"),
        ('run.level="debug"', "run.level", "debug"),
        (" run . seed = 3 ", "run.seed", 3),
        ("train.host.lr=1e-3", "train.host.lr", 1e-3),
        ("train.host.lr=1", "train.host.lr", 1.0),
        ("growth.auto_advance=true", "growth.auto_advance", True),
        ("growth.targets=[0.25, 1]", "growth.targets", [0.25, 1.0]),
        ("task.arms=many", "task.arms", "many"),
        ("task.arms=3", "task.arms", 3),
    ],
)
def test_set_takes_toml_values_and_bare_words(
    text: str, key: str, value: object, catalogue: Catalogue
) -> None:
    table = {"task": {"name": "spirals", "noise": 0.1}}
    found = value_at(config.load(table, sets=[text], catalogue=catalogue), key)
    assert found == value
    assert type(found) is type(value)
