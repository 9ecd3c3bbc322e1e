"""Nothing is there that nobody uses: no field, no option, no function."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import pytest
from settings_classes import SETTINGS
from source_code import ROOT, Module, fields, modules, records

import esper_core
import esper_core.plugin
from esper_core.plugin.hooks import HOOKS

WRITTEN_WHOLE = {
    ("Arm", "selected"): "report.json",
    ("GradientStatistics", "largest"): "events of the kind gradients",
    ("GradientStatistics", "smallest"): "events of the kind gradients",
    ("RoundSummary", "learning"): "events of the kind round",
}
"""Fields that no line of code names, because the record is written as a whole; `tests/docs` checks that."""
CALLED_FROM_OUTSIDE = {
    "forward",  # by torch
    "backward",  # by torch
    "list_commands",  # by click
    "get_command",  # by click
    "format_commands",  # by click
    "on_broken_pipe",  # by rich
    "__getattr__",
    "__dir__",
    "ESPER_API",  # by the loader, by its name as a text
}


@pytest.mark.acceptance("RL-08", "X-12", "AB-05")
def test_every_field_of_every_record_is_read_somewhere() -> None:
    read = _names_read(modules())
    tests = [Module(p.stem, p, ast.parse(p.read_text())) for p in sorted((ROOT / "tests").rglob("*.py"))]
    by_tests = _names_read(tests)
    unread = {
        (node.name, name): module.at(field)
        for module, node in records()
        for name, field in fields(node).items()
        if name not in read and not (module.room == "esper_core.testing" and name in by_tests)
    }
    assert unread.keys() == WRITTEN_WHOLE.keys(), unread


@pytest.mark.acceptance("X-12")
def test_every_function_class_and_constant_is_used() -> None:
    """By other code, by an import string of a hook, or as a name of the public surface."""
    asked = {module.name: _used_in(module) | _imported_by(module) for module in modules()}
    surface = {*esper_core._HOME, *esper_core.plugin._HOME, *HOOKS} | CALLED_FROM_OUTSIDE
    unused = [
        f"{module.at(node)} {name}"
        for module in modules()
        if module.room != "esper_core.testing"
        for name, node in _definitions(module)
        if name not in surface and not _is_registered(node) and not _is_used(module, name, node, asked)
    ]
    assert unused == []


@pytest.mark.acceptance("X-12", "CF-05")
def test_everything_in_the_testing_room_is_used_by_tests_or_shown_on_a_page() -> None:
    users = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
    words = _words_used() | {word for path in users for word in re.findall(r"\w+", path.read_text())}
    unused = [
        f"{module.at(node)} {name}"
        for module in modules()
        if module.room == "esper_core.testing"
        for name, node in _definitions(module)
        if name not in words
    ]
    assert unused == []


@pytest.mark.acceptance("X-12", "CF-02")
def test_no_code_stands_behind_a_way_out() -> None:
    """No statement follows a return, raise, break or continue in its block, and no branch is constant."""
    dead = []
    for module in modules():
        for node in ast.walk(module.tree):
            for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
                for statement in block[:-1] if isinstance(block, list) else ():
                    if isinstance(statement, ast.Return | ast.Raise | ast.Break | ast.Continue):
                        dead.append(module.at(statement))
            if isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(node.test, ast.Constant):
                dead.append(module.at(node))
    assert dead == []


@pytest.mark.acceptance("X-12", "HE-03", "RL-08")
def test_every_option_is_read_by_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by name in the source, but in fact: reads of the records are counted while runs go on.

    What checks, copies or writes a configuration as a whole does not count as a reader.
    """
    read: set[tuple[str, str]] = set()
    for record in SETTINGS:
        monkeypatch.setattr(record, "__getattribute__", _counting(record, read))
    tiny = ["train.epochs=6", "train.batch_size=12", "run.envs=1", "growth.budget=500"]
    small = [*tiny, "task.samples=60"]
    adamw, sgd = ({g: {"name": name} for g in ("host", "seed")} for name in ("adamw", "sgd"))
    for name, train in (("adamw", adamw), ("sgd", sgd)):
        esper_core.run({"task": {"name": "spirals"}, "train": train}, sets=small, out=tmp_path / name)
    for name in ("heuristic", "plant-lowest-rank", "probe-and-switch", "lstm"):
        esper_core.run("spirals", policy=name, sets=small, out=tmp_path / name)
    esper_core.run("digits", policy="oracle", sets=[*tiny, "train.train_batches=2"], out=tmp_path / "oracle")
    modes = ["escrow", "shaped", "basic", "basic_plus", "sparse", "minimal", "simplified"]
    helped = {"shapley": {"hindsight": {"weight": 1.0}}}
    for name, section in (("contribution", {"modes": modes}), ("shapley", helped), ("loss", {})):
        table = {
            "task": {"name": "spirals"},
            "policy": {"name": "random"},
            "reward": {"name": name, **section},
        }
        envs = f"run.envs={len(modes)}"
        esper_core.run(table, sets=[*small, "growth.training_dwell=0.0", envs], out=tmp_path / name)
    esper_core.inspect("digits")
    options = {(r.__name__, field.name) for r in SETTINGS for field in attrs.fields(r)}
    assert not options - read


def _counting(record: type, read: set[tuple[str, str]]) -> Any:
    names = {field.name for field in attrs.fields(record)}

    def get(self: object, name: str) -> Any:
        if name in names and _reads(sys._getframe(1)):
            read.add((record.__name__, name))
        return object.__getattribute__(self, name)

    return get


def _reads(frame: FrameType | None) -> bool:
    """Whether a frame is code of Esper that wants the value, and not one that checks or copies the record."""
    path = Path(frame.f_code.co_filename) if frame is not None else Path()
    ours = any((ROOT / package) in path.parents for package in ("esper_core", "esper_plugins"))
    return (
        ours
        and path.name != "strict.py"
        and frame is not None
        and frame.f_code.co_name != "__attrs_post_init__"
    )


def _names_read(sources: Any) -> set[str]:
    return {
        node.attr
        for module in sources
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def _words_used() -> set[str]:
    """Names that some code reads, imports, or names in an import string."""
    return {name for module in modules() for name in _used_in(module) | _imported_by(module)}


def _used_in(module: Module) -> set[str]:
    """Names that a module reads, and attributes."""
    read = {n.id for n in ast.walk(module.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return read | {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}


def _imported_by(module: Module) -> set[str]:
    """`name`, `module.name` and `module:name`, where a module asks another one for a name."""
    found: set[str] = set()
    called = {
        alias.asname: alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and "_HOME" not in _used_in(module):
            found.update(word for alias in node.names for word in (alias.name, f"{node.module}:{alias.name}"))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{called.get(node.value.id, node.value.id)}.{node.attr}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.findall(r"^[\w.]+:\w+$", node.value))
    return found


def _is_used(module: Module, name: str, node: ast.stmt, asked: Mapping[str, set[str]]) -> bool:
    """Whether anybody reads a name: its own module, or another one that asks this module for it."""
    if node not in module.tree.body:  # a method, reached through any object
        return any(name in attributes for attributes in asked.values())
    wanted = {f"{module.name}:{name}", f"{module.name.split('.')[-1]}.{name}"}
    outside = (words for other, words in asked.items() if other != module.name)
    return name in _used_in(module) or any(wanted & words for words in outside)


def _definitions(module: Module) -> Iterator[tuple[str, ast.stmt]]:
    """Functions, classes and constants of a module, and methods of its classes."""
    bodies: list[list[ast.stmt]] = [module.tree.body]
    bodies += [node.body for node in module.tree.body if isinstance(node, ast.ClassDef)]
    for number, body in enumerate(bodies):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not re.fullmatch(r"__\w+__", node.name):
                yield node.name, node
            elif number == 0 and isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name) and target.id != "__all__":
                        yield target.id, node


def _is_registered(node: ast.stmt) -> bool:
    """Handed to somebody by a decorator: `@field.validator` to attrs, `@group.command()` to click."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return any(ast.unparse(d).endswith((".validator", ".default", ".command()")) for d in decorators)


def test_the_exceptions_name_fields_that_exist() -> None:
    known: Mapping[str, Any] = {node.name: fields(node) for _, node in records()}
    assert all(field in known[record] for record, field in WRITTEN_WHOLE)


@pytest.mark.acceptance("RL-08")
def test_the_list_of_settings_is_complete() -> None:
    """Every record in a module named `settings` or `records`, and every one that a hook names, is listed."""
    listed = {record.__name__ for record in SETTINGS}
    found = {node.name for module, node in records() if module.name.endswith((".settings", "config.records"))}
    assert found - listed == {"Choice", "Config", "RewardChoice", "TermChoice"}
