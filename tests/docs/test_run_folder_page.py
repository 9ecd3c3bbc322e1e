"""`docs/run-folder.md` against the folder of a real run."""

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from pages import code, page
from worlds import cast_of, program, script, spirals

import esper_core
from esper_core.runner.compare import ARMS, Arm

PAGE = page("docs/run-folder.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = ["task.samples=60", "train.epochs=6", "train.batch_size=12", "run.envs=1"]
    return esper_core.run("spirals", sets=sets, out=tmp_path_factory.mktemp("runs") / "run").folder


def listed(heading: str, number: int = 0) -> list[str]:
    """First cells of the n-th table under a heading."""
    tables = [table for table in PAGE.tables if table.heading == heading]
    return [code(row[0]) for row in tables[number].rows]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_every_file_of_a_run_is_listed_and_every_listed_file_is_there(folder: Path) -> None:
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {re.sub(r"round-\d{6}", "round-NNNNNN", path) for path in there} == set(listed("Files"))
    assert (folder / "checkpoints" / "round-000000").is_dir()


def test_the_keys_of_the_manifest_are_listed(folder: Path) -> None:
    assert list(read(folder / "manifest.json")) == listed("The manifest")


def test_the_keys_of_the_fingerprint_are_listed() -> None:
    cast = cast_of(program(spirals()), script())
    assert list(cast.device.fingerprint) == listed("The manifest", 1)


@pytest.mark.acceptance("RL-08")
def test_the_report_has_every_field_of_an_arm(folder: Path) -> None:
    report = read(folder / "report.json")
    assert set(report) == {"score", "arms", "modes"}
    assert tuple(report["arms"]) == ARMS
    assert listed("The report") == [field.name for field in attrs.fields(Arm)]
    for arm in report["arms"].values():
        assert list(arm) == listed("The report")


def test_the_statuses_are_those_that_the_code_writes() -> None:
    (row,) = (row for row in PAGE.tables[1].rows if row[0] == "`status`")
    described = re.findall(r"`(\w+)`", row[1])
    source = "".join(path.read_text() for path in Path(esper_core.__path__[0], "runner").rglob("*.py"))
    written = {*re.findall(r'\.mark\("(\w+)"', source), *re.findall(r'"status": "(\w+)"', source)}
    assert set(described) == written
