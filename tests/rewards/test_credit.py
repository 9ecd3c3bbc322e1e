"""Credit for seeds: continuous, at most what they contribute, and help is paid once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from built import FAMILIES, TERMS, amount, amounts, term
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_worlds import component, epochs, paid, standing
from worlds import family

from esper_core.plugin.rewards import Account, Transition
from esper_core.state.slots import Stage
from esper_core.testing.rewards import Lived, episodes
from esper_plugins.rewards.credit import combine, earned, limited

HOW = st.sampled_from(["contribution", "minimum", "harmonic", "geometric"])
MEANS = st.sampled_from(["minimum", "harmonic", "geometric"])
SCORES = st.floats(-1, 1)
SHARES = st.floats(1e-3, 1)
NONE = float("nan")


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def credit(how: str, p: float, c: float) -> float:
    return float(combine(how, np.asarray([[p]]), np.asarray([[c]]))[0, 0])


# contribution and progress


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(p=SHARES, c=SHARES, factor=st.floats(0.1, 9))
def test_credit_is_a_mean_of_contribution_and_progress(p: float, c: float, factor: float) -> None:
    """R9: For p <= c it lies between the two, min <= harmonic <= geometric, harmonic <= 2 min; h(x, x) = x,
    and h(kp, kc) = k h(p, c).
    """
    p, c = sorted((p, c))
    low, middle, high = (credit(how, p, c) for how in ("minimum", "harmonic", "geometric"))
    assert p == low <= middle + 1e-12
    assert middle <= high + 1e-12 <= c + 2e-12
    assert middle <= 2 * p + 1e-12
    for how in ("minimum", "harmonic", "geometric"):
        close(credit(how, c, c), c)
        close(credit(how, factor * p, factor * c), factor * credit(how, p, c))
        assert credit(how, 0.0, c) == credit(how, -p, c) == credit(how, p, 0.0) == 0.0


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(how=HOW, p=SCORES, q=SCORES, c=SCORES, d=SCORES)
def test_credit_rises_with_both(how: str, p: float, q: float, c: float, d: float) -> None:
    """R9: Non-decreasing in contribution and in progress."""
    (p, q), (c, d) = sorted((p, q)), sorted((c, d))
    assert credit(how, p, c) <= credit(how, q, c) + 1e-12
    assert credit(how, p, c) <= credit(how, p, d) + 1e-12


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(how=HOW, p=st.one_of(SCORES, st.just(NONE)), c=SCORES)
def test_credit_is_at_most_the_contribution(how: str, p: float, c: float) -> None:
    """R10: In [0, c]; with the minimum at most p, too; half of it where p is unknown; 0 for harm."""
    found = credit(how, p, c)
    assert 0.0 <= found <= max(c, 0.0) + 1e-12
    if how == "minimum" and p >= 0:
        assert found <= p + 1e-12
    if np.isnan(p):
        assert found == (max(c, 0.0) if how == "contribution" else max(c, 0.0) / 2)
    assert np.isnan(credit(how, p, NONE))


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    how=HOW,
    p=SCORES,
    c=SCORES,
    moved=st.tuples(SCORES, SCORES),
    size=st.sampled_from([1.0, 1e-3, 1e-6]),
)
def test_credit_is_lipschitz(how: str, p: float, c: float, moved: tuple[float, float], size: float) -> None:
    """R11: |credit - credit'| <= 2 |p - p'| + 2 |c - c'|; of the geometric mean, whose slope has no bound at
    p = 0, sqrt(c |p - p'|) for the first.
    """
    q, d = p + size * moved[0], c + size * moved[1]
    progress = np.sqrt(max(c, d, 0.0) * abs(p - q)) if how == "geometric" else 2 * abs(p - q)
    assert abs(credit(how, p, c) - credit(how, q, d)) <= progress + 2 * abs(c - d) + 1e-12


# what credit adds up to

CREDITS = st.lists(st.floats(0, 1), min_size=4, max_size=4)
STAGES = np.asarray([[Stage.FOSSILIZED, Stage.HOLDING, Stage.FOSSILIZED, Stage.BLENDING]])
KINDS = (STAGES[0] == Stage.FOSSILIZED, STAGES[0] != Stage.FOSSILIZED)


def limits(credit: Sequence[float], score: float, committed: float, bare: float) -> np.ndarray:
    at = standing([range(4)], stage=STAGES, score=score, committed=committed, bare=bare)
    return limited(np.asarray([credit]), at)[0]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(credit=CREDITS, score=SCORES, committed=SCORES, bare=SCORES)
def test_credit_adds_up_to_no_more_than_the_seeds_are_worth(
    credit: list[float], score: float, committed: float, bare: float
) -> None:
    """R10: That of committed seeds to at most max(0, committed - bare), that of others to at most
    max(0, score - committed), each reduced by the same share, and not at all where it is less.
    """
    found, given = limits(credit, score, committed, bare), np.asarray(credit)
    for kind, most in zip(KINDS, (max(committed - bare, 0.0), max(score - committed, 0.0)), strict=True):
        assert (found[kind] >= 0).all()
        assert (found[kind] <= given[kind] + 1e-12).all()
        close(found[kind].sum(), min(given[kind].sum(), most))
        close(np.outer(found[kind], given[kind]), np.outer(given[kind], found[kind]))


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    credit=CREDITS,
    scores=st.tuples(SCORES, SCORES, SCORES),
    moved=st.lists(SCORES, min_size=7, max_size=7),
    size=st.sampled_from([1.0, 1e-3, 1e-6]),
)
def test_limited_credit_is_lipschitz(
    credit: list[float], scores: tuple[float, float, float], moved: list[float], size: float
) -> None:
    """R11: Every seed's moves by at most the limit's move and 3 times the largest move of a credit."""
    steps = size * np.asarray(moved)
    others = np.maximum(np.asarray(credit) + steps[:4], 0.0)
    difference = limits(credit, *scores) - limits(others, *(np.asarray(scores) + steps[4:]))
    bound = 2 * np.abs(steps[4:]).max() + 3 * np.abs(others - np.asarray(credit)).max()
    assert (np.abs(difference) <= bound + 1e-12).all()


def test_credit_without_a_limit_is_unknown() -> None:
    """R26: Each kind by its own; and an unknown credit takes nothing away from others."""
    np.testing.assert_array_equal(
        limits([0.1, 0.2, 0.3, 0.4], 1.0, 0.5, NONE),
        [NONE, 0.2 * 0.5 / 0.6000000000000001, NONE, 0.4 * 0.5 / 0.6000000000000001],
    )
    np.testing.assert_array_equal(limits([0.1, NONE, 0.3, 0.4], NONE, 0.5, 0.0), [0.1, NONE, 0.3, NONE])
    np.testing.assert_array_equal(limits([0.1, NONE, 0.3, 0.4], 1.0, 0.5, 0.0), [0.1, NONE, 0.3, 0.4])


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(value=SCORES, error=st.floats(0, 1), errors=st.floats(0, 3), more=st.floats(0, 1))
def test_what_may_be_chance_earns_nothing(value: float, error: float, errors: float, more: float) -> None:
    """R10: max(0, value - errors * error): at most the value, less with every error, unknown as the value."""

    def found(value: float, error: float) -> float:
        return float(earned(np.asarray(value), np.asarray(error), errors))

    close(found(value, error), max(0.0, value - errors * error))
    assert found(value, error + more) <= found(value, error)
    close(found(value, NONE), max(0.0, value))
    assert np.isnan(found(NONE, error))


def test_progress_is_the_lowest_of_the_last_scores_since_the_seed_was_born() -> None:
    """By hand: the score before its birth was 2, and the window has 3 epochs, that before the birth included;
    unknown scores are left out, and leave the balance as it was.
    """
    scores = [2.0, 5.0, 7.0, NONE, 6.0, 9.0, 8.0]
    standings = [standing([[-1]], score=1.0), standing([[-1]], score=scores[0])]
    standings += [
        standing([[4]], score=score, contribution=9.0, committed=0.0, bare=0.0) for score in scores[1:]
    ]
    found = component(
        paid([term("attribution", combine="minimum", step=99.0)], epochs(standings)), "attribution"
    )
    balances = np.cumsum(found[:, 0, 0])
    close(balances, [0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 0.0])


# events and levels


WORTH = {"bare": 0.0, "committed": 1.0, "score": 1.0}


def granted(c: float, error: float, dwell: int) -> float:
    """What a bonus pays in the epoch of a commitment."""
    before = standing([[0]], stage=Stage.HOLDING, dwell=dwell)
    after = standing(
        [[0]], stage=Stage.FOSSILIZED, contribution=c, contribution_error=error, dwell=9, **WORTH
    )
    episode = epochs([before, after, after])
    return float(component(paid([term("bonus", errors=1.0, ripe=4)], episode), "bonus")[0, 0, 0])


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(c=SCORES, error=st.floats(0, 0.5), dwell=st.integers(0, 9), moved=SCORES)
def test_a_bonus_for_a_commitment_rises_with_contribution_and_ripeness(
    c: float, error: float, dwell: int, moved: float
) -> None:
    """R11, R23: It is 0 for c <= 0, at most c, non-decreasing in c and in the epochs in HOLDING, and changes
    by at most |c - c'|.
    """
    here, there = granted(c, error, dwell), granted(c + moved, error, dwell)
    assert 0.0 <= here <= max(c, 0.0)
    assert abs(here - there) <= abs(moved) + 1e-12
    assert (there - here) * moved >= 0
    assert here <= granted(c, error, dwell + 1)
    assert granted(c, error, 4) == granted(c, error, 9)


@pytest.mark.parametrize(
    ("c", "error", "expected"),
    [
        (0.0, 0.0, 0.0),
        (0.25, 0.5, 0.0),
        (0.75, 0.25, 0.5),
        (0.25, NONE, 0.25),
        (NONE, 0.0, 0.0),
        (-0.5, 0.0, 0.0),
    ],
)
def test_a_bonus_for_a_commitment_by_hand(c: float, error: float, expected: float) -> None:
    """What is more than chance; half of it where the seed was half ripe."""
    for dwell, share in ((9, 1.0), (4, 1.0), (2, 0.5), (0, 0.0)):
        close(granted(c, error, dwell), share * expected)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes())
def test_synergy_is_a_share_and_0_where_nothing_is_gained_together(episode: Lived) -> None:
    """R16: In [0, 1), 0 where the interactions add up to no more than 0, or the seed contributes nothing."""
    for t, found in zip(episode, amounts(TERMS["synergy"], episode), strict=True):
        together = np.nan_to_num(t.after.attribution.interaction).sum(axis=2)
        assert (found >= 0).all()
        assert (found <= 1).all()
        assert (found[(together <= 0) | ~(t.after.evidence.contribution > 0)] == 0).all()


def test_synergy_by_hand() -> None:
    """tanh(50 * 0.02) for two seeds that gain 0.02 together; a committed one has had its due."""
    interaction = [[[NONE, 0.02], [0.02, NONE]]]
    known = {"stage": [[Stage.HOLDING, Stage.FOSSILIZED]], "interaction": interaction, "bare": 0.0}
    for c, score, expected in ((0.5, 1.0, 0.02), (0.01, 1.0, 0.01), (0.5, 0.505, 0.005), (-0.5, 1.0, 0.0)):
        at = standing([[0, 1]], contribution=[[c, 0.5]], score=score, committed=0.5, **known)
        close(amount(TERMS["synergy"], at), [[np.tanh(50 * expected), 0.0]])


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(together=SHARES, gap=st.floats(-1, 0))
def test_synergy_is_gated_by_the_joint_score(together: float, gap: float) -> None:
    """R16: Seeds that are worse together than what is committed get nothing for it."""
    known = {"interaction": together, "contribution": 1.0, "committed": 0.5, "bare": 0.0}
    assert amount(TERMS["synergy"], standing([[0]], score=0.5 + gap, **known)).tolist() == [[0.0]]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(c=SCORES, error=st.floats(0, 0.5), moved=SCORES)
def test_a_seed_counts_as_contributing_in_proportion(c: float, error: float, moved: float) -> None:
    """R11: In [0, 1], 1 from `enough` on, and no threshold below; only committed seeds count."""
    whole = term("contributing", enough=0.1, errors=1.0)

    def found(c: float, stage: Stage) -> float:
        at = standing([[0]], stage=stage, contribution=c, contribution_error=error, **WORTH)
        return float(amount(whole, at)[0, 0])

    close(found(c, Stage.FOSSILIZED), min(max((c - error) / 0.1, 0.0), 1.0))
    assert abs(found(c, Stage.FOSSILIZED) - found(c + moved, Stage.FOSSILIZED)) <= abs(moved) / 0.1 + 1e-12
    assert found(c, Stage.HOLDING) == 0.0


# hindsight


def helped(
    boosts: Sequence[Sequence[float]], worth: Sequence[float], when: Sequence[int], *, length: int
) -> list[Transition]:
    """Seed 0 in slot 0 helps seeds in the slots behind it: `boosts` are `[epoch][beneficiary]`.

    Beneficiary j is committed in epoch `when[j]`, with the Shapley share `worth[j]`.
    """
    count = len(worth) + 1
    standings = [standing([range(count)])]
    for epoch in range(length):
        interaction = np.full((1, count, count), NONE)
        if epoch < len(boosts):
            interaction[0, 0, 1:] = interaction[0, 1:, 0] = boosts[epoch]
        stage = [Stage.HOLDING] + [Stage.FOSSILIZED if epoch >= w else Stage.HOLDING for w in when]
        standings.append(
            standing([range(count)], stage=[stage], interaction=interaction, shapley=[[0.0, *worth]])
        )
    return epochs(standings)


def credited(term: Account, episode: Sequence[Transition]) -> np.ndarray:
    """What slot 0 is paid, epoch by epoch."""
    return component(paid([term], episode), term.name)[:, 0, 0]


@pytest.mark.acceptance("RL-10")
def test_many_boosts_are_capped_after_they_are_added_up_and_consumed_once() -> None:
    """By hand, with memory 1/2: help is 8, 8 + 4, ... and what exceeds the cap is gone."""
    half = term("hindsight", memory=0.5, cap=10.0)
    boosts = [[8.0], [8.0], [8.0], [0.0], [0.0]]
    # help: 8, 12, 14, 7, 3.5; committed in epoch 2: 14 * 0.5 = 7, below the cap; nothing afterwards
    close(credited(half, helped(boosts, [0.5], [2], length=5)), [0, 0, 7, 0, 0])
    # committed in epoch 4: what is left of the help is 3.5
    close(credited(half, helped(boosts, [0.5], [4], length=6)), [0, 0, 0, 0, 1.75, 0])
    # the sum is capped, not its summands: each boost alone is worth 4, together they are worth 7 > 6
    low = term("hindsight", memory=0.5, cap=6.0)
    close(credited(low, helped(boosts, [0.5], [2], length=4)), [0, 0, 6, 0])
    # two beneficiaries, one after the other: 4 and then what the cap leaves, 2 of 5
    pair = [[8.0, 0.0], [0.0, 10.0], [0.0, 0.0]]
    close(credited(low, helped(pair, [0.5, 0.5], [0, 1], length=4)), [4, 2, 0, 0])
    # a hundred boosts of 0.01 are worth 1 / (1 - m) of one, and not more
    many = [[0.01]] * 100
    full = term("hindsight", memory=1.0, cap=10.0)
    close(credited(full, helped(many, [1.0], [99], length=101))[-3:], [0, 1.0, 0])


@pytest.mark.acceptance("RL-10")
def test_hindsight_is_off_unless_somebody_weights_it() -> None:
    """A weight of 0 is no term at all; a configuration may give it another."""
    assert not any(t.name == "hindsight" for family in FAMILIES.values() for t in family.terms)
    (found,) = (t for t in family("shapley", hindsight={"weight": 2.0}).terms if t.name == "hindsight")
    assert found.weight == 2.0


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    boosts=st.lists(st.floats(-1, 1), min_size=1, max_size=5),
    worth=st.floats(-1, 1),
    more=st.floats(0, 1),
    memory=st.floats(0, 1),
    cap=st.sampled_from([0.2, 9.0]),
)
def test_help_is_worth_what_it_led_to(
    boosts: list[float], worth: float, more: float, memory: float, cap: float
) -> None:
    """L9: In [0, cap]; 0 without help or without worth; it rises with both and falls with the delay."""
    chosen = term("hindsight", memory=memory, cap=cap)

    def found(boosts: Sequence[float], worth: float, delay: int = 0) -> float:
        when = len(boosts) - 1 + delay
        lived = helped([[b] for b in boosts], [worth], [when], length=when + 1)
        return float(credited(chosen, lived).sum())

    # the helper is committed by nobody: its account is vested by having helped
    here = found(boosts, worth)
    assert 0.0 <= here <= cap
    if worth <= 0 or max(boosts) <= 0:
        assert here == 0.0
    assert here <= found(boosts, worth + more) + 1e-12
    assert here <= found([b + more for b in boosts], worth) + 1e-12
    assert found(boosts, worth, delay=2) <= here + 1e-12


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    boosts=st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 0.1)), min_size=2, max_size=2),
    worth=st.tuples(SHARES, SHARES),
)
def test_help_for_several_adds_up_in_any_order(
    boosts: list[tuple[float, float]], worth: tuple[float, float]
) -> None:
    """L9: Below the cap credit is additive, and it does not matter who is committed first, but for memory."""
    free = term("hindsight", memory=1.0, cap=99.0)

    def found(when: Sequence[int]) -> float:
        return float(credited(free, helped(boosts, worth, when, length=4)).sum())

    expected = sum((boosts[0][j] + boosts[1][j]) * worth[j] for j in (0, 1))
    for when in ((1, 1), (1, 2), (2, 1)):
        close(found(when), expected)


def test_a_helper_keeps_its_credit_when_it_is_gone() -> None:
    """To help and to go is what a scaffold is for; whoever takes its slot begins with nothing."""
    lived = helped([[0.5]], [0.2], [0], length=1)
    helper, beneficiary = lived[0].before, lived[0].after
    gone = standing([[-1, 1]], stage=[[Stage.PRUNED, Stage.FOSSILIZED]])
    other = standing([[2, 1]], stage=[[Stage.TRAINING, Stage.FOSSILIZED]])
    close(credited(TERMS["hindsight"], epochs([helper, beneficiary, gone, other, other])), [0.1, 0, 0, 0])


def test_what_was_helped_and_is_lost_pays_nothing() -> None:
    """Not when it was replaced by another seed, and not when the host panicked as it was committed."""
    lived = helped([[0.5], [0.0]], [0.2], [9], length=2)
    before, holding = lived[0].before, lived[0].after
    stages = [[Stage.HOLDING, Stage.FOSSILIZED]]
    other = standing([[0, 2]], stage=stages, shapley=0.2)
    same = standing([[0, 1]], stage=stages, shapley=0.2)
    for after, panicked, expected in ((other, False, 0.0), (same, True, 0.0), (same, False, 0.1)):
        episode = epochs([before, holding, after], [[False], [panicked]])
        close(credited(term("hindsight", memory=1.0), episode), [0.0, expected])


def test_a_survivor_of_a_panic_keeps_the_credit_for_its_help() -> None:
    """What the term remembers is gone with the segment; what the seed was paid is not."""
    stages = [[Stage.FOSSILIZED, Stage.HOLDING]]
    both = [[Stage.FOSSILIZED, Stage.FOSSILIZED]]
    begin = standing([[0, 1]], stage=stages)
    helps = standing([[0, 1]], stage=both, interaction=0.5, shapley=0.2)
    later = standing([[0, 1]], stage=both, shapley=0.2)
    episode = epochs([begin, helps, later, later, later], [[False], [True], [False], [False]])
    close(credited(TERMS["hindsight"], episode), [0.1, 0.0, 0.0, 0.0])
