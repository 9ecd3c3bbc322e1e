"""`state`, `rules` and `phases` compute: no files, no clock, no hidden state."""

import ast
from collections.abc import Iterator

import pytest
from source_code import FunctionNode, Module, calls_of, imports, modules

PURE = ("esper_core.state", "esper_core.rules", "esper_core.phases")
LIBRARIES = {
    "attrs",
    "attrs.validators",
    "collections.abc",
    "enum",
    "math",
    "numpy",
    "numpy.typing",
    "typing",
}
"""What the pure rooms may import; none of them reads a file, a clock or a generator on import."""
CLOCK = ("esper_core.phases.collect", "time")
"""The one module with a stopwatch: an epoch event says how long the epoch took."""
KERNELS = {("esper_core.phases.advantage", "torch"), ("esper_core.phases.update", "torch")}
"""The kernels of learning, which are of the tensor plane: tensors in, tensors out."""
IMPURE = ("open", "print", "input", "exec", "eval", "breakpoint", "__import__", "setattr", "delattr")
NUMPY_OUTSIDE = {
    "random",
    "load",
    "loadtxt",
    "genfromtxt",
    "fromfile",
    "memmap",
    "save",
    "savez",
    "savez_compressed",
    "savetxt",
    "tofile",
    "seterr",
    "set_printoptions",
}
"""What NumPy has of files, global generators and global settings."""
TORCH_OUTSIDE = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "normal",
    "bernoulli",
    "multinomial",
    "manual_seed",
    "random",
    "load",
    "save",
    "set_default_dtype",
    "set_num_threads",
}
"""What torch has of files, its global generator and global settings."""
CHANGES = {
    "append",
    "add",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "sort",
    "update",
}
"""Methods that change a list, a set or a dictionary."""
CACHES = {"cache", "lru_cache", "cached_property"}


def pure() -> list[Module]:
    return [module for module in modules() if module.room in PURE]


@pytest.mark.acceptance("QU-10", "X-22")
def test_pure_rooms_import_nothing_that_reaches_outside() -> None:
    found = {
        (module.name, target)
        for module in pure()
        for _, target, _ in imports(module.tree)
        if target not in LIBRARIES and not target.startswith("esper_core.")
    }
    assert found == {CLOCK, *KERNELS}


@pytest.mark.acceptance("QU-10")
def test_the_clock_is_a_stopwatch() -> None:
    (collect,) = (module for module in modules() if module.name == CLOCK[0])
    used = {
        node.attr
        for node in ast.walk(collect.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
    }
    assert used == {"perf_counter"}


@pytest.mark.acceptance("QU-10", "X-15")
def test_pure_rooms_call_nothing_that_reaches_outside() -> None:
    called = [module.at(call) for module in pure() for call in calls_of(module.tree, *IMPURE)]
    outside = {"np": NUMPY_OUTSIDE, "torch": TORCH_OUTSIDE}
    reached = [
        module.at(node)
        for module in pure()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in outside.get(ast.unparse(node.value), ())
    ]
    assert called + reached == []


@pytest.mark.acceptance("QU-10", "X-15", "TE-04")
def test_no_function_rebinds_a_name_outside_it() -> None:
    found = [
        module.at(node)
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Global | ast.Nonlocal)
    ]
    assert found == []


@pytest.mark.acceptance("QU-10", "TE-04")
def test_what_a_module_defines_never_changes() -> None:
    """A table at module level is a constant: no function of any module puts something into it."""
    assert [change for module in modules() for change in _changes_of_globals(module)] == []


@pytest.mark.acceptance("TE-04")
def test_nothing_is_remembered_between_calls() -> None:
    found = [
        module.at(node)
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, FunctionNode)
        for decorator in node.decorator_list
        if CACHES & set(ast.unparse(decorator).replace("(", ".").split("."))
    ]
    assert found == []


def test_the_check_itself_sees_a_change() -> None:
    """Mutants of the kinds that `_changes_of_globals` looks for."""
    table = "TABLE = {}\nNAMES: list[str] = []\n"
    for body in ("TABLE[1] = 2", "TABLE |= {1: 2}", "NAMES.append('a')", "del TABLE[1]", "TABLE[1] += 1"):
        tree = ast.parse(f"{table}def change():\n    {body}\n")
        assert len(list(_changes_of_globals(Module("x", modules()[0].path, tree)))) == 1, body
    local = f"{table}def fine():\n    TABLE = {{}}\n    TABLE[1] = 2\n    names = []\n    names.append(1)\n"
    assert list(_changes_of_globals(Module("x", modules()[0].path, ast.parse(local)))) == []


def _changes_of_globals(module: Module) -> Iterator[str]:
    shared = {
        target.id
        for node in module.tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    } | {alias for _, _, alias in imports(module.tree) if alias and alias.isupper()}
    for function in (node for node in ast.walk(module.tree) if isinstance(node, FunctionNode)):
        own = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        own |= {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
        augmented = {
            n.target.id
            for n in ast.walk(function)
            if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
        }
        names = (shared - own) | (shared & augmented)
        for node in ast.walk(function):
            changed = _changed(node)
            if isinstance(changed, ast.Name) and changed.id in names:
                yield module.at(node)


def _changed(node: ast.AST) -> ast.expr | None:
    """What a node changes in place: the container of an item or of a method that changes it."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        return node.value
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        return node.target
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
        return node.func.value
    return None
