"""What it costs to have seeds, to act, and to lose them."""

from itertools import pairwise
from typing import Any

import attrs
import numpy as np
import pytest
from built import FAMILIES, TERMS, amount, term
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_worlds import epochs, standing

from esper_core.plugin.rewards import Standing, Transition
from esper_core.state.actions import Decision, Op
from esper_core.state.slots import BLENDED, LIVE, PLANTED, Stage
from esper_core.testing.rewards import Lived, episodes
from esper_core.testing.scripted import OPEN, play

PARAMETERS = st.integers(1, 10_000)
HOSTS = st.integers(200, 10_000)
INFLUENCE = st.floats(0, 1)
FAILED = (Stage.DORMANT, Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING)


def blended(parameters: Any, host: int, **known: Any) -> Standing:
    """One environment per entry of `parameters`, `[N, S]`, each seed at full influence."""
    parameters = np.asarray(parameters)
    at = standing(
        np.broadcast_to(np.arange(parameters.shape[1]), parameters.shape),
        parameters=parameters,
        **{"ramp_target": 1.0, **known},
    )
    return attrs.evolve(at, host_parameters=host)


# rent


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    first=PARAMETERS,
    step=PARAMETERS,
    host=HOSTS,
    factor=st.integers(1, 9),
    cap=st.sampled_from([0.5, 3.0, 99.0]),
)
def test_rent_is_a_capped_logarithm(first: int, step: int, host: int, factor: int, cap: float) -> None:
    """R5: In [0, cap]; non-decreasing and concave in the parameters, non-increasing in the host's, and a
    matter of their ratio alone, for hosts that are not below the floor.
    """
    chosen = term("rent_log", cap=cap)
    one, two, three = amount(chosen, blended([[first], [first + step], [first + 2 * step]], host))
    assert 0 < one <= two <= three <= cap
    assert three - two <= two - one + 1e-12
    (larger,) = amount(chosen, blended([[first]], host + step))
    assert larger <= one
    (scaled,) = amount(chosen, blended([[factor * first]], factor * host))
    assert scaled == pytest.approx(one, abs=1e-12)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(parameters=PARAMETERS, host=st.integers(1, 400), influence=INFLUENCE, base=INFLUENCE)
def test_rent_by_its_equation(parameters: int, host: int, influence: float, base: float) -> None:
    """R5: ln(1 + (base * host + influence * parameters) / max(host, 200)) for every seed that blends; 0 iff
    none does.
    """
    chosen = term("rent_log", base=base, cap=99.0)
    at = blended([[parameters, parameters]], host, ramp_target=influence)
    expected = np.log1p(2 * (base * host + influence * parameters) / max(host, 200))
    assert amount(chosen, at) == pytest.approx([expected], abs=1e-12)
    for stage in Stage:
        (found,) = amount(TERMS["rent_log"], blended([[parameters]], host, stage=stage))
        assert (found > 0) == (stage in BLENDED)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(parameters=st.lists(PARAMETERS, min_size=2, max_size=2), host=HOSTS)
def test_linear_rent_counts_parameters_per_host(parameters: list[int], host: int) -> None:
    """R5: Whatever the influence of the seeds."""
    at = blended([parameters], host, ramp_target=0.0)
    assert amount(TERMS["rent_linear"], at) == pytest.approx([sum(parameters) / host], abs=1e-12)


# occupancy


def occupied(stages: list[Stage]) -> Standing:
    planted = np.asarray([s in PLANTED for s in stages])
    seed = np.where(planted, np.arange(len(stages)), -1)
    return standing([seed], stage=[stages])


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    planted=st.lists(st.sampled_from(PLANTED), max_size=4),
    failed=st.lists(st.sampled_from(FAILED), max_size=4),
    free=st.integers(0, 3),
)
def test_seeds_occupy_and_slots_that_cool_down_do_not(
    planted: list[Stage], failed: list[Stage], free: int
) -> None:
    """R6: max(0, seeds - free), convex and piecewise linear; a slot after a seed costs nothing."""
    stages = [*planted, *failed, Stage.DORMANT]
    chosen = term("occupancy", free=free)
    assert_count(float(amount(chosen, occupied(stages))[0]), planted, free)
    counts = [float(amount(chosen, occupied([Stage.TRAINING] * k or [Stage.DORMANT]))[0]) for k in range(6)]
    steps = np.diff(counts)
    assert set(steps) <= {0.0, 1.0}
    assert (np.diff(steps) >= 0).all()


def assert_count(found: float, planted: list[Stage], free: int) -> None:
    assert found == max(0, len(planted) - free)


@pytest.mark.defect("B23")
def test_a_count_of_slots_that_cool_down_is_no_count_of_seeds() -> None:
    """What is neither dormant nor pruned counted, so that EMBARGOED and RESETTING did."""
    planted = [Stage.TRAINING]
    stages = [*planted, Stage.EMBARGOED, Stage.RESETTING]
    assert_count(float(amount(term("occupancy", free=0), occupied(stages))[0]), planted, 0)
    active = sum(stage not in (Stage.DORMANT, Stage.PRUNED) for stage in stages)
    with pytest.raises(AssertionError):
        assert_count(float(active), planted, 0)


@pytest.mark.defect("B23")
def test_a_slot_cools_down_for_as_many_epochs_as_it_should() -> None:
    """In the real loop, one epoch an epoch; the predecessor counted each of them twice."""
    growth = attrs.evolve(OPEN, embargo=0.25)
    story = ((0, Op.GERMINATE, 0), (1, Op.PRUNE, 0))
    played = play(FAMILIES["escrow"], lambda *_: 0.5, [story], epochs=20, growth=growth)
    stages = [report.after.stage[0, 0] for report in played.reports]

    def five_epochs(stages: list[Stage]) -> None:
        assert stages.count(Stage.EMBARGOED) == 5

    five_epochs(stages)
    twice, rested = [], 0
    while rested < 5:
        twice.append(Stage.EMBARGOED)
        rested += 2
    with pytest.raises(AssertionError):
        five_epochs(twice)


def test_fossils_are_counted_slot_by_slot() -> None:
    stages = [Stage.FOSSILIZED, Stage.HOLDING, Stage.DORMANT, Stage.FOSSILIZED]
    assert amount(TERMS["fossils"], occupied(stages)).tolist() == [[1.0, 0.0, 0.0, 1.0]]


# abrupt changes


def moved(one: Any, two: Any, *, parameters: Any = 100, panicked: bool = False) -> Transition:
    """One environment whose seeds' influences go from `one` to `two`."""
    before, after = (
        blended([np.broadcast_to(parameters, np.shape(a))], 200, ramp_target=a) for a in (one, two)
    )
    return epochs([before, after], [[panicked]])[0]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    one=st.lists(INFLUENCE, min_size=2, max_size=2),
    two=st.lists(INFLUENCE, min_size=2, max_size=2),
    parts=st.integers(1, 6),
)
def test_the_price_of_a_change_is_its_square(one: list[float], two: list[float], parts: int) -> None:
    """R7: Even in the change, 0 iff there is none, capped; in k equal steps it costs a k-th of it."""
    chosen = term("shock", cap=0.25)
    (whole,) = amount(chosen, moved(one, two))
    change = np.asarray(two) - np.asarray(one)
    assert whole == pytest.approx(min((100 / 200 * change**2).sum(), 0.25), abs=1e-12)
    assert whole == pytest.approx(amount(chosen, moved(two, one))[0], abs=1e-12)
    assert (whole > 0) == bool((change**2 > 0).any())
    way = np.linspace(one, two, parts + 1)
    free = term("shock", cap=99.0)
    steps = [float(amount(free, moved(a, b))[0]) for a, b in pairwise(way)]
    assert sum(steps) == pytest.approx(float(amount(free, moved(one, two))[0]) / parts, abs=1e-12)


def test_shocks_of_seeds_that_come_and_go() -> None:
    """Who appears costs nothing; who is taken out at full influence does; a panic is nobody's decision."""
    empty, there = standing([[-1]]), blended([[40]], 80)
    appears, leaves = epochs([empty, there])[0], epochs([there, empty])[0]
    assert amount(TERMS["shock"], appears).tolist() == [0.0]
    assert amount(TERMS["shock"], leaves).tolist() == [40 / 200]
    assert amount(TERMS["shock"], moved([1.0], [0.0], panicked=True)).tolist() == [0.0]


# prunes and losses


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(), min_age=st.integers(1, 6))
def test_an_early_prune_costs_where_it_was_carried_out(episode: Lived, min_age: int) -> None:
    """R20: 1 iff a seed of the named slot that is younger than `min_age` was pruned on purpose.

    The predecessor scored such a prune as waiting, so that its penalty was never reached.
    """
    chosen = term("early_prune", min_age=min_age)
    for t in episode:
        found = amount(chosen, t)
        for env, slot in enumerate(t.decision.slot.tolist()):
            pruned = t.decision.op[env] == Op.PRUNE and t.refused[env] == 0
            early = pruned and t.before.slots.age[env, slot] < min_age
            assert found[env] == float(early)
            waiting = attrs.evolve(t, decision=Decision.wait(len(found)))
            assert amount(chosen, waiting)[env] == 0.0


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes())
def test_a_seed_that_nobody_asked_to_go_is_counted_once(episode: Lived) -> None:
    """R17: Per slot: an uncommitted seed is gone, was not pruned, and was not being withdrawn."""
    for t in episode:
        found = amount(TERMS["lost_seed"], t)
        before, after = t.before.slots, t.after.slots
        for env, slot in np.ndindex(*found.shape):
            lost = before.stage[env, slot] in LIVE and before.seed[env, slot] != after.seed[env, slot]
            named = t.done[env] == Op.PRUNE and t.decision.slot[env] == slot
            expected = lost and not named and not before.withdrawing[env, slot]
            assert found[env, slot] == float(expected)


@pytest.mark.parametrize(
    ("stage", "known", "op", "named", "expected"),
    [
        (Stage.HOLDING, {}, Op.WAIT, 0, 1.0),
        (Stage.TRAINING, {}, Op.WAIT, 0, 1.0),
        (Stage.HOLDING, {}, Op.PRUNE, 0, 0.0),
        (Stage.HOLDING, {}, Op.PRUNE, 1, 1.0),
        (Stage.HOLDING, {}, Op.FOSSILIZE, 0, 1.0),
        (Stage.BLENDING, {"withdrawing": True}, Op.WAIT, 0, 0.0),
        (Stage.FOSSILIZED, {}, Op.WAIT, 0, 0.0),
    ],
)
def test_who_is_lost_by_hand(stage: Stage, known: Any, op: Op, named: int, expected: float) -> None:
    """The seed of slot 0 is gone, that of slot 1 is not."""
    before = standing([[0, 1]], stage=[[stage, Stage.HOLDING]], **known)
    (transition,) = epochs([before, standing([[-1, 1]])], ops=[[op]])
    slot = np.asarray([named])
    transition = attrs.evolve(transition, decision=attrs.evolve(transition.decision, slot=slot))
    assert amount(TERMS["lost_seed"], transition).tolist() == [[expected, 0.0]]


def test_prices_of_operations() -> None:
    """By hand: each operation its own, and nothing for waiting or for what was refused."""
    chosen = term("acted", germinate=1.0, advance=2.0, set_alpha_target=3.0, fossilize=4.0, prune=5.0)
    seed = np.full((len(Op), 1), -1)
    (transition,) = epochs([standing(seed), standing(seed)], ops=[list(Op)])
    assert amount(chosen, transition).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    refused = attrs.evolve(transition, refused=np.ones(len(Op), np.int64))
    assert amount(chosen, refused).tolist() == [0.0] * 6
    assert amount(TERMS["refused"], refused).tolist() == [1.0] * 6
    assert amount(TERMS["refused"], transition).tolist() == [0.0] * 6
