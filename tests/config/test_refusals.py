"""Everything that can be wrong is refused, all of it at once, with place, key, reason and what was meant."""

import re
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from distributions import blueprint, plugin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_core.errors import ConfigError, EsperError, PluginError
from esper_core.plugin.catalogue import Catalogue
from esper_core.plugin.loader import load
from esper_core.runner import config
from esper_core.runner.config.records import SECTIONS


def refusal(catalogue: Catalogue, source: Any = "digits", **arguments: Any) -> EsperError:
    with pytest.raises(EsperError) as caught:
        config.load(source, catalogue=catalogue, **arguments)
    return caught.value


INVALID = {
    # a number of a wrong type, out of range, or no number
    "run.seed": ["1.5", "true", '"3"', "-1", "9223372036854775808", "[1]"],
    "run.rounds": ["0", "-2", "1.0"],
    "run.envs": ["0", "two", "false"],
    "run.level": ["loud", "3"],
    "run.sinks": ["jsonl", '["jsonl", "jsonl"]', '["jsonl", "esper/jsonl"]', '["jsnol"]', "[1]"],
    "run.keep_checkpoints": ["0"],
    "train.epochs": ["0", "1.5", "1e3"],
    "train.batch_size": ["0", "true"],
    "train.train_batches": ["0", '"all"'],
    "train.validation_batches": ["0", "-1"],
    "train.schedule": ["cosin"],
    "train.warmup": ["1.0", "-0.1", '"0.1"'],
    "train.clip_scope": ["both"],
    "train.statistics_stride": ["0"],
    "growth.blueprints": ["linear", '["linear", "esper/linear"]', '["linear", "linear"]', '["lnear"]'],
    "growth.slots": ['["a", "a"]', "a"],
    "growth.blends": ["[]", '["add", "add"]', '["ad"]'],
    "growth.targets": ["[]", "[0.0]", "[1.5]", "[0.5, 0.5]", "[true]", "0.5"],
    "growth.speeds": ["[]", "[-1]", "[1, 1]", "[1.5]"],
    "growth.curves": ["[]", '["linear", "linear"]', '["linaer"]'],
    "growth.max_live": ["0"],
    "growth.budget": ["-1", "0.5"],
    "growth.training_dwell": ["1.0", "-0.1", "nan"],
    "growth.prune_dwell": ["1.0"],
    "growth.embargo": ["1.0"],
    "growth.auto_advance": ["1", "True"],
    "growth.min_health": ["1.1", "-0.1"],
    "growth.min_contribution": ["nan", "inf"],
    "growth.contact_bound": ["0.0", "inf"],
    "growth.incubation_cap": ["0.0", "inf"],
    "growth.input_gain": ["1.5", "-1"],
    "growth.freeze_fossils": ['"no"'],
    "growth.ratio_memory": ["1.0"],
    "growth.velocity_memory": ["1.0"],
    "governor.window": ["0", "2.5"],
    "governor.min_samples": ["0", "21"],
    "governor.sensitivity": ["-1.0", "inf"],
    "governor.multiplier": ["0.9", "inf"],
    "governor.patience": ["0"],
    "governor.collapse_from": ["1.0", "-0.1"],
    "governor.collapse_band": ["1.0", "-0.1"],
    "governor.penalty": ["-1.0", "nan"],
    "learn.gamma": ["0.0", "1.1"],
    "learn.trace": ["-0.1", "1.1"],
    "learn.passes": ["0"],
    "learn.minibatches": ["0", "1.5"],
    "learn.lr": ["0.0", "inf"],
    "learn.lr_end": ["-0.1", "1.1"],
    "learn.clip": ["0.0", "inf"],
    "learn.kl_limit": ["0.0", "inf"],
    "learn.entropy": ["-1.0", "inf"],
    "learn.entropy_end": ["-0.1", "1.1"],
    "learn.value": ["-1.0", "inf"],
    "learn.value_clip": ["0.0", "inf"],
    "learn.max_norm": ["0.0", "inf"],
    "plugins.allow": ['["a", "a"]', '["acme-esper"]', "a"],
    "plugins.block": ['["a", "a"]', '["Esper_Morph"]', "a"],
    **{
        f"train.{group}.{key}": values
        for group in ("host", "seed")
        for key, values in {
            "name": ["adam", "1"],
            "lr": ["0.0", "inf", "true"],
            "momentum": ["1.0"],
            "beta1": ["1.0"],
            "beta2": ["-0.1"],
            "eps": ["0.0", "inf"],
            "weight_decay": ["-1.0", "inf"],
            "clip": ["-1.0", "inf"],
        }.items()
    },
}
"""Values that every key of the core's sections refuses; strings are what stands after `--set key=`."""


@pytest.mark.acceptance("CF-04", "CF-06")
@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in INVALID.items() for value in values]
)
def test_every_key_refuses_what_is_wrong_and_says_where(key: str, value: str, catalogue: Catalogue) -> None:
    group, last = key.rsplit(".", 1)
    reader = [f"{group}.name=adamw"] if last in ("beta1", "beta2", "eps") else []
    error = refusal(catalogue, sets=[*reader, f"{key}={value}"])
    assert isinstance(error, ConfigError)
    assert error.exit_code == 2
    (line,) = (line for line in str(error).splitlines() if not line.endswith("configuration:"))
    assert re.match(rf"--set: {re.escape(key)}(\.\d+)?: \S+", line), line


@pytest.mark.acceptance("CF-02", "CF-04")
def test_every_field_has_invalid_values_so_every_check_is_reachable() -> None:
    def keys(record: type, prefix: str) -> set[str]:
        attrs.resolve_types(record)
        found = set()
        for field in attrs.fields(record):
            nested = isinstance(field.type, type) and attrs.has(field.type)
            found |= keys(field.type, f"{prefix}{field.name}.") if nested else {prefix + field.name}
        return found

    assert set().union(*(keys(record, f"{name}.") for name, record in SECTIONS.items())) == set(INVALID)


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (["run.seed=1.5"], "--set: run.seed: must be a whole number, not 1.5"),
        (["run.seed=true"], "--set: run.seed: must be a whole number, not true"),
        (["run.seed='3'"], "--set: run.seed: must be a whole number, not '3'"),
        (["run.envs=0"], "--set: run.envs: must be >= 1, not 0"),
        (["train.host.lr=fast"], "--set: train.host.lr: must be a number, not 'fast'"),
        (["growth.auto_advance=1"], "--set: growth.auto_advance: must be true or false, not 1"),
        (["governor.window=3"], "--set: governor: 'min_samples' must be <= 'window' (3): 5"),
        (["growth.slots=first"], "--set: growth.slots: must be a list, such as ['first'], not 'first'"),
        (["growth.slots=['a', 'b', 'a']"], "--set: growth.slots: names a more than once"),
        (["growth.targets=[0.5, 2]"], "--set: growth.targets: must be <= 1.0, not 2.0"),
        (["growth.speeds=[1, 2.5]"], "--set: growth.speeds.1: must be a whole number, not 2.5"),
        (
            ["train.schedule=cosin"],
            "--set: train.schedule: must be one of 'constant', 'linear', 'cosine', not 'cosin'; "
            "did you mean 'cosine'?",
        ),
        (["train=3"], "--set: train: must be a table, not 3"),
        (["policy=random"], '--set: policy: must be a table; choose with policy.name = "..."'),
        (["blueprint=3"], "--set: blueprint: must be a table with one table for each blueprint"),
        (["blueprint.linear=3"], "--set: blueprint.esper/linear: must be a table"),
        (
            ["growth.blueprints=['linear', 'esper/linear']"],
            "--set: growth.blueprints: names esper/linear more than once",
        ),
        (
            ["policy.steps=[{epoch = 1}, {epoch = -1, op = 'grow'}]"],
            "3 things are wrong with the configuration:\n"
            "--set: policy.steps.0.op: is required\n"
            "--set: policy.steps.1.op: must be one of 'germinate', 'prune', not 'grow'\n"
            "--set: policy.steps.1.epoch: must be >= 0, not -1",
        ),
        (["task.width=1"], "--set: task.width: must be >= 2, not 1"),
        (["task.name=spirals"], "--set: task.noise: is required"),
        (
            ["task.name=spirals", "task.noise=0", "task.arms=1.5"],
            "--set: task.arms: must be a whole number or one of 'many', not 1.5",
        ),
    ],
)
def test_messages_of_wrong_values(sets: list[str], line: str, catalogue: Catalogue) -> None:
    assert str(refusal(catalogue, sets=sets)) == line


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("train.host.momentm", "unknown key; did you mean train.host.momentum?"),
        ("growth.lr", "unknown key; did you mean train.host.lr or train.seed.lr or learn.lr?"),
        ("lr", "unknown key; did you mean train.host.lr or train.seed.lr or learn.lr?"),
        ("epochs", "unknown key; did you mean train.epochs?"),
        ("run.epochs", "unknown key; did you mean train.epochs?"),
        ("train.seeds", "unknown key; did you mean train.seed?"),
        ("trian.epochs", "unknown key; did you mean train?"),
        ("policy.repeats", "unknown key of policy 'esper/scripted'; did you mean policy.repeat?"),
        ("task.rank", "unknown key of task 'esper/digits'; did you mean blueprint.esper/lowrank.rank?"),
        (
            "blueprint.lowrank.rnk",
            "unknown key of blueprint 'esper/lowrank'; did you mean blueprint.esper/lowrank.rank?",
        ),
        (
            "blueprint.linear.rank",
            "unknown key of blueprint 'esper/linear'; did you mean blueprint.esper/lowrank.rank?",
        ),
        ("run.zzzzzz", "unknown key"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_across_sections(
    key: str, reason: str, catalogue: Catalogue
) -> None:
    unknown = "trian" if key == "trian.epochs" else key.replace("blueprint.l", "blueprint.esper/l")
    assert str(refusal(catalogue, sets=[f"{key}=1"])) == f"--set: {unknown}: {reason}"


@pytest.mark.acceptance("HE-01")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            {"source": "digit"},
            "argument: task.name: there is no task 'digit'; did you mean 'digits'? "
            "(tasks that are installed: esper/digits, esper/spirals)",
        ),
        (
            {"flags": {"policy": "radnom"}},
            "--policy: policy.name: there is no policy 'radnom'; did you mean 'random'? "
            "(policies that are installed: esper/random, esper/scripted, esper/static)",
        ),
        (
            {"sets": ["growth.blueprints=['lineer']"]},
            "--set: growth.blueprints: there is no blueprint 'lineer'; did you mean 'linear'? "
            "(blueprints that are installed: esper/linear, esper/lowrank)",
        ),
        (
            {"sets": ["device.name=singel"]},
            "--set: device.name: there is no device 'singel'; did you mean 'single'? "
            "(devices that are installed: esper/single)",
        ),
        (
            {"sets": ["reward.name=shiped"]},
            "--set: reward.name: there is no reward 'shiped'; did you mean 'shipped'? "
            "(rewards that are installed: esper/shipped)",
        ),
        (
            {"sets": ["blueprint.lowrnk.rank=2"]},
            "--set: blueprint.lowrnk: there is no blueprint 'lowrnk'; did you mean 'lowrank'? "
            "(blueprints that are installed: esper/linear, esper/lowrank)",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_valid_ones(
    arguments: dict[str, Any], line: str, catalogue: Catalogue
) -> None:
    error = refusal(catalogue, **arguments)
    assert isinstance(error, ConfigError)
    assert str(error) == line


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (
            {"train": {"host": {"name": "adamw", "momentum": 0.5}}},
            "mapping: train.host.momentum: contradicts train.host.name = 'adamw': only 'sgd' reads it",
        ),
        (
            {"train": {"seed": {"beta1": 0.5}}},
            "mapping: train.seed.beta1: contradicts train.seed.name = 'sgd': only 'adamw' reads it",
        ),
        (
            {"train": {"seed": {"name": "sgd", "beta2": 0.5, "eps": 1e-3}}},
            "2 things are wrong with the configuration:\n"
            "mapping: train.seed.beta2: contradicts train.seed.name = 'sgd': only 'adamw' reads it\n"
            "mapping: train.seed.eps: contradicts train.seed.name = 'sgd': only 'adamw' reads it",
        ),
        (
            {"train": {"clip_scope": "joint", "seed": {"clip": 0.5}}},
            "mapping: train.clip_scope: 'joint' clips host and seeds by one norm, which contradicts two "
            "limits, train.host.clip = 1.0 and train.seed.clip = 0.5; make them equal",
        ),
        (
            {"plugins": {"allow": ["fake.dist"], "block": ["Fake_Dist"]}},
            "2 things are wrong with the configuration:\n"
            "mapping: plugins.block: 'Fake_Dist' is in plugins.allow, too\n"
            "mapping: plugins.allow: no plugin 'fake.dist' is installed",
        ),
        (
            {"plugins": {"block": ["esper-morph"]}},
            "mapping: plugins.block: 'esper-morph' is Esper itself and always loaded",
        ),
        (
            {"plugins": {"allow": ["esper-morf"]}},
            "mapping: plugins.allow: no plugin 'esper-morf' is installed; did you mean 'esper-morph'?",
        ),
        (
            {"growth": {"blueprints": ["linear"]}, "blueprint": {"lowrank": {"rank": 2}}},
            "mapping: blueprint.esper/lowrank: would be ignored: growth.blueprints does not name it",
        ),
        (
            {"sink": {"columns": {"every": 2}}},
            "mapping: sink.esper/columns: would be ignored: run.sinks does not name it",
        ),
        (
            {"blueprint": {"lowrank": {"rank": 2}, "esper/lowrank": {"rank": 3}}},
            "mapping: blueprint.lowrank: is given twice: as 'lowrank' and as 'esper/lowrank'",
        ),
    ],
)
def test_keys_that_contradict_each_other(table: dict[str, Any], line: str, catalogue: Catalogue) -> None:
    assert str(refusal(catalogue, {"task": {"name": "digits"}, **table})) == line


def test_a_default_that_is_written_out_contradicts_nothing(catalogue: Catalogue) -> None:
    table = {"task": {"name": "digits"}, "train": {"host": {"name": "adamw", "momentum": 0.9, "beta1": 0.8}}}
    assert config.load(table, catalogue=catalogue).train.host.beta1 == 0.8


@pytest.mark.acceptance("CF-04")
def test_an_override_is_checked_against_what_it_overrides(catalogue: Catalogue) -> None:
    table = {"task": {"name": "digits"}, "train": {"clip_scope": "joint"}}
    config.load(table, catalogue=catalogue)
    error = refusal(catalogue, table, sets=["train.seed.clip=0.5"])
    assert "make them equal" in str(error)


@pytest.mark.acceptance("CF-04")
def test_everything_is_reported_at_once_with_its_origin(catalogue: Catalogue, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        '[task]\nname = "digits"\nwidth = 1\n'
        '[train]\nepochs = 0\nbatch_size = "big"\n[train.host]\nlr = -1\nmom = 0\n'
    )
    error = refusal(
        catalogue,
        str(file),
        sets=["growth.blueprints=['lineer']", "train.seed.beta1=0.5"],
        flags={"run.envs": 0, "policy": "radnom"},
    )
    head, *lines = str(error).splitlines()
    assert head == "9 things are wrong with the configuration:"
    assert {line.split(": ")[0] + " " + line.split(": ")[1] for line in lines} == {
        f"{file} task.width",
        f"{file} train.epochs",
        f"{file} train.batch_size",
        f"{file} train.host.lr",
        f"{file} train.host.mom",
        "--set growth.blueprints",
        "--envs run.envs",
        "--policy policy.name",
        "--set train.seed.beta1",
    }


@pytest.mark.acceptance("QU-13")
def test_what_is_required_is_never_made_up(catalogue: Catalogue) -> None:
    assert str(refusal(catalogue, {})) == (
        "mapping: task.name: is required; choose one of esper/digits, esper/spirals"
    )
    assert str(refusal(catalogue, {"task": {"width": 3}})).startswith("mapping: task.name: is required")
    assert str(refusal(catalogue, {"task": {"name": "spirals"}})) == "mapping: task.noise: is required"


@pytest.mark.acceptance("QU-13")
def test_a_complete_configuration_without_a_choice_never_guesses_a_task(catalogue: Catalogue) -> None:
    complete = dict(config.flatten(config.load("spirals", sets=["task.noise=0.1"], catalogue=catalogue)))
    for gone in [("task", "name"), ("task", "noise")]:
        table: dict[str, Any] = {}
        for keys, value in complete.items():
            if keys != gone and value is not None:
                inner = table
                for key in keys[:-1]:
                    inner = inner.setdefault(key, {})
                inner[keys[-1]] = value
        with pytest.raises(ConfigError, match=re.escape(".".join(gone))):
            config.load(table, catalogue=catalogue)


def test_the_fault_of_a_plugin_is_a_plugin_error_unless_there_is_more(
    site: Path, catalogue: Catalogue
) -> None:
    plugin(site, "acme-esper", "raise RuntimeError('no licence')", "0.3")
    broken = load()
    sets = ["growth.blueprints=['acme/ghost']"]
    error = refusal(broken, sets=sets)
    assert isinstance(error, PluginError)
    assert "--set: growth.blueprints: there is no blueprint 'acme/ghost'" in str(error)
    assert "acme-esper 0.3 (RuntimeError: no licence)" in str(error)
    assert isinstance(refusal(broken, sets=[*sets, "run.envs=0"]), ConfigError)
    assert config.load("digits", catalogue=broken).task.name == "esper/digits"


SETTINGS = """
import attrs

@attrs.frozen
class Named:
    name: str = ""

@attrs.frozen
class Odd:
    size: int = attrs.field(default=1)

    @size.validator
    def _check(self, attribute, value):
        1 / 0

@hookimpl
def esper_policies():
    yield Policy(name="acme/named", build="a:b", settings="acme_esper:Named")
    yield Policy(name="acme/odd", build="a:b", settings="acme_esper:Odd")
    yield Policy(name="acme/gone", build="a:b", settings="acme_esper:Gone")
    yield Policy(name="acme/plain", build="a:b", settings="acme_esper:Policy")
"""


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (
            ["policy.name=named"],
            "--set: policy: policy 'acme/named' of acme-esper 1.0: "
            "its settings class must not have a field 'name'",
        ),
        (
            ["policy.name=odd", "policy.size=2"],
            "--set: policy: the settings class of policy 'acme/odd' of acme-esper 1.0 fails: "
            "ZeroDivisionError('division by zero')",
        ),
        (["policy.name=gone"], "--set: policy: policy 'acme/gone' of acme-esper 1.0: cannot load "),
    ],
)
def test_a_settings_class_that_fails_is_its_plugins_fault(
    site: Path, catalogue: Catalogue, sets: list[str], line: str
) -> None:
    plugin(site, "acme-esper", SETTINGS)
    error = refusal(load(), sets=sets)
    assert isinstance(error, PluginError)
    assert str(error).startswith(line)


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize(
    ("preset", "reason"),
    [
        ("run = ", "its preset is broken: fake_esper:preset.toml: is not valid TOML"),
        ("plugins.block = ['x']", "its preset 'fake_esper:preset.toml' must not have the table [plugins]"),
    ],
)
def test_a_broken_preset_is_its_plugins_fault(site: Path, preset: str, reason: str) -> None:
    (site / "fake_esper" / "preset.toml").write_text(preset)
    error = refusal(load())
    assert isinstance(error, PluginError)
    assert str(error).startswith(f"task 'esper/digits' of esper-morph 9.9: {reason}")


def test_a_wrong_value_of_a_preset_names_the_preset(site: Path, catalogue: Catalogue) -> None:
    (site / "fake_esper" / "preset.toml").write_text("run.envs = 0")
    assert str(refusal(catalogue)) == "preset of esper/digits: run.envs: must be >= 1, not 0"


def test_strangers_blueprints_grow_only_when_they_are_chosen(site: Path, catalogue: Catalogue) -> None:
    plugin(site, "acme-esper", blueprint("acme/ghost"))
    both = load()
    assert "acme/ghost" not in config.load("digits", catalogue=both).blueprint
    chosen = config.load("digits", sets=["growth.blueprints=['ghost', 'linear']"], catalogue=both)
    assert chosen.growth.blueprints == ("acme/ghost", "esper/linear")
    assert set(chosen.blueprint) == {"acme/ghost", "esper/linear"}


SECTION_NAMES = [
    "run",
    "task",
    "policy",
    "reward",
    "device",
    "train",
    "growth",
    "plugins",
    "blueprint",
    "sink",
]
KEY_NAMES = [
    "name",
    "steps",
    "host",
    "seed",
    "lr",
    "momentum",
    "clip",
    "clip_scope",
    "sinks",
    "blueprints",
    "allow",
]
NAMES = [
    "digits",
    "esper/digits",
    "scripted",
    "random",
    "adamw",
    "joint",
    "jsonl",
    "linear",
    "lowrank",
    "rank",
]


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Tables that look like configurations, and are mostly wrong somewhere."""
    scalar = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(NAMES), st.text(max_size=3)
    )
    keys = st.one_of(st.sampled_from([*KEY_NAMES, *NAMES]), st.text(max_size=3))
    values = st.recursive(
        scalar,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=6,
    )
    table = draw(st.dictionaries(st.sampled_from(SECTION_NAMES), values, max_size=5))
    if draw(st.booleans()):
        table["task"] = {"name": "digits"}
    return table


@pytest.mark.property
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(table=tables())
def test_whatever_is_given_is_accepted_or_refused_in_words(
    table: dict[str, Any], catalogue: Catalogue
) -> None:
    try:
        loaded = config.load(table, catalogue=catalogue)
    except EsperError:
        return
    assert config.load(tomllib.loads(config.dumps(loaded)), catalogue=catalogue) == loaded
