"""The source of both packages as syntax trees, for the tests of this folder."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[2]
PACKAGES = ("esper_core", "esper_plugins")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@frozen
class Module:
    """One file of a package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """Package, and the first package or module in it: `esper_core.rules`."""
        return ".".join(self.name.split(".")[:2])

    def at(self, node: ast.AST) -> str:
        """`file:line`, for messages."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


@cache
def modules() -> tuple[Module, ...]:
    """Every module of both packages."""
    return tuple(
        Module(_name(path), path, ast.parse(path.read_text(encoding="utf-8")))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    )


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """Every function in a tree, methods and inner ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, FunctionNode))


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str, str | None]]:
    """Every import statement in a tree: the statement, the module, and the name that is taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            for alias in node.names:
                yield node, node.module or "", alias.name


def in_module(target: str, name: str | None) -> str:
    """The module that an import of `name` from `target` depends on."""
    known = {module.name for module in modules()}
    return f"{target}.{name}" if name and f"{target}.{name}" in known else target


def calls_of(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """Calls of builtins or functions by bare name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def is_record(node: ast.ClassDef) -> bool:
    """Whether a class is an attrs record or a named tuple: its fields are its annotated names."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    frozen_ = any("frozen" in text or "attrs.define" in text for text in decorators)
    return frozen_ or any(ast.unparse(base) in ("NamedTuple", "TypedDict") for base in node.bases)


def fields(node: ast.ClassDef) -> dict[str, ast.AnnAssign]:
    """Fields of a record by name."""
    return {
        item.target.id: item
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item.annotation)
    }


def records() -> Iterator[tuple[Module, ast.ClassDef]]:
    """Every record of both packages."""
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and is_record(node):
                yield module, node
