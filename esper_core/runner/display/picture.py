"""How a network that grows is drawn: a letter and a colour per stage, and the table of a comparison.

Role: pieces that displays and `runner.inspect` share.
Neighbours: `lines` and `live` draw a run as it goes on, `runner.inspect` afterwards.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from esper_core.model.problem import Problem
from esper_core.runner.compare import Arm
from esper_core.state.slots import Stage

GLYPHS = {
    Stage.DORMANT: (".", "dim"),
    Stage.GERMINATED: ("g", "green"),
    Stage.TRAINING: ("t", "green"),
    Stage.BLENDING: ("b", "yellow"),
    Stage.HOLDING: ("h", "cyan"),
    Stage.FOSSILIZED: ("F", "bold magenta"),
    Stage.PRUNED: ("x", "red"),
    Stage.EMBARGOED: ("x", "dim red"),
    Stage.RESETTING: ("x", "dim red"),
}
"""How a slot is drawn, by stage: a letter and its style."""

LEGEND = ". empty   t trains alone   b blends in   h held   F committed   x pruned, resting"

TITLES = {
    "static": "static host",
    "everywhere": "smallest seeds everywhere",
    "grown": "grown",
    "twin": "its twin from scratch",
}
"""Names of the arms of a comparison."""


BARS = "▁▂▃▄▅▆▇█"
"""From low to high."""


def cells(stages: Iterable[int]) -> Text:
    """A row of letters: the slots of one host, or the epochs of one slot."""
    text = Text()
    for stage in stages:
        letter, style = GLYPHS[Stage(stage)]
        text.append(letter, style=style)
    return text


def trend(values: Sequence[float]) -> str:
    """A number per round as a row of bars, from the lowest to the highest."""
    low, high = min(values), max(values)
    height = len(BARS) - 1
    return "".join(BARS[round(height * (v - low) / (high - low)) if high > low else 0] for v in values)


def comparison(score: str, arms: Mapping[str, Arm]) -> Table:
    """The four arms on the report split.

    Args:
        score: name of the score.
        arms: by name.
    """
    any_arm = next(iter(arms.values()))
    plan = f"after {any_arm.epochs} epochs: best of {any_arm.tries} tries each, selected by validation"
    titled = {TITLES[name]: arm for name, arm in arms.items()}
    return _table(f"report split, {plan}", "network", score, titled)


def by_mode(score: str, modes: Mapping[str, Arm]) -> Table:
    """The grown networks of every reward mode on the report split.

    Args:
        score: name of the score.
        modes: by name of the mode.
    """
    return _table("grown, by reward mode", "mode", score, modes)


def _table(title: str, first: str, score: str, arms: Mapping[str, Arm]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in (first, score, "mean of all", "parameters"):
        table.add_column(Text(heading), justify="left" if heading == first else "right")
    for name, arm in arms.items():
        scores = (_with_error(arm.score, arm.error), _with_error(arm.mean, arm.mean_error))
        numbers = (*scores, f"{arm.parameters:,}")
        table.add_row(Text(name), *numbers, style="bold magenta" if name == TITLES["grown"] else None)
    return table


def _with_error(score: float, error: float) -> str:
    return f"{score:.4f}" if math.isnan(error) else f"{score:.4f} ± {error:.4f}"


def in_units(score: Any, problem: Problem) -> Any:
    """A score that is oriented so that higher is better, in the task's own direction."""
    return score if problem.higher_is_better else -score
