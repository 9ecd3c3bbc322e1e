"""The kernel on Esper's own families: what is paid is the weighted sum of what terms supply."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np
import pytest
from built import FAMILIES, TERMS, term
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_worlds import epochs, paid, standing

from esper_core.errors import PluginError
from esper_core.phases.reward import Rewards, check
from esper_core.plugin.rewards import (
    MEASUREMENTS,
    Account,
    Event,
    Flow,
    Memory,
    Potential,
    RewardFamily,
    Term,
    Transition,
)
from esper_core.testing.rewards import Lived, episodes, pay_episode

MODES = st.sampled_from(sorted(FAMILIES))
GAMMAS = st.sampled_from([1.0, 0.99, 0.5])
WEIGHTS = st.floats(-3, 3)


def totals(terms: Sequence[Term], episode: Sequence[Transition], gamma: float) -> np.ndarray:
    family = RewardFamily(name="test", terms=tuple(terms))
    return np.stack([payment.total for payment in pay_episode(family, episode, gamma=gamma, penalty=2.5)])


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(mode=MODES, episode=episodes(), gamma=GAMMAS)
def test_the_reward_is_the_sum_of_its_components(mode: str, episode: Lived, gamma: float) -> None:
    """R1: Exact to 1e-9, of environments and of slots, with what panics cost."""
    for t, payment in zip(
        episode, pay_episode(FAMILIES[mode], episode, gamma=gamma, penalty=2.5), strict=True
    ):
        parts = [amount.reshape(len(amount), -1).sum(axis=1) for amount in payment.components.values()]
        np.testing.assert_allclose(payment.total, sum(parts), rtol=0, atol=1e-9)
        assert payment.components.keys() == {"panic", *(term.name for term in FAMILIES[mode].terms)}
        np.testing.assert_array_equal(payment.components["panic"], np.where(t.panicked, -2.5, 0.0))


BOUNDED = [
    attrs.evolve(found, weight=weight)
    for found, weight in zip(
        [found for found in TERMS.values() if np.isfinite([found.low, found.high]).all()],
        np.linspace(-2, 2, len(TERMS)),
        strict=False,
    )
]


def most(term: Term, slots: int, gamma: float) -> float:
    """The most that a term can pay an environment in an epoch, by its kind and its bounds."""
    largest = max(abs(term.low), abs(term.high))
    if isinstance(term, Potential):
        largest = max(gamma * term.high - term.low, term.high - gamma * term.low)
    if isinstance(term, Account):
        largest = term.high / gamma
    return abs(term.weight) * largest * slots


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(), gamma=GAMMAS)
def test_bounds_of_terms_bound_the_reward(episode: Lived, gamma: float) -> None:
    """R2: |total| <= the sum of what each term can pay at most, and the penalty."""
    assert len(BOUNDED) > 10
    slots = episode[0].before.slots.shape[1]
    bound = sum(most(term, slots, gamma) for term in BOUNDED) + 2.5
    found = totals(BOUNDED, episode, gamma)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= bound + 1e-9).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(mode=MODES, episode=episodes(), gamma=GAMMAS, a=WEIGHTS, b=WEIGHTS, data=st.data())
def test_a_family_is_linear_in_its_weights(
    mode: str, episode: Lived, gamma: float, a: float, b: float, data: st.DataObject
) -> None:
    """R4: total(a w + b v) = a total(w) + b total(v); a weight of 0 is no term; the order does not matter."""
    terms = FAMILIES[mode].terms
    one = np.asarray([term.weight for term in terms])
    two = np.asarray(data.draw(st.lists(WEIGHTS, min_size=len(one), max_size=len(one))))

    def total(weights: Any, order: Sequence[int] = range(len(terms))) -> np.ndarray:
        weighted = [attrs.evolve(term, weight=w) for term, w in zip(terms, weights, strict=True)]
        family = RewardFamily(name="test", terms=tuple(weighted[i] for i in order))
        return np.stack([payment.total for payment in pay_episode(family, episode, gamma=gamma)])

    np.testing.assert_allclose(
        total(a * one + b * two), a * total(one) + b * total(two), rtol=1e-9, atol=1e-6
    )
    np.testing.assert_array_equal(total(one, data.draw(st.permutations(range(len(terms))))), total(one))
    alone = total(np.where(np.arange(len(one)) == 0, one, 0.0))
    kept = RewardFamily(name="test", terms=terms[:1])
    np.testing.assert_array_equal(
        alone, np.stack([payment.total for payment in pay_episode(kept, episode, gamma=gamma)])
    )


# what is measured, by name


def needing(*names: str) -> RewardFamily:
    term = Flow(name="flow", units="", low=0.0, high=1.0, needs=names, amount=len)
    return RewardFamily(name="test", terms=(term,))


def test_needs_are_names_of_what_is_measured() -> None:
    check(needing(*MEASUREMENTS))
    message = (
        r"reward test: Flow 'flow': nobody measures 'shapely', which it needs; did you mean 'shapley'\?; "
        r"esper_core.plugin.MEASUREMENTS names what there is"
    )
    with pytest.raises(PluginError, match=f"^{message}$"):
        check(needing("shapely"))
    with pytest.raises(PluginError, match="nobody measures 'stage'"):
        check(needing("stage"))


def test_a_reward_needs_what_its_terms_need() -> None:
    families = {"one": needing("rank"), "two": needing("loss", "rank")}
    assert Rewards(families=families, modes=np.asarray([0, 1])).needs == {"rank", "loss"}


def test_an_account_that_never_moves_is_refused() -> None:
    frozen = attrs.evolve(term("share"), step=0.0)
    with pytest.raises(PluginError, match=r"its 'step' must be above 0, or it never pays, not 0\.0"):
        check(RewardFamily(name="test", terms=(frozen,)))


# what a term remembers


def counter() -> Event:
    """Pays how many epochs of the segment were played, the present one included."""
    memory = Memory(
        blank=lambda envs, slots: np.zeros((envs, 1)), follow=lambda noted, transition: noted + 1.0
    )
    return Event(
        name="count", units="epochs", low=0.0, high=99.0, memory=memory, amount=lambda t: t.after.noted[:, 0]
    )


def test_a_memory_follows_every_epoch_and_begins_anew_with_every_segment() -> None:
    """L10: In each environment on its own."""
    episode = epochs([standing([[-1], [-1]])] * 6, [[n == 1 and t == 2 for n in (0, 1)] for t in range(5)])
    found = [payment.total.tolist() for payment in paid([counter()], episode)]
    assert found == [[1, 1], [2, 2], [3, 3], [4, 1], [5, 2]]


def test_a_term_sees_no_memory_but_its_own() -> None:
    def none(t: Transition) -> Any:
        assert t.before.noted.size == t.after.noted.size == 0
        return np.zeros(len(t.refused))

    forgetful = Event(name="none", units="", low=0.0, high=0.0, amount=none)
    paid([counter(), forgetful], epochs([standing([[-1]])] * 3))


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    modes=st.lists(st.integers(0, 3), min_size=1, max_size=5), envs=st.lists(st.integers(0, 99), max_size=8)
)
def test_environments_are_grouped_by_their_numbers(modes: list[int], envs: list[int]) -> None:
    """The mode of environment e is the one listed at e modulo their count, whoever plays beside it."""
    families = dict.fromkeys(map(str, range(4)), RewardFamily(name="", terms=()))
    rewards = Rewards(families=families, modes=np.asarray(modes))
    group = rewards.group(np.asarray(envs, np.int64))
    assert group.tolist() == [modes[env % len(modes)] for env in envs]


def test_one_family_pays_everybody() -> None:
    family = FAMILIES["sparse"]
    rewards = Rewards.of(family)
    assert rewards.families == {family.name: family}
    assert rewards.group(np.arange(5)).tolist() == [0] * 5
    assert partial(Rewards.of, family)().needs == frozenset({"score", "committed"})
