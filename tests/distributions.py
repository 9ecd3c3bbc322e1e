"""Installed distributions for tests: what pip would write, written into a folder.

A folder that stands first on `sys.path` shadows what is really installed, so the fake `esper-morph` here
replaces the real one and a test does not depend on the furniture of `esper_plugins`.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
from click.testing import Result

Esper = Callable[..., Result]
"""Calls the command line; the fixture `esper` of `tests/cli`."""


@contextmanager
def first_on_path(folder: Path) -> Iterator[Path]:
    """Put a folder first on `sys.path`; afterwards forget everything that was imported from it."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder for distributions that stands first on `sys.path`."""
    (tmp_path / "site").mkdir()
    with first_on_path(tmp_path / "site") as folder:
        yield folder


def install(
    site: Path,
    name: str,
    version: str = "1.0",
    *,
    entry_points: Mapping[str, str],
    files: Mapping[str, str],
) -> None:
    """Write a distribution with its entry points in the group `esper.plugins` and its files."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = "".join(f"{point} = {value}\n" for point, value in entry_points.items())
    (info / "entry_points.txt").write_text(f"[esper.plugins]\n{points}")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file, text in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(dedent(text))


def plugin(site: Path, name: str, body: str, version: str = "1.0", point: str | None = None) -> None:
    """Install a distribution of one module, whose registration module is `body` after the usual imports."""
    module = name.lower().replace("-", "_").replace(".", "_")
    names = "Blueprint, Command, Device, Policy, Reward, Sink, Task, Term, hookimpl"
    source = f"from esper_core.plugin import {names}\n{dedent(body)}"
    install(site, name, version, entry_points={point or module: module}, files={f"{module}.py": source})


def blueprint(name: str) -> str:
    """Body of a registration module that offers one blueprint."""
    return f"""
@hookimpl
def esper_blueprints():
    yield Blueprint(name={name!r}, build="nowhere:build", fits=["vector"], summary="A test")
"""


def fake_esper(site: Path) -> None:
    """Install a small `esper-morph`: every default that the core asks for, and settings of many shapes."""
    install(
        site,
        "esper-morph",
        "9.9",
        entry_points={"esper": "fake_esper"},
        files={
            "fake_esper/__init__.py": REGISTRATION,
            "fake_esper/settings.py": SETTINGS,
            "fake_esper/preset.toml": PRESET,
            "fake_esper/shipped.toml": SHIPPED,
        },
    )


REGISTRATION = """
    from esper_core.plugin import Blueprint, Device, Policy, Reward, Sink, Task, Term, hookimpl

    BUILD = "fake_esper.absent:build"
    SETTINGS = "fake_esper.settings:"

    @hookimpl
    def esper_blueprints():
        yield Blueprint(name="esper/linear", build=BUILD, fits={"vector"})
        yield Blueprint(name="esper/lowrank", build=BUILD, fits={"vector"}, settings=SETTINGS + "LowRank")

    @hookimpl
    def esper_rewards():
        yield Reward(name="esper/shipped", build="fake_esper:shipped.toml")

    @hookimpl
    def esper_terms():
        yield Term(name="esper/score", build=BUILD)
        yield Term(name="esper/rent", build=BUILD, settings=SETTINGS + "Rent")

    @hookimpl
    def esper_policies():
        yield Policy(name="esper/static", build=BUILD)
        yield Policy(name="esper/random", build=BUILD)
        yield Policy(name="esper/scripted", build=BUILD, settings=SETTINGS + "Scripted")

    @hookimpl
    def esper_devices():
        yield Device(name="esper/single", build=BUILD, settings=SETTINGS + "Single")

    @hookimpl
    def esper_tasks():
        preset = "fake_esper:preset.toml"
        yield Task(name="esper/digits", build=BUILD, settings=SETTINGS + "Digits", preset=preset)
        yield Task(name="esper/spirals", build=BUILD, settings=SETTINGS + "Spirals")

    @hookimpl
    def esper_sinks():
        yield Sink(name="esper/jsonl", build=BUILD)
        yield Sink(name="esper/columns", build=BUILD, settings=SETTINGS + "Columns")
    """

SETTINGS = """
    from typing import Literal

    from attrs import field, frozen
    from attrs.validators import ge

    @frozen(kw_only=True)
    class LowRank:
        rank: int = field(default=4, validator=ge(1))

    @frozen(kw_only=True)
    class Rent:
        begins: float = field(default=0.25, validator=ge(0.0))
        full: float = 0.5

    @frozen(kw_only=True)
    class Step:
        epoch: int = field(validator=ge(0))
        op: Literal["germinate", "prune"]
        slot: str | None = None

    @frozen(kw_only=True)
    class Scripted:
        steps: tuple[Step, ...] = ()
        repeat: bool = False

    @frozen(kw_only=True)
    class Single:
        dtype: Literal["float32", "float64"] = "float32"
        chunk_mib: int | None = None

    @frozen(kw_only=True)
    class Digits:
        width: int = field(default=32, validator=ge(2))

    @frozen(kw_only=True)
    class Spirals:
        noise: float
        arms: int | Literal["many"] = 2

    @frozen(kw_only=True)
    class Columns:
        every: int = 1
    """

PRESET = """
    [run]
    rounds = 2

    [policy]
    name = "scripted"
    repeat = true

    [[policy.steps]]
    epoch = 3
    op = "germinate"
    slot = "first"

    [[policy.steps]]
    epoch = 5
    op = "prune"

    [train]
    epochs = 12

    [train.host]
    momentum = 0.5

    [blueprint.lowrank]
    rank = 6
    """

SHIPPED = """
    [shipped.score]
    component = "esper/score"

    [shipped.rent]
    component = "rent"
    weight = -0.1
    full = 0.75

    [cheap.score]
    component = "esper/score"
    weight = 2.0
    """
