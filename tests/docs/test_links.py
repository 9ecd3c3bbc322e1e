"""Links lead somewhere: to a page, to a heading on it, to a file, to a module, to a test."""

import ast
import re
from pathlib import Path

import pytest
from pages import NAMES, ROOT, page, words_of_code


@pytest.mark.parametrize("name", NAMES)
def test_links_between_pages_resolve(name: str) -> None:
    for link in page(name).links:
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (page(name).path.parent / target).resolve() if target else page(name).path
        assert path.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in page(str(path.relative_to(ROOT))).anchors, f"{name}: {link}"


@pytest.mark.parametrize("name", NAMES)
def test_files_and_modules_that_are_named_exist(name: str) -> None:
    """`tests/rules/test_ramps.py`, `esper_core.rules.ramps` and `esper_core.rules.ramps:shape`."""
    for word in words_of_code(page(name).prose):
        if re.fullmatch(r"(tests|docs|esper_core|esper_plugins|benchmarks|examples)/[\w./-]+", word):
            assert (ROOT / word).exists(), f"{name}: {word}"
        elif re.fullmatch(r"esper_(core|plugins)(\.\w+)+:\w+", word):
            module, _, attribute = word.partition(":")
            assert attribute in _defined(_module(module)), f"{name}: {word}"
        elif re.fullmatch(r"esper_(core|plugins)(\.\w+)+", word):
            parent, _, last = word.rpartition(".")
            assert _module(word).exists() or last in _defined(_module(parent)), f"{name}: {word}"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in page("README.md").links}
    assert {name for name in NAMES if name not in ("README.md",)} <= linked


def test_no_page_links_to_what_only_its_authors_have() -> None:
    for name in NAMES:
        assert not re.search(r"/work/|/tmp/|shared/|acceptance\.md|design\.md", page(name).text), name


def _module(name: str) -> Path:
    path = ROOT / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _defined(path: Path) -> set[str]:
    """Names that a module defines at its top, imports, or offers lazily."""
    tree = ast.parse(path.read_text())
    found = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    found |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return found | {
        alias.asname or alias.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom)
        for alias in n.names
    }
