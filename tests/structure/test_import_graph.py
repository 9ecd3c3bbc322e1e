"""Imports point one way, and stand where everybody sees them."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from source_code import ROOT, Module, calls_of, functions, imports, in_module, modules

import esper_core.plugin

ORDER = (
    "esper_core.errors",
    "esper_core.state",
    "esper_core.rules",
    "esper_core.model",
    "esper_core.plugin",
    "esper_core.phases",
    "esper_core.runner",
    "esper_core",
    "esper_core.cli",
    "esper_core.__main__",
)
"""Rooms of the core, the lowest first; `esper_core` itself is the Python API that the command line wears."""
TESTING = "esper_core.testing"
SURFACE = "esper_core.plugin"
"""Names what an author needs from any room below the runner, and loads it on first use."""
RESOLVER = "esper_core.plugin.imports"
"""The one module, beside `__getattr__` of the public surfaces, that imports by name."""


def edges() -> dict[str, set[str]]:
    """What each module imports of the two packages, for type checkers or for good."""
    return {
        module.name: {
            found
            for _, target, name in imports(module.tree)
            if (found := in_module(target, name)).split(".")[0] in ("esper_core", "esper_plugins")
        }
        for module in modules()
    }


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


@pytest.mark.acceptance("CF-01", "QU-03")
def test_every_room_of_the_core_has_its_place_in_the_order() -> None:
    rooms = {module.room for module in modules() if module.name.startswith("esper_core")}
    assert rooms == {*ORDER, TESTING}


@pytest.mark.acceptance("CF-01", "QU-03")
def test_imports_point_down_only() -> None:
    """The modules of a room import no higher room; the public surface alone may name those up to `phases`."""
    rank = {name: number for number, name in enumerate((*ORDER, TESTING))}
    reach = {name: rank[room(name)] for name in edges() if name.startswith("esper_core")}
    reach[SURFACE] = rank["esper_core.runner"] - 1
    upward = [
        f"{module} imports {target}"
        for module, targets in edges().items()
        for target in targets
        if module in reach and (room(target) not in rank or rank[room(target)] > reach[module])
    ]
    assert upward == []


@pytest.mark.acceptance("CF-01", "QU-03")
def test_the_public_surface_loads_nothing_by_itself() -> None:
    """What it imports at its top is for type checkers; names above its room could otherwise make a circle."""
    (surface,) = (module for module in modules() if module.name == SURFACE)
    at_once = [node for node in surface.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {target for node in at_once for _, target, _ in imports(node)} == {"importlib", "typing"}


@pytest.mark.acceptance("CF-01", "QU-03")
def test_nothing_imports_in_a_circle() -> None:
    try:
        order = tuple(TopologicalSorter(edges()).static_order())
    except CycleError as error:
        pytest.fail(f"circle of imports: {' -> '.join(error.args[1])}")
    assert set(order) >= {module.name for module in modules()}


@pytest.mark.acceptance("CF-01")
def test_nothing_imports_the_testing_room_but_itself() -> None:
    users = {m for m, targets in edges().items() for t in targets if room(t) == TESTING}
    assert {room(user) for user in users} <= {TESTING}


def test_the_core_does_not_know_what_esper_brings() -> None:
    """Neither by import nor by an import string; names of records, such as a default, are data."""
    known = [
        module.at(node)
        for module in modules()
        if module.name.startswith("esper_core")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("esper_plugins.", "esper_plugins:"))
    ]
    assert known == []
    assert [
        m for m, targets in edges().items() if m.startswith("esper_core") for t in targets if "_plugins" in t
    ] == []


def test_what_esper_brings_uses_the_public_surface_only() -> None:
    """A built-in plugin imports what a stranger's may: names of `esper_core.plugin`."""
    public = set(dir(esper_core.plugin))
    wrong = [
        f"{module.at(node)}: {target}.{name}"
        for module in modules()
        if module.name.startswith("esper_plugins")
        for node, target, name in imports(module.tree)
        if target.startswith("esper_core") and not (target == "esper_core.plugin" and name in public)
    ]
    assert wrong == []


def test_so_does_the_external_package() -> None:
    public = set(dir(esper_core.plugin))
    files = sorted((ROOT / "tests" / "external").rglob("*.py"))
    assert files
    used = {
        (target, name)
        for path in files
        for _, target, name in imports(ast.parse(path.read_text()))
        if target.startswith(("esper_core", "esper_plugins"))
    }
    assert used
    assert all(target == "esper_core.plugin" and name in public for target, name in used)


@pytest.mark.acceptance("CF-01", "QU-02")
def test_imports_stand_at_the_top() -> None:
    """The command line may import late, to be quick; the resolver of import strings is there to."""
    late = [
        module.at(node)
        for module in modules()
        if not module.name.startswith("esper_core.cli")
        for function in functions(module.tree)
        for node, _, _ in imports(function)
    ]
    assert late == []


@pytest.mark.acceptance("CF-01", "QU-02")
def test_only_the_resolver_and_the_lazy_surfaces_import_by_name() -> None:
    callers = {
        (module.name, _enclosing(module, call))
        for module in modules()
        for call in calls_of(module.tree, "import_module", "__import__")
    }
    assert callers == {
        ("esper_core", "__getattr__"),
        ("esper_core.plugin", "__getattr__"),
        (RESOLVER, "resolve"),
    }


def _enclosing(module: Module, call: ast.Call) -> str:
    return next(f.name for f in functions(module.tree) if f.lineno <= call.lineno <= (f.end_lineno or 0))
