"""The README: what it shows of the demo could come from this version, and what it says of packages is so."""

import re
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pages import ROOT, page

import esper_core
from esper_core.plugin.loader import load as load_plugins
from esper_core.runner import config
from esper_core.runner.display.picture import LEGEND, TITLES

README = page("README.md")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PICTURE = ROOT / "docs" / "growth.svg"


def table() -> dict[str, tuple[float, int, int]]:
    """The comparison as the README shows it: score, parameters and epochs by title."""
    rows = re.findall(r"^│ (.+?) +│ +(\S+) │ +\S+ │ +(\S+) │ +(\d+) │$", README.text, re.MULTILINE)
    return {
        title: (float(score), int(size.replace(",", "")), int(epochs)) for title, score, size, epochs in rows
    }


@pytest.fixture(scope="module")
def preset() -> config.Config:
    return config.load("digits", catalogue=load_plugins(no_plugins=True))


def test_the_table_has_the_sizes_that_this_version_gives(preset: config.Config) -> None:
    facts = esper_core.inspect("digits").facts
    host = facts["host"]["parameters"]
    planted = [step for step in steps(preset) if step.op == "germinate"]
    grown = host + sum(_cost(facts, step.slot, step.blueprint) for step in planted)
    everywhere = host + sum(min(slot["seeds"].values()) for slot in facts["slots"])
    expected = dict(zip(TITLES, (host, everywhere, grown, grown), strict=True))
    assert {title: size for title, (_, size, _) in table().items()} == {
        TITLES[k]: v for k, v in expected.items()
    }
    assert {epochs for _, _, epochs in table().values()} == {preset.train.epochs}


def steps(preset: config.Config) -> tuple[Any, ...]:
    """The script of the demo."""
    found: Any = preset.policy.settings
    return tuple(found.steps)


def _cost(facts: dict[str, Any], slot: str, blueprint: str) -> int:
    return next(int(s["seeds"][blueprint]) for s in facts["slots"] if s["name"] == slot)


def test_the_words_about_the_table_are_true_of_it() -> None:
    """Growing beat the static host and neither of the others; if that changes, so must the text."""
    score = {name: table()[title][0] for name, title in TITLES.items()}
    assert score["static"] < score["grown"] < min(score["everywhere"], score["twin"])
    text = " ".join(README.text.split())
    assert "Growing beat the host that did not grow" in text
    assert "It did not beat the other two" in text
    report = esper_core.inspect("digits").facts["data"]["report"]
    assert f"the {report} samples of the report split" in text


def test_the_lines_of_the_demo_are_those_of_this_version(preset: config.Config) -> None:
    assert LEGEND in README.text
    size = f"{preset.run.envs} hosts x {preset.train.epochs} epochs"
    assert f"{preset.task.name}: {size}, policy {preset.policy.name}, seed 0" in README.text
    for step in steps(preset):
        assert re.search(
            rf"^    {step.op} {step.slot} .* in {preset.run.envs} hosts$", README.text, re.MULTILINE
        ), step.op


def test_the_picture_is_of_the_same_run() -> None:
    assert "docs/growth.svg" in README.links
    svg = "".join(ElementTree.parse(PICTURE).getroot().itertext()).replace("\xa0", " ")
    assert PICTURE.stat().st_size < 100_000
    for title, (score, size, _) in table().items():
        assert title in svg
        assert f"{score:.4f}" in svg
        assert f"{size:,}" in svg


def test_names_and_versions_are_those_of_the_package() -> None:
    assert f"`{PROJECT['name']}`" in README.text
    assert "`pip install esper` gets an unrelated game library" in README.text
    assert PROJECT["requires-python"] == ">=3.11"
    assert "Python 3.11 or newer" in README.text
    (torch,) = (d for d in PROJECT["dependencies"] if d.startswith("torch"))
    assert f"torch {torch.removeprefix('torch>=')} or newer" in README.text
    pinned = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert f"torch=={pinned[1]}" in README.text
    assert PROJECT["license"] in README.text


def test_the_two_commands_come_first() -> None:
    first = README.blocks[0]
    assert first.text == "$ make demo\n$ make test\n"


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)$", page("CHANGELOG.md").text, re.MULTILINE)
    assert versions[0] == PROJECT["version"]


def test_the_source_distribution_has_every_page() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert {"docs", "README.md", "CHANGELOG.md"} <= set(build["include"])
    assert Path(ROOT / PROJECT["readme"]) == README.path
