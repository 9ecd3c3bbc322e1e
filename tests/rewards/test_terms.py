"""What every term that Esper brings holds, on random episodes: the statements are about all of them."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import count
from typing import Any

import attrs
import numpy as np
import pytest
from built import FAMILIES, TERMS, amounts, changed
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_core.errors import RunError
from esper_core.plugin.rewards import (
    Account,
    Event,
    Flow,
    Outcome,
    Potential,
    RewardFamily,
    Standing,
    Term,
    Transition,
)
from esper_core.state.actions import Decision, Op
from esper_core.state.slots import LIVE, Stage
from esper_core.testing.rewards import Lived, check_terms, episodes, pay_episode, without
from esper_plugins.rewards.credit import WORTH

GAMMAS = st.sampled_from([1.0, 0.99, 0.5])
SEEDS = st.integers(0, 2**32)
Paid = dict[str, list[np.ndarray]]


def paid(episode: Sequence[Transition], gamma: float = 1.0, names: Iterable[str] = TERMS) -> Paid:
    """What terms pay, epoch by epoch."""
    family = RewardFamily(name="terms", terms=tuple(TERMS[name] for name in names))
    found = pay_episode(family, episode, gamma=gamma)
    return {name: [payment.components[name] for payment in found] for name in names}


def assert_same(one: Paid, other: Paid, close: float = 0.0) -> None:
    for name, found in one.items():
        for a, b in zip(found, other[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=close, err_msg=name)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(), gamma=GAMMAS)
def test_every_term_is_bounded_pure_honest_and_blind_to_names(episode: Lived, gamma: float) -> None:
    """R2, R3, R24: Every term is finite and within its bounds, keeps no state, changes nothing that it is
    given, reads no measurement that it does not declare, keeps environments apart, and treats slots alike.
    """
    check_terms(TERMS, episode, gamma=gamma)


@pytest.mark.parametrize(
    ("name", "need"),
    [
        (name, need)
        for name, term in TERMS.items()
        for need in sorted(term.needs)
        # a limit has three scores, of which those count whose kind of seeds is credited
        if not set(WORTH) <= term.needs or need not in WORTH
    ],
)
def test_every_need_makes_a_difference(name: str, need: str) -> None:
    def differs(episode: Lived) -> bool:
        try:
            one, two = (amounts(TERMS[name], lived) for lived in (episode, without(episode, [need])))
        except RunError:  # a score without a committed score
            return True
        return any((a != b).any() for a, b in zip(one, two, strict=True))

    assert any(differs(episode) for episode in some_episodes())


@cache
def some_episodes() -> list[Lived]:
    """The same ones every time."""
    found = []

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(episode=episodes(max_epochs=8))
    def look(episode: Lived) -> None:
        found.append(episode)

    look()
    return found


def check_some(check: Callable[[Lived], None], known: bool = False) -> None:
    """Check some episodes, or those of them in which all hosts are known to live and nothing is unknown."""
    for episode in some_episodes():
        if not known or not any(np.isnan(t.after.signals.committed).any() for t in episode):
            check(episode)


def _flow(amount: Callable[[Standing], Any]) -> Flow:
    return Flow(units="", low=0.0, high=99.0, amount=amount)


CALLS = count()
BROKEN = {
    "too high": (_flow(lambda at: at.slots.age * 99.0), r"'it' is out of bounds .* within \[0.0, 99.0\]"),
    "infinite": (_flow(lambda at: np.full(len(at.slots.seed), np.nan)), "'it' is not finite in epoch 0"),
    "a wrong shape": (_flow(lambda at: at.slots.seed.T[:0]), r"'it' has shape \(0, "),
    "stateful": (
        _flow(lambda at: at.slots.age * 0.0 + next(CALLS) % 7),
        "paid twice, it pays something else",
    ),
    "dishonest": (
        _flow(lambda at: np.nan_to_num(at.signals.loss)),
        "term 'it': it reads loss; name that in 'needs', or do not read it",
    ),
    "dishonest and not finite": (
        _flow(lambda at: np.where(at.slots.born > 0, at.signals.committed, 0.0) * 0.0),
        "term 'it': it reads committed; name that in 'needs', or do not read it",
    ),
    "curious": (
        _flow(lambda at: at.slots.age + at.slots.age.max()),
        "term 'it': it pays an environment for what others do; keep them apart: axis 0",
    ),
    "partial": (
        _flow(lambda at: at.slots.age[:, 0] * 1.0),
        "term 'it': it pays something else when slots change places; treat all slots alike",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_term_that_is_not_safe_to_pay_is_told_so(name: str) -> None:
    """The check that strangers run refuses what it should."""
    broken, said = BROKEN[name]
    with pytest.raises(AssertionError, match=said):
        check_some(lambda episode: check_terms({"it": broken}, episode), known="dishonest" in name)


def test_a_term_that_writes_to_what_it_is_given_is_stopped() -> None:
    def scribble(at: Standing) -> Any:
        at.slots.age[:] = 0
        return at.slots.age

    with pytest.raises(ValueError, match="read-only"):
        check_some(lambda episode: check_terms({"it": _flow(scribble)}, episode))


# continuity


def nudged(episode: Lived, seed: int, size: float) -> Lived:
    """The episode in which every measurement is off by at most `size`; what is unknown stays so."""
    rng = np.random.default_rng(seed)

    def record(table: Any) -> Any:
        floats = {a.name: getattr(table, a.name) for a in attrs.fields(type(table))}
        moved = {
            name: value + rng.uniform(-size, size, value.shape)
            for name, value in floats.items()
            if value.dtype == np.float64
        }
        return attrs.evolve(table, **moved)

    def move(at: Standing, epoch: int) -> Standing:
        parts = {name: record(getattr(at, name)) for name in ("signals", "evidence", "attribution")}
        return attrs.evolve(at, **parts)

    return changed(episode, move)


def assert_continuous(found: Callable[[Lived], Paid], episode: Lived, seed: int) -> None:
    """1e-10 apart, measurements are paid at most 1e-4 apart: no thresholds; sqrt(1e-10) is 1e-5."""
    assert_same(found(episode), found(nudged(episode, seed, 1e-10)), close=1e-4)


def _discounted_by_a_threshold(episode: Lived) -> Paid:
    """The predecessor's discount of a level of credit by its joint contribution J: 1 down to 0, then 1/2."""

    def amount(at: Standing) -> np.ndarray:
        gap = (at.signals.score - at.signals.committed)[:, None] * 100
        trusted = np.where(gap >= 0, 1.0, 1 / (1 + np.exp(-3 * np.minimum(gap, 0.0))))
        return np.nan_to_num(at.evidence.contribution * trusted)

    return {"it": [amount(t.after) for t in episode]}


@pytest.mark.defect("B25")
@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(), seed=SEEDS)
def test_every_term_is_continuous_in_every_measurement(episode: Lived, seed: int) -> None:
    """R11: No threshold turns the error of a measurement into a jump of the reward.

    Random episodes have ties: contributions of exactly 0, live scores that equal committed ones.
    """
    assert_continuous(paid, episode, seed)


@pytest.mark.defect("B25")
def test_the_predecessors_discount_is_not_continuous() -> None:
    with pytest.raises(AssertionError):
        check_some(lambda episode: assert_continuous(_discounted_by_a_threshold, episode, 0))


# what was decided, and what was done

TOLD = [name for name, term in TERMS.items() if isinstance(term, Event) or term.memory is not None]
"""Terms that are told of decisions; the others see standings only."""


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes())
def test_what_was_refused_is_paid_as_waiting(episode: Lived) -> None:
    """R22: But for the term that says so, a decision that was refused is paid as if nobody had decided."""
    ones = np.ones(len(episode[0].refused), np.int64)
    refused = [attrs.evolve(t, refused=ones) for t in episode]
    waiting = [attrs.evolve(t, refused=0 * ones, decision=Decision.wait(len(ones))) for t in episode]
    one, two = (paid(lived, names=TOLD) for lived in (refused, waiting))
    assert all((amount == 1).all() for amount in one.pop("refused"))
    assert all((amount == 0).all() for amount in two["refused"])
    assert_same(one, two)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(), slot=st.integers(0, 2))
def test_a_slot_that_waiting_names_is_never_read(episode: Lived, slot: int) -> None:
    """R24: What an operation does not use is a placeholder."""
    place = np.full(len(episode[0].refused), slot % episode[0].before.slots.shape[1])
    wait = Decision.wait(len(place))
    named = [attrs.evolve(t, decision=attrs.evolve(wait, slot=place)) for t in episode]
    unnamed = [attrs.evolve(t, decision=wait) for t in episode]
    assert_same(paid(named, names=TOLD), paid(unnamed, names=TOLD))


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes())
def test_operations_cost_and_waiting_does_not(episode: Lived) -> None:
    """R17: Whatever was done has a price of at least 0, and no family turns it into a bonus."""
    for t, amount in zip(episode, amounts(TERMS["acted"], episode), strict=True):
        assert (amount >= 0).all()
        assert (amount[(t.decision.op == Op.WAIT) | (t.refused != 0)] == 0).all()
    for family in FAMILIES.values():
        assert all(term.weight <= 0 for term in family.terms if term.name in ("acted", "refused"))


# unknown, drifting, final

CREDIT = {"contribution", "shapley", "interaction", "banzhaf"}


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(), gamma=GAMMAS)
def test_what_is_unknown_is_neither_harm_nor_merit(episode: Lived, gamma: float) -> None:
    """R26: A term whose measurements were never taken pays nothing, and credit needs its own."""
    for needs in {term.needs for term in TERMS.values()} - {frozenset()}:
        names = [name for name, term in TERMS.items() if term.needs == needs]
        for unknown in {needs, needs & CREDIT} - {frozenset()}:
            for name, found in paid(without(episode, unknown), gamma, names).items():
                for amount in found:
                    np.testing.assert_array_equal(amount, 0.0, err_msg=f"{name} without {unknown}")


CAUSAL = (
    "share",
    "share banzhaf",
    "share contribution",
    "attribution contribution",
    "attribution_level contribution",
    "bonus",
    "hindsight",
    "synergy",
    "contributing",
    "gain",
)
"""Terms that pay for what seeds cause."""


def drifting(episode: Lived, seed: int) -> Lived:
    """The episode with random numbers added to the scores of all coalitions, epoch by epoch."""
    drift = np.random.default_rng(seed).uniform(-1, 1, (len(episode) + 1, len(episode[0].refused)))

    def moved(table: Any, epoch: int, *names: str) -> Any:
        return attrs.evolve(table, **{name: getattr(table, name) + drift[epoch] for name in names})

    def move(at: Standing, epoch: int) -> Standing:
        return attrs.evolve(
            at,
            signals=moved(at.signals, epoch, "score", "committed", "best"),
            attribution=moved(at.attribution, epoch, "score", "committed", "bare"),
        )

    return changed(episode, move)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(), seed=SEEDS, gamma=GAMMAS)
def test_a_host_that_drifts_by_itself_moves_no_causal_term(episode: Lived, seed: int, gamma: float) -> None:
    """R25: Scores of all coalitions may rise and fall together: seeds are paid the same.

    Credit in view of the progress since germination is not causal, and says so.
    """
    one, two = (paid(lived, gamma, CAUSAL) for lived in (episode, drifting(episode, seed)))
    assert_same(one, two, close=1e-9)


def test_credit_by_progress_is_moved_by_a_drifting_host() -> None:
    """So that the property above could fail."""

    def moved(name: str) -> bool:
        pairs = (
            (paid(e, names=[name])[name], paid(drifting(e, 0), names=[name])[name]) for e in some_episodes()
        )
        return any(np.abs(a - b).max() > 1e-9 for one, two in pairs for a, b in zip(one, two, strict=True))

    assert moved("attribution minimum")
    assert moved("score")
    assert not moved("share")


OUTCOMES = [name for name, term in TERMS.items() if isinstance(term, Outcome)]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes())
def test_outcomes_are_paid_in_the_last_epoch_only(episode: Lived) -> None:
    """R18: What an episode came to is paid once."""
    for found in paid(episode, names=OUTCOMES).values():
        assert all((amount == 0).all() for amount in found[:-1])


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes())
def test_levels_of_credit_are_for_seeds_that_are_not_committed(episode: Lived) -> None:
    """R12, R14: A level is 0 for a committed seed and for an empty slot, and the harm of a live one is paid
    in full, undiscounted.
    """
    for name, found in paid(
        episode, names=("attribution_level", "attribution_level contribution", "synergy")
    ).items():
        for t, amount in zip(episode, found, strict=True):
            live = t.after.slots.within(LIVE)
            assert (amount[~live] == 0).all()
            harmful = live & (t.after.evidence.contribution < 0)
            harm = t.after.evidence.contribution[harmful] if name != "synergy" else 0.0
            np.testing.assert_array_equal(amount[harmful], harm)


@pytest.mark.defect("B24")
@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(max_epochs=8))
def test_a_bonus_for_a_commitment_is_paid_if_it_happened(episode: Lived) -> None:
    """R23: A seed that is paid one has been committed.

    The predecessor paid for the order, whether or not it could be carried out.
    """
    assert_committed(episode, [amount > 0 for amount in amounts(TERMS["bonus"], episode)])


def assert_committed(episode: Lived, paid: Sequence[np.ndarray]) -> None:
    """Who is `paid`, `[N, S]` epoch by epoch, is committed, and was not replaced."""
    for t, bonus in zip(episode, paid, strict=True):
        before, after = t.before.slots, t.after.slots
        assert (after.stage[bonus] == Stage.FOSSILIZED).all()
        assert (after.seed[bonus] == before.seed[bonus]).all()


@pytest.mark.defect("B24")
def test_a_bonus_for_the_order_is_paid_for_what_did_not_happen() -> None:
    def ordered(t: Transition) -> np.ndarray:
        """The predecessor's: the named slot's seed, in HOLDING, when FOSSILIZE is asked for."""
        named = np.arange(t.before.slots.shape[1]) == t.decision.slot[:, None]
        asked = (t.decision.op == Op.FOSSILIZE)[:, None] & named
        return asked & (t.before.slots.stage == Stage.HOLDING) & (t.before.evidence.contribution > 0)

    with pytest.raises(AssertionError):
        check_some(lambda episode: assert_committed(episode, [ordered(t) for t in episode]))


def test_there_is_a_term_of_every_kind() -> None:
    kinds = {type(term) for term in TERMS.values()}
    assert kinds == {Flow, Event, Potential, Account, Outcome}
    assert all(
        isinstance(term, Term) and term.units and not term.needs & {"players"} for term in TERMS.values()
    )
