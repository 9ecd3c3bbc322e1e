"""Potentials pay for where a segment began and for nothing else, whatever is done in it."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import attrs
import numpy as np
import pytest
from built import TERMS, amounts, discounted
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_worlds import component, epochs, flow, paid, potential, standing
from worlds import catalogue, family

from esper_core.plugin.rewards import Potential, Standing
from esper_core.runner import config
from esper_core.runner.setup import assemble
from esper_core.state.actions import Op
from esper_core.state.slots import PLANTED, Stage
from esper_core.testing.rewards import Lived, episodes, reordered
from esper_core.testing.scripted import play

GAMMAS = st.floats(0.5, 1.0)
LEVELS = st.floats(-9, 9)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def some_potential(level: Callable[[Standing], Any]) -> Potential:
    return Potential(name="some", units="", low=-np.inf, high=np.inf, level=level)


BY_SLOT = some_potential(lambda at: 2.0 + at.slots.parameters + 0.37 * at.slots.age)
BY_ENVIRONMENT = some_potential(lambda at: BY_SLOT.level(at).sum(axis=1))


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(max_epochs=8), gamma=GAMMAS)
def test_every_segment_pays_minus_the_level_that_it_began_with(episode: Lived, gamma: float) -> None:
    """P1: sum_t gamma^t (gamma phi' [not the last] - phi) = - phi(first), in every segment, for any phi."""
    for term in (BY_SLOT, BY_ENVIRONMENT, TERMS["stage"]):
        assert isinstance(term, Potential)
        found = amounts(term, episode, gamma)
        for env in range(len(episode[0].refused)):
            begin, first = 0, term.level(episode[0].before)[env]
            for t, transition in enumerate(episode):
                if transition.terminal[env]:
                    segment = [payment[env] for payment in found[begin : t + 1]]
                    close(discounted(segment, gamma), -first)
                    begin, first = t + 1, term.level(transition.after)[env]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(max_epochs=8), gamma=GAMMAS)
def test_what_is_done_does_not_change_the_sum(episode: Lived, gamma: float) -> None:
    """P2: All episodes begin alike, and potentials pay all of them the same: those that end by no panic."""
    calm = [attrs.evolve(t, panicked=np.zeros_like(t.panicked)) for t in episode]
    close(discounted(amounts(BY_SLOT, calm, gamma), gamma), -2.0)
    close(discounted(amounts(TERMS["stage"], calm, gamma), gamma), 0.0)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(levels=st.lists(LEVELS, min_size=3, max_size=9), gamma=GAMMAS)
def test_an_epoch_pays_the_discounted_change_of_the_level(levels: list[float], gamma: float) -> None:
    """P3: gamma phi(next) - phi(now), and - phi(now) in the last epoch."""
    found = component(
        paid([potential()], epochs([standing([[-1]], score=x) for x in levels]), gamma), "score"
    )
    now, following = np.asarray(levels[:-1]), np.asarray([*levels[1:-1], 0.0])
    close(found[:, 0], gamma * following - now)


def cycle(levels: Sequence[float], gamma: float) -> Any:
    """Payments on a way through levels that comes back to where it began, in the middle of an episode."""
    way = [1.0, *levels, levels[0], 2.0]
    found = component(paid([potential()], epochs([standing([[-1]], score=x) for x in way]), gamma), "score")
    return found[1:-1, 0]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(levels=st.lists(LEVELS, min_size=1, max_size=9))
def test_a_cycle_pays_nothing(levels: list[float]) -> None:
    """P4: At gamma = 1."""
    close(cycle(levels, 1.0).sum(), 0.0)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(levels=st.lists(st.floats(0, 9), min_size=1, max_size=9), gamma=GAMMAS)
def test_a_cycle_of_levels_that_are_not_negative_never_pays(levels: list[float], gamma: float) -> None:
    """P5: Its payments are worth (gamma^k - 1) phi(first) <= 0 when it begins."""
    found = discounted(cycle(levels, gamma), gamma)
    close(found, (gamma ** len(levels) - 1) * levels[0])
    assert found <= 1e-9


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(), gamma=GAMMAS)
def test_levels_of_slots_add_up_in_any_order(episode: Lived, gamma: float) -> None:
    """P7: phi is the sum over slots, and slots have no names."""
    whole = np.stack(amounts(BY_ENVIRONMENT, episode, gamma))
    close(np.stack(amounts(BY_SLOT, episode, gamma)).sum(axis=2), whole)
    order = np.roll(np.arange(episode[0].before.slots.shape[1]), 1)
    close(np.stack(amounts(BY_ENVIRONMENT, reordered(episode, order), gamma)), whole)


def test_stages_come_in_their_order() -> None:
    """P8: Levels rise from stage to stage, and in a stage up to a cap; without a seed they are 0."""
    term = TERMS["stage"]
    assert isinstance(term, Potential)
    stages = [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED]
    assert sorted(stages) == sorted(PLANTED)
    levels = np.asarray(
        [
            [term.level(standing([[0]], stage=stage, dwell=dwell))[0, 0] for dwell in range(12)]
            for stage in stages
        ]
    )
    assert (np.diff(levels, axis=0) > 0).all()
    rises = np.diff(levels, axis=1)
    assert (rises >= -1e-12).all()
    close(levels[:, -1] - levels[:, 0], 2.0)
    close(rises[:, 7:], 0.0)
    for stage in (Stage.DORMANT, Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING):
        close(term.level(standing([[-1]], stage=stage, dwell=3)), 0.0)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    following=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=3, max_size=3),
    worth=st.lists(LEVELS, min_size=3, max_size=3),
    phi=st.lists(LEVELS, min_size=3, max_size=3),
    gamma=GAMMAS,
)
def test_a_potential_changes_the_order_of_no_two_policies(
    following: list[list[int]], worth: list[float], phi: list[float], gamma: float
) -> None:
    """P9: In any world of 3 states and 2 actions, it adds the same number to all 16 plans of 4 epochs."""
    plans = list(product((0, 1), repeat=4))
    states = np.zeros((5, len(plans)), np.int64)
    for t, n in np.ndindex(4, len(plans)):
        states[t + 1, n] = following[states[t, n]][plans[n][t]]
    episode = epochs([standing(np.full((len(plans), 1), -1), plateau=state) for state in states])
    own = flow(lambda at: np.asarray(worth)[at.signals.plateau])
    shaping = some_potential(lambda at: np.asarray(phi)[at.signals.plateau])
    one, two = (
        discounted([payment.total for payment in paid(terms, episode, gamma)], gamma)
        for terms in ([own], [own, shaping])
    )
    close(two - one, -phi[0])


# what the predecessor did


def assert_neutral(paid: Sequence[float], gamma: float) -> None:
    """The check of P1 for an episode that began without a seed."""
    close(discounted(np.asarray(paid), gamma), 0.0)


STORY = ((0, Op.GERMINATE, 0), (2, Op.ADVANCE, 0))
"""A seed is planted, held and neither committed nor pruned."""


def stages_of(gamma: float, mode: str = "loss") -> tuple[list[int], np.ndarray]:
    """The stage of the seed, and what the stage's potential pays for it, in the real loop."""
    name = "loss" if mode == "loss" else "contribution"
    played = play(family(name, mode), lambda *_: 0.5, [STORY], epochs=8, gamma=gamma)
    found = played.component("stage")[:, 0, 0]
    return [int(report.after.stage[0, 0]) for report in played.reports], found


@pytest.mark.defect("B3")
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_a_stage_is_paid_once(gamma: float) -> None:
    """A bonus for having come from another stage, in every epoch of this one, is no potential."""
    stages, found = stages_of(gamma)
    assert found.any()
    assert_neutral(found, gamma)
    levels = {Stage.DORMANT: 0.0, Stage.TRAINING: 2.0, Stage.BLENDING: 3.5, Stage.HOLDING: 5.5}
    repeated, came_from = [], Stage.DORMANT
    for before, now in zip([Stage.DORMANT, *stages], stages, strict=False):
        came_from = Stage(before) if now != before else came_from
        repeated.append(0.1 * (gamma * levels[Stage(now)] - levels[came_from]))
    with pytest.raises(AssertionError):
        assert_neutral(repeated, gamma)


@pytest.mark.defect("B17")
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_what_a_germination_is_advanced_is_taken_back_and_no_more(gamma: float) -> None:
    """The predecessor advanced a deposit times a factor of time, and took back the deposit without it."""
    stages, found = stages_of(gamma, "escrow")
    assert found[0] > 0 > found[-1]
    assert_neutral(found, gamma)
    deposit, timing = 0.3 * gamma, 0.4 + 0.6 * 1 / 10
    refunded = [deposit * timing, *[0.0] * (len(stages) - 2), -deposit / gamma ** (len(stages) - 1)]
    with pytest.raises(AssertionError):
        assert_neutral(refunded, gamma)


@pytest.mark.defect("B19")
def test_the_discount_of_potentials_is_the_controllers() -> None:
    """P10: There is one gamma, `learn.gamma`: the learner's, the kernel's, and no term has one of its own."""
    table = {"task": {"name": "spirals"}, "learn": {"gamma": 0.9}}
    loaded = config.load(table, catalogue=catalogue())
    cast = assemble(loaded, catalogue()).cast
    assert cast.gamma is loaded.learn.gamma
    records = [record for entry in catalogue().built_in("term") if (record := entry.settings())]
    assert not {field.name for record in records for field in attrs.fields(record)} & {"gamma", "discount"}
    _, found = stages_of(0.9)
    assert_neutral(found, 0.9)
    _, other = stages_of(0.995)
    with pytest.raises(AssertionError):
        assert_neutral(other, 0.9)
