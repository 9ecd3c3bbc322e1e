"""The public names are declared, typed and stable; what must be given has no default."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import attrs
import pytest

import esper_core
import esper_core.plugin
from esper_core.plugin import specs
from esper_core.plugin.hooks import HOOKS

SNAPSHOT = Path(__file__).parent / "public_surface.txt"
MODULES = [esper_core, esper_core.plugin]


@pytest.mark.acceptance("CF-05")
def test_the_public_names_are_those_of_the_snapshot() -> None:
    names = [f"{module.__name__}.{name}" for module in MODULES for name in dir(module)]
    written = SNAPSHOT.read_text().splitlines()
    assert names == written, f"a change of the public surface is a decision: write it into {SNAPSHOT}"


@pytest.mark.acceptance("CF-05")
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_there_and_known_to_type_checkers(module: ModuleType) -> None:
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == module._HOME
    for name, home in module._HOME.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.acceptance("QU-13")
@pytest.mark.parametrize("record", HOOKS.values(), ids=lambda record: record.__name__)
def test_a_record_without_a_required_field_is_refused(record: type[specs.Component]) -> None:
    build = "acme:all.toml" if record is specs.Reward else "acme:build"
    full = {"name": "acme/a", "build": build} | ({"fits": ["map"]} if record is specs.Blueprint else {})
    assert record(**full).summary == ""
    required = {field.name for field in attrs.fields(record) if field.default is attrs.NOTHING}
    assert required == set(full)
    for name in required:
        with pytest.raises(TypeError, match=name):
            record(**{key: value for key, value in full.items() if key != name})
