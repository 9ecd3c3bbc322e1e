"""The README: what it shows of the demo could come from this version, and what it says of packages is so."""

import re
import tomllib
from pathlib import Path
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


def table() -> dict[str, tuple[float, float, int]]:
    """The comparison as the README shows it: score, mean of all and parameters by title."""
    number = r"(\S+) ± \S+"
    rows = re.findall(rf"^│ (.+?) +│ {number} │ {number} │ +(\S+) │$", README.text, re.MULTILINE)
    return {
        title: (float(score), float(mean), int(size.replace(",", ""))) for title, score, mean, size in rows
    }


def size_of(arm: str) -> int:
    return table()[TITLES[arm]][2]


@pytest.fixture(scope="module")
def preset() -> config.Config:
    return config.load("digits", catalogue=load_plugins(no_plugins=True))


def test_the_table_has_the_sizes_that_this_version_gives() -> None:
    facts = esper_core.inspect("digits").facts
    host, costs = facts["host"]["parameters"], {s["seeds"]["esper/lowrank"] for s in facts["slots"]}
    (cost,) = costs
    size = {name: table()[title][2] for name, title in TITLES.items()}
    assert size["static"] == host
    assert size["everywhere"] == host + cost * len(facts["slots"])
    assert size["twin"] == size["grown"]
    assert (size["grown"] - host) % cost == 0
    assert size["static"] < size["grown"] <= size["everywhere"]


def test_the_words_about_the_table_are_true_of_it(preset: config.Config) -> None:
    """Who beat whom, by both columns; if that changes, so must the text."""
    score, mean = ({name: table()[title][k] for name, title in TITLES.items()} for k in (0, 1))
    assert score["grown"] > score["static"] + 0.05
    assert mean["grown"] > mean["static"] + 0.05
    text = " ".join(README.text.split())
    assert "Growing beat the hosts that did not grow by a wide margin" in text
    assert score["everywhere"] > score["grown"]
    assert mean["everywhere"] > mean["grown"] > mean["twin"]
    assert size_of("everywhere") > size_of("grown")
    assert "Small seeds in every slot from the start did better still, above all in the mean" in text
    assert "its best is as good, and its mean is not" in text
    assert abs(score["twin"] - score["grown"]) < 0.03
    report = esper_core.inspect("digits").facts["data"]["report"]
    assert f"the {report} samples of the report split" in text
    assert f"trained the same {preset.run.envs} hosts" in text


def test_the_lines_of_the_demo_are_those_of_this_version(preset: config.Config) -> None:
    assert LEGEND in README.text
    size = f"{preset.run.envs} hosts x {preset.train.epochs} epochs"
    assert f"{preset.task.name}: {size}, policy {preset.policy.name}, seed 0" in README.text
    rounds = preset.run.rounds
    returns = re.findall(rf"^round +(\d+)/{rounds}  return +(-?[\d.]+)", README.text, re.MULTILINE)
    assert int(returns[0][0]) == 1
    assert int(returns[-1][0]) == rounds
    assert float(returns[-1][1]) > 2 * float(returns[0][1]), "the controller of the demo learns"


def test_the_picture_is_of_the_same_run() -> None:
    assert "docs/growth.svg" in README.links
    svg = "".join(ElementTree.parse(PICTURE).getroot().itertext()).replace("\xa0", " ")
    assert PICTURE.stat().st_size < 100_000
    for title, (score, _, size) in table().items():
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
