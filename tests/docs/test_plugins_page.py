"""`docs/plugins.md` has every hook, record, field, interface and public name, and the real example."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from pages import ROOT, code, page, words_of_code

import esper_core.plugin as public
from esper_core.plugin import protocols
from esper_core.plugin.hooks import HOOKS
from esper_core.plugin.imports import GROUP
from esper_core.plugin.specs import API_LEVEL, Component
from esper_core.state.settings import GrowthSettings, LearnSettings, OptimizerSettings, TrainSettings

PAGE = page("docs/plugins.md")
EXAMPLE = ROOT / "tests" / "external" / "acme-esper"
SETTINGS = (GrowthSettings, TrainSettings, OptimizerSettings, LearnSettings)


def test_the_example_on_the_page_is_the_package_under_tests() -> None:
    shown = {}
    for block in PAGE.blocks:
        name, _, text = block.text.partition("\n")
        if name.startswith("# acme-esper/"):
            shown[name.removeprefix("# acme-esper/")] = text
    files = [path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")]
    assert shown == {str(path.relative_to(EXAMPLE)): path.read_text() for path in files}


@pytest.mark.acceptance("CF-05")
def test_every_hook_is_there_with_its_record() -> None:
    table = PAGE.table("Hooks")
    assert {code(row[0]): code(row[1]) for row in table.rows} == {
        hook: r.__name__ for hook, r in HOOKS.items()
    }
    assert f"group `{GROUP}`" in PAGE.text


@pytest.mark.acceptance("CF-05")
def test_every_field_of_every_record_is_there_with_its_default() -> None:
    common = {name: _default(field) for name, field in attrs.fields_dict(Component).items()}
    written = {code(row[0]): row[1].strip("`") for row in PAGE.table("Fields of every record").rows}
    assert written == common
    extra = {
        f"{record.__name__}.{name}": _default(field)
        for record in HOOKS.values()
        for name, field in attrs.fields_dict(record).items()
        if name not in common
    }
    assert {code(row[0]): row[1].strip("`") for row in PAGE.table("Fields of some records").rows} == extra


def _default(field: Any) -> str:
    if field.default is attrs.NOTHING:
        return "required"
    return "None" if field.default is None else f'"{field.default}"'


@pytest.mark.parametrize("name", ["Policy", "Device", "Sink"])
def test_every_member_of_an_interface_is_there(name: str) -> None:
    table = PAGE.table(name)
    assert [code(row[0]) for row in table.rows] == list(members(getattr(protocols, name)))


def members(protocol: type) -> Iterator[str]:
    for name, member in vars(protocol).items():
        if isinstance(member, property):
            yield name
        elif inspect.isfunction(member) and not name.startswith("_"):
            yield f"{name}({', '.join(p for p in inspect.signature(member).parameters if p != 'self')})"


@pytest.mark.acceptance("CF-05")
def test_every_public_name_is_there_once() -> None:
    names = [name for row in PAGE.table("The public names").rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(names) == sorted(dir(public))


@pytest.mark.acceptance("CF-05")
def test_every_public_record_is_there_with_its_fields() -> None:
    found: dict[str, Any] = {name: getattr(public, name) for name in dir(public)}
    records = {
        name: tuple(getattr(kind, "_fields", ())) or tuple(field.name for field in attrs.fields(kind))
        for name, kind in found.items()
        if isinstance(kind, type)
        and (attrs.has(kind) or hasattr(kind, "_fields"))
        and not issubclass(kind, Component)
        and kind not in SETTINGS
    }
    table = PAGE.table("Fields of the records")
    assert {code(row[0]): tuple(re.findall(r"`(\w+)`", row[1])) for row in table.rows} == records


def test_the_level_of_the_interface_is_the_one_that_is_spoken() -> None:
    assert f"This version speaks level {API_LEVEL}." in " ".join(PAGE.text.split())


def test_every_kind_of_feature_is_named() -> None:
    from_code = public.Blueprint(name="a/b", build="a:b", fits={"vector", "map", "sequence"}).fits
    assert from_code <= words_of_code(PAGE.text)
