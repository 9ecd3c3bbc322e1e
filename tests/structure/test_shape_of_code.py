"""What a reader may rely on in every file: short functions, loud failures, one way to log, no back doors."""

import ast

import pytest
from source_code import Module, calls_of, functions, imports, modules

LONGEST = 80
"""Lines of a function, docstring included."""
VAGUE = {"any", "callable", "object()", "array"}
"""Words that look like types and are none."""


@pytest.mark.acceptance("QU-01")
def test_functions_fit_on_a_screen() -> None:
    long = {
        module.at(function): length
        for module in modules()
        for function in functions(module.tree)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > LONGEST
    }
    assert long == {}


@pytest.mark.acceptance("QU-06")
def test_no_name_is_looked_up_by_its_spelling() -> None:
    names = ("locals", "globals", "vars", "eval", "exec")
    assert [module.at(call) for module in modules() for call in calls_of(module.tree, *names)] == []


def test_no_failure_is_swallowed() -> None:
    """No bare `except`, nothing that catches an interrupt in passing, nothing that catches and forgets."""
    found = [
        module.at(handler)
        for module in modules()
        for handler in ast.walk(module.tree)
        if isinstance(handler, ast.ExceptHandler)
        and (
            handler.type is None
            or "BaseException" in ast.unparse(handler.type)
            or all(isinstance(statement, ast.Pass) for statement in handler.body)
        )
    ]
    assert found == []


@pytest.mark.acceptance("CF-08", "X-15")
def test_nobody_touches_the_private_parts_of_another_object() -> None:
    found = [
        f"{module.at(node)}: {ast.unparse(node)}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and _private(node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    by_name = [
        module.at(call)
        for module in modules()
        for call in calls_of(module.tree, "getattr", "setattr", "hasattr", "delattr")
        if len(call.args) > 1 and isinstance(call.args[1], ast.Constant) and _private(str(call.args[1].value))
    ]
    assert found + by_name == []


@pytest.mark.acceptance("CF-08")
def test_nobody_imports_a_private_name() -> None:
    found = [
        f"{module.at(node)}: {name}"
        for module in modules()
        for node, target, name in imports(module.tree)
        if _private(name or "") or any(_private(part) for part in target.split("."))
    ]
    assert found == []


@pytest.mark.acceptance("QU-04", "QU-08", "QU-09")
def test_every_argument_and_every_result_has_a_type() -> None:
    missing = []
    for module in modules():
        for function in functions(module.tree):
            own = function.args
            arguments = [*own.posonlyargs, *own.args, *own.kwonlyargs, *filter(None, (own.vararg, own.kwarg))]
            missing += [
                f"{module.at(function)}: {argument.arg}"
                for argument in arguments
                if argument.annotation is None and argument.arg not in ("self", "cls")
            ]
            if function.returns is None:
                missing.append(f"{module.at(function)}: result of {function.name}")
    assert missing == []


@pytest.mark.acceptance("QU-04")
def test_annotations_are_types() -> None:
    vague = [
        f"{module.at(node)}: {node.id}"
        for module in modules()
        for annotation in _annotations(module)
        for node in ast.walk(annotation)
        if isinstance(node, ast.Name) and node.id in VAGUE
    ]
    assert vague == []


@pytest.mark.acceptance("CF-11")
def test_there_is_one_way_to_log_and_none_to_print() -> None:
    """`logger = logging.getLogger(__name__)` at the top of a module; output for users is the display's."""
    assert [module.at(call) for module in modules() for call in calls_of(module.tree, "print")] == []
    loggers = [
        (module, node)
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "getLogger"
    ]
    assert loggers, "the loader reports broken plugins"
    for module, node in loggers:
        assert ast.unparse(node) == "logging.getLogger(__name__)", module.at(node)
        assert any(
            isinstance(statement, ast.Assign)
            and statement.value is node
            and ast.unparse(statement.targets[0]) == "logger"
            for statement in module.tree.body
        ), module.at(node)
    direct = [
        module.at(node)
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {f"logging.{w}" for w in ("info", "warning", "error")}
    ]
    assert direct == []


@pytest.mark.acceptance("GR-13", "GR-14")
def test_the_memories_of_moving_averages_are_settings() -> None:
    """0.9 and 0.7 stand once, as defaults; where evidence is made, the settings are read by name."""
    settings = "esper_core.state.settings"
    literals = {
        (module.name, node.value)
        for module in modules()
        if module.room in ("esper_core.state", "esper_core.rules", "esper_core.phases")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, float)
        and node.value in (0.9, 0.7, 0.3, 0.1)
    }
    assert {name for name, _ in literals} == {settings}
    (observation,) = (module for module in modules() if module.name == "esper_core.rules.observation")
    read = {node.attr for node in ast.walk(observation.tree) if isinstance(node, ast.Attribute)}
    assert {"ratio_memory", "velocity_memory"} <= read
    (average,) = (f for f in functions(observation.tree) if f.name == "_average")
    used = {
        node.value
        for node in ast.walk(average)
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    }
    assert used == {1.0}, "the moving average has no number of its own"


@pytest.mark.acceptance("CF-10")
def test_no_field_is_initialised_twice() -> None:
    twice = []
    for module in modules():
        for function in functions(module.tree):
            if function.name == "__init__":
                targets = [
                    ast.unparse(target)
                    for node in function.body
                    if isinstance(node, ast.Assign | ast.AnnAssign)
                    for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
                ]
                twice += [f"{module.at(function)}: {t}" for t in set(targets) if targets.count(t) > 1]
    assert twice == []


def _private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _annotations(module: Module) -> list[ast.expr]:
    found: list[ast.expr | None] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
    return [annotation for annotation in found if annotation is not None]
