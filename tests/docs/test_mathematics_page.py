"""`docs/mathematics.md`: every formula has a place and a test; those without one elsewhere have it here."""

import math
import re
from importlib import import_module
from typing import Any

import pytest
from pages import ROOT, code, page

from esper_core.plugin import TrainSettings
from esper_core.rules import ramps, schedules
from esper_core.rules.randomness import Purpose
from esper_core.state.actions import Curve, name_of

PAGE = page("docs/mathematics.md")


def resolve(text: str) -> Any:
    module, _, name = text.partition(":")
    return getattr(import_module(module), name)


def test_every_formula_has_a_place_and_a_test_that_imports_it() -> None:
    tables = [table for table in PAGE.tables if table.columns == ("what", "code", "test")]
    headings = re.findall(r"^## (.*)$", PAGE.text, re.MULTILINE)
    assert [table.heading for table in tables] == [heading for heading in headings if heading != "Constants"]
    for table in tables:
        for what, place, test in table.rows:
            assert resolve(code(place)) is not None
            module = code(place).partition(":")[0].rpartition(".")[2]
            text = (ROOT / code(test)).read_text()
            assert "def test_" in text
            assert module in text or "collect" in text or "worlds" in text, (
                f"{what}: {test} does not touch {place}"
            )


def test_the_constants_have_their_values() -> None:
    for name, value, _ in PAGE.table("Constants").rows:
        assert repr(resolve(code(name))) == code(value), name


def test_the_steepness_of_the_sigmoids_is_that_of_the_code() -> None:
    for curve, steepness in ramps.STEEPNESS.items():
        assert re.search(rf"{steepness:g} for\s+`{name_of(curve)}`", PAGE.text), curve
    assert set(Curve) - set(ramps.STEEPNESS) == {Curve.LINEAR, Curve.COSINE}


def test_the_purposes_are_those_of_the_code() -> None:
    (table,) = (table for table in PAGE.tables if table.columns[0] == "purpose")
    assert [code(row[0]) for row in table.rows] == [purpose.name for purpose in Purpose]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [(1 + math.cos(math.pi * q)) / 2 for q in (0, 0.25, 0.5, 0.75)]),
    ],
)
def test_schedules_follow_their_equations(schedule: Any, expected: list[float]) -> None:
    """Two epochs of two steps: p is 0, 1/4, 2/4, 3/4."""
    settings = TrainSettings(epochs=2, schedule=schedule)
    rates = [*schedules.rates(settings, 0, 2), *schedules.rates(settings, 1, 2)]
    assert rates == pytest.approx(expected, abs=1e-15)


def test_a_warm_up_rises_in_a_straight_line_and_the_decay_begins_after_it() -> None:
    """Ten steps, four of them warm-up: 1/4, 2/4, 3/4, 1, then q = 0, 1/6, ..."""
    settings = TrainSettings(epochs=1, schedule="linear", warmup=0.4)
    rates = schedules.rates(settings, 0, 10)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == pytest.approx([1 - n / 6 for n in range(6)])
