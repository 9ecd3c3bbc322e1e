"""`docs/mathematics.md`: every formula has a place and a test; those without one elsewhere have it here."""

import math
import re
from importlib import import_module
from typing import Any

import attrs
import numpy as np
import pytest
from pages import ROOT, code, page

from esper_core.plugin import Decision, Evidence, HostSignals, SlotTable, Stage, TrainSettings, Transition
from esper_core.rules import ramps, schedules
from esper_core.rules.randomness import Purpose
from esper_core.state.actions import Curve, name_of
from esper_plugins.rewards import shipped
from esper_plugins.rewards.settings import Shipped

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


@pytest.mark.acceptance("ME-05")
@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_the_reward_telescopes_and_pays_its_end_once(epochs: int) -> None:
    """The sum is c - s_0 - rent, by hand; the terminal components are paid in the last epoch only."""
    family = shipped.build(Shipped(rent=0.5))
    score = np.random.default_rng(0).random((epochs, 2))
    committed = np.asarray([0.9, 0.2])
    slots = attrs.evolve(
        SlotTable.empty(2, 2),
        stage=np.asarray([[Stage.FOSSILIZED, Stage.TRAINING], [Stage.HOLDING, Stage.DORMANT]], np.int64),
        parameters=np.asarray([[30, 7], [11, 0]]),
    )
    total, last = np.zeros(2), HostSignals.unknown(2)
    for epoch in range(epochs):
        now = attrs.evolve(HostSignals.unknown(2), score=score[epoch], committed=committed)
        paid = family.components(_transition(epoch, epochs, slots, last, now))
        assert (paid["rent"][0] != 0) == (epoch == epochs - 1)
        assert (paid["shipped"] != 0).any() == (epoch == epochs - 1)
        total += sum(paid.values())
        last = now
    assert total == pytest.approx(committed - score[0] - 0.5 * np.asarray([30, 0]) / 100)


def _transition(
    epoch: int, epochs: int, slots: SlotTable, before: HostSignals, after: HostSignals
) -> Transition:
    return Transition(
        epoch=epoch,
        epochs=epochs,
        before=slots,
        after=slots,
        signals_before=before,
        signals=after,
        evidence=Evidence.unknown(2, 2),
        decision=Decision.wait(2),
        refused=np.zeros(2, np.int64),
        host_parameters=100,
    )
