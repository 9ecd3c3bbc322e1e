"""Every row of the acceptance list that is promised has a test that carries its id, and no id is a slip."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from source_code import ROOT

KNOWN = {
    "ST": 16,
    "AM": 8,
    "CO": 11,
    "GR": 14,
    "ME": 8,
    "DA": 6,
    "RL": 11,
    "AB": 9,
    "HE": 6,
    "TE": 8,
    "CF": 11,
    "QU": 13,
    "CK": 2,
    "TR": 8,
    "X": 24,
}
"""Rows of the acceptance list by topic, numbered from 1."""
PROMISED = {
    "GR": (*range(1, 9), *range(10, 15)),
    "ME": (3, 4, 5, 6, 8),
    "RL": tuple(range(1, 12)),
    "AB": (6, 7),
    "HE": tuple(range(1, 7)),
    "CF": tuple(range(1, 12)),
    "QU": tuple(range(1, 14)),
    "TE": tuple(range(1, 7)),
    "TR": (2, 5, 7),
    "CK": (1, 2),
    "X": (1, 2, 3, *range(8, 17), 18, 22, 23, 24),
}
"""Rows that this version keeps."""


DEFECTS = 26
"""Defects of the predecessor, from B1 on."""


@cache
def marks(kind: str = "acceptance") -> tuple[tuple[str, str, Path], ...]:
    """Every id that a mark carries, with the test function and the file; module marks count for `module`."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            owner = getattr(node, "name", "module")
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == f"pytest.mark.{kind}":
                    for argument in call.args:
                        assert isinstance(argument, ast.Constant), f"{path}:{call.lineno}: ids are literals"
                        found.append((str(argument.value), owner, path))
    return tuple(found)


@pytest.mark.parametrize("row", [f"{topic}-{n:02d}" for topic, rows in PROMISED.items() for n in rows])
def test_a_promised_row_is_carried_by_a_test(row: str) -> None:
    assert row in {found for found, _, _ in marks()}


def test_every_defect_has_a_test_that_would_catch_it() -> None:
    assert {found for found, _, _ in marks("defect")} == {f"B{n}" for n in range(1, DEFECTS + 1)}


def test_every_id_is_a_row_of_the_list() -> None:
    known = {f"{topic}-{n:02d}" for topic, count in KNOWN.items() for n in range(1, count + 1)}
    assert {row for row, _, _ in marks()} <= known


def test_marks_stand_on_tests_that_are_collected() -> None:
    owners = {(owner, path.name) for _, owner, path in marks()}
    assert owners
    assert [o for o in owners if not re.match(r"test_|Test|module", o[0])] == []
