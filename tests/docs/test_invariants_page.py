"""`docs/invariants.md` lists every invariant with the tests that hold it, and those with nothing to hold."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from attrs import frozen
from pages import ROOT, code, page

PAGE = page("docs/invariants.md")
NUMBERED = {
    "G": 17,
    "P": 10,
    "R": 26,
    "L": 10,
    "A": 6,
    "C": 14,
    "K": 11,
    "U": 14,
    "N": 10,
    "B'": 2,
}
"""Invariants by topic, numbered from 1; B1' and B2' are about buffers."""
EXAMPLES = 200


@frozen
class Proof:
    """A test whose docstring begins with the id of an invariant."""

    invariant: str
    test: str
    examples: int
    """Of a property test; 0 for a test without random examples."""


def proofs() -> list[Proof]:
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        profiles = {
            ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                said = re.match(r"((?:[A-Z]\d+'?(?:, | and )?)+): ", ast.get_docstring(node) or "")
                for invariant in re.findall(r"[AC-Z]\d+|B\d+'", said[1]) if said else ():
                    test = f"{path.relative_to(ROOT)}::{node.name}"
                    found.append(Proof(invariant, test, _examples(node, profiles)))
    return found


def _examples(test: ast.FunctionDef, profiles: Mapping[str, ast.expr]) -> int:
    """As the decorator `settings` says, or the profile that it is made from."""
    if not any(ast.unparse(decorator).startswith("given(") for decorator in test.decorator_list):
        return 0
    for decorator in test.decorator_list:
        profile: ast.expr | None = decorator
        while profile is not None:
            for keyword in profile.keywords if isinstance(profile, ast.Call) else ():
                if keyword.arg == "max_examples":
                    return int(ast.unparse(keyword.value))
            made_from = profile.args[0] if isinstance(profile, ast.Call) and profile.args else profile
            profile = profiles.get(ast.unparse(made_from))
    return 100


def listed() -> dict[str, set[str]]:
    """Tests by invariant, as the page has them."""
    tables = [table for table in PAGE.tables if table.columns == ("id", "statement", "test")]
    return {row[0]: set(re.findall(r"`([^`]+)`", row[2])) for table in tables for row in table.rows}


def test_the_page_has_every_proof_and_no_other() -> None:
    found: dict[str, set[str]] = {}
    for proof in proofs():
        found.setdefault(proof.invariant, set()).add(proof.test)
    assert listed() == found


def test_every_invariant_is_held_or_has_nothing_to_hold() -> None:
    gone = {code(row[0]) for row in PAGE.table("What is gone").rows}
    known = {f"{t[0]}{n}{t[1:]}" for t, count in NUMBERED.items() for n in range(1, count + 1)}
    assert listed().keys() | gone == known
    assert not listed().keys() & gone


def test_there_are_over_a_hundred_property_tests_with_enough_examples() -> None:
    properties = {proof.test: proof.examples for proof in proofs() if proof.examples}
    assert len(properties) > 100
    assert {test: n for test, n in properties.items() if n < EXAMPLES} == {}


@pytest.mark.parametrize("folder", ["rewards", "phases", "rules", "model"])
def test_the_invariants_sit_by_topic(folder: str) -> None:
    assert any(Path(proof.test).parts[1] == folder for proof in proofs())
