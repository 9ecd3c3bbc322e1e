"""The count of mutants can be trusted: what survives without a reason, and what explains nothing, is told."""

import ast
from pathlib import Path

import count
import pytest
from count import Change

ROOT = Path(__file__).parents[2]
CHANGE = Change("p.m.f", "return a + b", "return a - b")
MUTATED = """
@_mutmut_mutated(mutants_x_f__mutmut)
def f(a, b=1):
    return a + b

def x_f__mutmut_orig(a, b=1):
    return a + b

def x_f__mutmut_1(a, b=1):
    return (a -  # another line break
            b)

def x_f__mutmut_2(a, b=2):
    return a + b

class C:
    def xǁCǁg__mutmut_orig(self):
        return 1

    def xǁCǁg__mutmut_1(self):
        return 2

@no_grad()
def h(a):
    return a
"""


def test_a_mutant_is_the_statement_that_it_changes_whatever_its_lines_are() -> None:
    tree = ast.parse(MUTATED)
    names = ["p.m.x_f__mutmut_1", "p.m.x_f__mutmut_2", "p.m.xǁCǁg__mutmut_1"]
    assert list(count.changes(tree, names).values()) == [
        CHANGE,
        Change("p.m.f", "a, b=1):", "a, b=2):"),
        Change("p.m.C.g", "return 1", "return 2"),
    ]


def test_a_function_that_mutmut_leaves_out_is_told() -> None:
    assert count.decorated(ast.parse(MUTATED)) == ["h"]


def test_every_entry_explains_one_survivor() -> None:
    survivors = {"first": CHANGE, "second": CHANGE}
    assert count.compare(survivors, []) == (survivors, [])
    assert count.compare(survivors, [CHANGE]) == ({"second": CHANGE}, [])
    assert count.compare(survivors, [CHANGE, CHANGE]) == ({}, [])
    assert count.compare({}, [CHANGE]) == ({}, [CHANGE])


def test_entries_are_read_as_they_are_printed_and_need_a_reason() -> None:
    found = [CHANGE, Change("p.m.f", 'x = "ǁ"\ny = 1', "pass"), CHANGE._replace(after="return a")]
    text = count.as_entries(found)
    assert text.count("[[equivalent]]") == 2
    with pytest.raises(ValueError, match="no reason"):
        list(count.explained(text))
    assert sorted(count.explained(text.replace('reason = ""', 'reason = "same"'))) == sorted(found)


def test_the_entries_are_about_statements_that_are_there() -> None:
    gone = [
        entry
        for entry in count.explained(count.ENTRIES.read_text(encoding="utf-8"))
        if not set(entry.before.splitlines()) <= statements(entry.function)
    ]
    assert gone == []


def statements(function: str) -> set[str]:
    """The lines of a function, or of a method, as Python prints them."""
    file, name = next(
        (file, tail)
        for tail in (function.split(".")[-1:], function.split(".")[-2:])
        if (file := ROOT / ("/".join(function.split(".")[: -len(tail)]) + ".py")).exists()
    )
    nodes = [ast.parse(file.read_text(encoding="utf-8"))]
    for part in name:
        nodes = [
            inner
            for node in nodes
            for inner in node.body
            if isinstance(inner, ast.FunctionDef | ast.ClassDef) and inner.name == part
        ]
    return {line.strip() for node in nodes for line in ast.unparse(node).split("(", 1)[1].splitlines()}
