"""Everything public says what it is: modules their role, functions their parameters, records their fields."""

import ast
import re
from collections.abc import Iterator

import pytest
from source_code import FunctionNode, Module, fields, is_record, modules

import esper_core
import esper_core.plugin

PROTOCOLS = "esper_core.plugin.protocols"
SECTION = r"^\s*{}:\s*\n(.*?)(?=^\s*(?:Args|Returns|Raises|Yields|Attributes):\s*$|\Z)"


@pytest.mark.acceptance("QU-07")
def test_every_module_of_the_core_says_its_role_and_its_neighbours() -> None:
    silent = {
        module.name: missing
        for module in modules()
        if module.name.startswith("esper_core")
        if (missing := [w for w in ("Role:", "Neighbours:") if w not in _doc(module.tree)])
    }
    assert silent == {}


@pytest.mark.acceptance("QU-05", "QU-07")
def test_everything_public_has_a_docstring() -> None:
    silent = [module.name for module in modules() if not _doc(module.tree)]
    silent += [
        module.at(node) for module, _, node in definitions() if not _doc(node) and not _is_overload(node)
    ]
    assert silent == []


@pytest.mark.acceptance("QU-05")
def test_an_args_section_names_every_parameter_and_no_other() -> None:
    wrong = {}
    for module, _, node in definitions():
        if isinstance(node, FunctionNode) and (section := _section(_doc(node), "Args")) is not None:
            named, parameters = set(_entries(section)), {p.arg for p in _parameters(node)}
            if named != parameters:
                wrong[f"{module.at(node)} {node.name}"] = sorted(named ^ parameters)
    assert wrong == {}


@pytest.mark.acceptance("QU-05", "CF-05")
def test_the_public_surface_documents_every_parameter() -> None:
    """By an entry under Args, by its name in the text, or by a type that is itself documented here."""
    documented = {
        node.name for module in modules() for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)
    }
    missing = {}
    for module, owner, node in definitions():
        if isinstance(node, FunctionNode) and _is_surface(module, owner, node):
            doc = _doc(node)
            unnamed = [
                parameter.arg
                for parameter in _parameters(node)
                if not re.search(rf"\b{parameter.arg}\b", doc)
                and not documented
                & set(re.findall(r"\w+", ast.unparse(parameter.annotation or ast.Constant(""))))
            ]
            if unnamed:
                missing[f"{module.at(node)} {node.name}"] = unnamed
    assert missing == {}


@pytest.mark.acceptance("QU-05", "RL-08")
def test_every_field_of_a_public_record_is_explained() -> None:
    silent = []
    for module, _, node in definitions():
        if isinstance(node, ast.ClassDef) and is_record(node):
            section = _section(_doc(node), "Attributes") or ""
            for name, field in fields(node).items():
                after = node.body[node.body.index(field) + 1 :][:1]
                own = after and isinstance(after[0], ast.Expr) and isinstance(after[0].value, ast.Constant)
                if not own and not re.search(rf"\b{name}\b", section):
                    silent.append(f"{module.at(field)} {node.name}.{name}")
    assert silent == []


@pytest.mark.acceptance("QU-07")
def test_a_room_lists_what_it_neighbours_by_names_that_exist() -> None:
    """A module that a docstring points to in backticks is there."""
    known = {module.name for module in modules()}
    short = {".".join(name.split(".")[1:]) for name in known} | {name.split(".")[-1] for name in known}
    rooms = {name.split(".")[1] for name in known if name.count(".")}
    stale = [
        f"{module.name}: {word}"
        for module in modules()
        for line in _doc(module.tree).split("Neighbours:")[1:]
        for word in re.findall(r"`([a-z_]+\.[a-z_.]+)`", line)
        if word.split(".")[0] in rooms and word not in short and word.rpartition(".")[0] not in short
    ]
    assert stale == []


def definitions() -> Iterator[tuple[Module, ast.ClassDef | None, ast.ClassDef | FunctionNode]]:
    """Public classes, functions and methods, each with its module and the class that it stands in."""
    for module in modules():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef | FunctionNode) and not node.name.startswith("_"):
                yield module, None, node
                if isinstance(node, ast.ClassDef):
                    for inner in node.body:
                        if isinstance(inner, FunctionNode) and _is_public_method(inner):
                            yield module, node, inner


def _is_public_method(node: FunctionNode) -> bool:
    return not node.name.startswith("_") or node.name == "__init__"


def _is_surface(module: Module, owner: ast.ClassDef | None, node: FunctionNode) -> bool:
    name = node.name if owner is None else owner.name
    homes = {**esper_core._HOME, **esper_core.plugin._HOME}
    return module.name == PROTOCOLS or homes.get(name) == module.name


def _is_overload(node: ast.AST) -> bool:
    return isinstance(node, FunctionNode) and any("overload" in ast.unparse(d) for d in node.decorator_list)


def _doc(node: ast.Module | ast.ClassDef | FunctionNode) -> str:
    return ast.get_docstring(node) or ""


def _section(doc: str, title: str) -> str | None:
    """The body of a section; of a one-line docstring that is a section, the rest of the line."""
    if doc.startswith(f"{title}: "):
        return "\n".join(doc.removeprefix(f"{title}: ").rstrip(".").split("; "))
    found = re.search(SECTION.format(title), doc, re.DOTALL | re.MULTILINE)
    return found.group(1) if found else None


def _entries(section: str) -> list[str]:
    """Names that a section explains; lines that go on are indented further."""
    indent = len(section) - len(section.lstrip(" "))
    return re.findall(rf"^ {{{indent}}}\*{{0,2}}(\w+):", section, re.MULTILINE)


def _parameters(node: FunctionNode) -> list[ast.arg]:
    own = node.args
    everything = [*own.posonlyargs, *own.args, *own.kwonlyargs, *filter(None, (own.vararg, own.kwarg))]
    return [argument for argument in everything if argument.arg not in ("self", "cls")]
