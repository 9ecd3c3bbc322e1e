"""Everything that Esper's own rewards are made of, built as a run builds it."""

import tomllib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from worlds import catalogue, family

from esper_core.plugin.imports import read_text
from esper_core.plugin.rewards import Event, Flow, Outcome, RewardFamily, Standing, Term, Transition
from esper_core.testing.rewards import pay_episode


def term(name: str, **settings: Any) -> Any:
    """A term that Esper brings, called by its own name, with default settings but for those given."""
    entry = catalogue().find("term", f"esper/{name}")
    record, build = entry.settings(), entry.build()
    built = build(*([] if record is None else [record(**settings)]))  # type: ignore[operator]
    return attrs.evolve(built, name=name)


NAMES = tuple(entry.bare for entry in catalogue().built_in("term"))
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "share banzhaf": ("share", {"estimate": "banzhaf"}),
    "share contribution": ("share", {"estimate": "contribution"}),
    "share slow": ("share", {"step": 0.1}),
    "attribution contribution": ("attribution", {"combine": "contribution"}),
    "attribution minimum": ("attribution", {"combine": "minimum"}),
    "attribution_level contribution": ("attribution_level", {"combine": "contribution"}),
    "hindsight short": ("hindsight", {"memory": 0.0, "cap": 0.05}),
}
TERMS: dict[str, Term] = {name: term(name) for name in NAMES} | {
    name: attrs.evolve(term(base, **settings), name=name) for name, (base, settings) in VARIANTS.items()
}
"""Every term with its default settings, and some with others."""


def _families() -> dict[str, RewardFamily]:
    found = {}
    for entry in catalogue().built_in("reward"):
        for mode in tomllib.loads(read_text(entry.record.build, owner=entry.label)):
            found[mode] = family(entry.bare, mode)
    return found


FAMILIES = _families()
"""Every family that Esper brings, by the name of the mode."""


def weight(mode: str, name: str) -> float:
    """Of a term in a family."""
    (found,) = (t.weight for t in FAMILIES[mode].terms if t.name == name)
    return found


def amount(term: Any, at: Standing | Transition) -> np.ndarray:
    """What a flow, an event or an outcome supplies."""
    assert isinstance(term, Flow | Event | Outcome)
    return np.asarray(term.amount(at), np.float64)  # type: ignore[arg-type]


def amounts(term: Term, episode: Sequence[Transition], gamma: float = 1.0) -> list[np.ndarray]:
    """What a term pays, epoch by epoch."""
    return [payment.components[term.name] for payment in pay_episode(term, episode, gamma=gamma)]


def discounted(paid: Sequence[np.ndarray], gamma: float) -> np.ndarray:
    """The sum of an episode's payments, discounted from its begin."""
    found: np.ndarray = sum(gamma**t * payment for t, payment in enumerate(paid))  # type: ignore[assignment]
    return found


def changed(
    episode: Sequence[Transition], change: Callable[[Standing, int], Standing]
) -> tuple[Transition, ...]:
    """The episode with other standings; `change` gets each with its number, 0 before the first epoch."""
    standings = [episode[0].before, *(t.after for t in episode)]
    new = [change(at, epoch) for epoch, at in enumerate(standings)]
    return tuple(attrs.evolve(t, before=new[i], after=new[i + 1]) for i, t in enumerate(episode))
