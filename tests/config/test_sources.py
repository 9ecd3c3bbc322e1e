"""Files, directories, names of tasks and `--set` texts: what cannot be read is said with path and line."""

import re
from pathlib import Path

import pytest
from distributions import blueprint, plugin

from esper_core.errors import ConfigError
from esper_core.plugin.catalogue import Catalogue
from esper_core.runner import config


def refused(catalogue: Catalogue, source: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.load(source, catalogue=catalogue)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.catalogue_for(source)  # type: ignore[arg-type]


def test_a_file_is_found_by_its_ending_by_its_existence_or_as_a_path(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    for name in ("my.toml", "my.conf"):
        (tmp_path / name).write_text('task.name = "digits"\nrun.seed = 4')
        for source in (str(tmp_path / name), tmp_path / name):
            assert config.load(source, catalogue=catalogue).run.seed == 4


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"a = 1\nb = \n", "line 2"),
        (b"[run]\nseed = 1\nseed = 2\n", "line 3"),
        (b"[run]\n[run]\n", "line 2"),
        (b"a = " + b"[" * 5000, "recursion"),
    ],
)
def test_a_malformed_file(text: bytes, line: str, catalogue: Catalogue, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=rf"my\.toml: is not valid TOML: .*{line}"):
        config.load(file, catalogue=catalogue)


def test_a_file_that_is_not_text(catalogue: Catalogue, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    refused(catalogue, str(file), f"{file}: line 2: is not UTF-8 text")


def test_a_missing_file_is_answered_with_its_neighbour(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").touch()
    missing = tmp_path / "experimnt.toml"
    refused(catalogue, str(missing), f"{missing}: there is no such file; did you mean 'experiment.toml'?")
    nowhere = tmp_path / "no" / "where.toml"
    refused(catalogue, nowhere, f"{nowhere}: there is no such file")


def test_a_file_that_cannot_be_read(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "my.toml"
    refused(catalogue, inside, f"{inside}: cannot be read: Not a directory")


def test_directories(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my.toml", "runs", "digits"):
        (tmp_path / name).mkdir()
    refused(catalogue, "my.toml", "my.toml: is a directory, and a TOML file is expected")
    with pytest.raises(ConfigError, match=r"runs: is a directory, .*Next: `esper resume runs`"):
        config.load("runs", catalogue=catalogue)
    assert config.load("digits", catalogue=catalogue).task.name == "esper/digits"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("epochs", "expected KEY=VALUE, for example --set train.epochs=8"),
        ("=3", "expected KEY=VALUE"),
        ("train.epochs=", "expected KEY=VALUE"),
        ("", "expected KEY=VALUE"),
        ("train..epochs=3", "'train..epochs' is not a key; keys are dotted, such as train.epochs"),
        ("a b=3", "'a b' is not a key"),
        ("growth.slots=['a'", "the value is not valid TOML"),
        ('run.level="debug', "the value is not valid TOML"),
        ("growth.slots=[a]", "the value is not valid TOML"),
        ("run.seed=1\nrun.envs=2", "expected one value"),
    ],
)
def test_a_set_that_is_none(text: str, reason: str, catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load("digits", sets=[text], catalogue=catalogue)
    assert str(caught.value).startswith(f"--set {text!r}: {reason}")


def test_a_policy_file_that_cannot_be_read(catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: there is no such file"):
        config.load("digits", flags={"policy": "absent.toml"}, catalogue=catalogue)


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize(
    ("source", "arguments", "loaded"),
    [
        ("digits", {}, True),
        ("digits", {"no_plugins": True}, False),
        ("digits", {"sets": ["plugins.block=['acme-esper']"]}, False),
        ("digits", {"sets": ["plugins.allow=['other']"]}, False),
        ({"plugins": {"block": ["acme-esper"]}}, {}, False),
        ({"plugins": {"block": ["acme-esper"]}}, {"sets": ["plugins.block=[]"]}, True),
        ({"plugins": {"blok": ["acme-esper"]}}, {}, False),
        ({"plugins": {"block": "acme-esper"}}, {}, False),
    ],
)
def test_plugins_are_admitted_before_they_are_imported(
    site: Path, source: object, arguments: dict, loaded: bool
) -> None:
    plugin(site, "acme-esper", blueprint("acme/ghost"))
    found = config.catalogue_for(source, **arguments)  # type: ignore[arg-type]
    assert ("acme/ghost" in found.names("blueprint")) is loaded
