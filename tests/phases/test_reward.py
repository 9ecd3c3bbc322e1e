"""The kernel pays every kind of term as it must; the default pays what was shipped, whatever happens."""

from copy import deepcopy
from typing import Any

import attrs
import numpy as np
import pytest
from attrs import evolve
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from reward_worlds import (
    World,
    account,
    component,
    epochs,
    everything,
    flow,
    paid,
    potential,
    standing,
    take_all,
    totals,
    worlds,
)
from worlds import EVERYTHING, cast_of, family, play, program, rewards, script, spirals, step

from esper_core.errors import PluginError, RunError
from esper_core.phases import reward
from esper_core.plugin.rewards import Event, Memory, Outcome, RewardFamily, Term
from esper_core.state.settings import GrowthSettings, OptimizerSettings, TrainSettings
from esper_core.state.slots import Stage
from esper_plugins.policies import random
from esper_plugins.rewards.settings import CommittedRent

NONE = float("nan")
GAMMAS = st.sampled_from([1.0, 0.99, 0.5])
FAST = OptimizerSettings(lr=0.2)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def scores(*values: Any) -> list[Any]:
    """One standing of one environment without seeds per score."""
    return [standing([[-1]], score=value) for value in values]


# potentials


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(world=worlds(), gamma=GAMMAS)
def test_potentials_telescope_in_every_segment(world: World, gamma: float) -> None:
    """A segment pays minus its first known level, discounted; nothing that happens later matters."""
    amounts = component(paid([potential()], world.episode, gamma), "score")
    for env in range(amounts.shape[1]):
        begin, base = 0, NONE
        for end, transition in enumerate(world.episode):
            if transition.terminal[env]:
                levels = [t.after.signals.score[env] for t in world.episode[begin : end + 1]]
                inside = levels[:-1] if transition.panicked[env] else levels
                known = [(0, base), *((k + 1, level) for k, level in enumerate(inside))]
                first = next(((k, level) for k, level in known if not np.isnan(level)), (0, 0.0))
                discounts = gamma ** np.arange(end + 1 - begin)
                close((discounts * amounts[begin : end + 1, env]).sum(), -(gamma ** first[0]) * first[1])
                begin, base = end + 1, levels[-1]


def test_a_potential_by_hand() -> None:
    """An unknown level stays as it was; the first known one, whenever it comes, is where it starts."""
    amounts = component(
        paid([potential(weight=10.0)], epochs(scores(NONE, NONE, 2, NONE, 4, 3)), 0.5), "score"
    )
    assert amounts[:, 0].tolist() == [0.0, 0.0, -10.0, 0.0, -40.0]
    amounts = component(paid([potential()], epochs(scores(NONE, 3)), 0.5), "score")
    assert amounts.tolist() == [[-1.5]], "an episode of one epoch starts where it ends"


def test_a_panic_takes_back_the_level_and_the_next_segment_starts_from_what_it_brought_back() -> None:
    panicked = [[False], [False], [True], [False], [False]]
    episode = epochs(scores(NONE, 2, 5, 3, 6, 7), panicked)
    assert component(paid([potential()], episode), "score")[:, 0].tolist() == [0, 3, -5, 3, -6]
    episode = epochs(scores(NONE, 2, 5, NONE, 6, 7), panicked)
    assert component(paid([potential()], episode), "score")[:, 0].tolist() == [0, 3, -5, 0, -6]


@pytest.mark.parametrize("level", [NONE, 4.0])
def test_a_panic_before_anything_was_known_takes_nothing_back(level: float) -> None:
    """In the first epoch, and in an episode that has no other."""
    episode = epochs(scores(NONE, level, 7), [[True], [False]])
    assert component(paid([potential()], episode), "score")[:, 0].tolist() == [
        0,
        -np.nan_to_num(level, nan=7),
    ]
    assert component(paid([potential()], epochs(scores(NONE, level), [[True]])), "score").tolist() == [[0]]


# accounts


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(world=worlds())
def test_accounts_are_those_of_a_bookkeeper_who_knows_every_seed(world: World) -> None:
    """Kept seed by seed in a dictionary; and what remains of a seed's payments is what it vested with."""
    amounts = component(paid([account(weight=2.0)], world.episode), "share")
    books: dict[tuple[int, int], float] = {}
    vested: set[tuple[int, int]] = set()
    for t, transition in enumerate(world.episode):
        expected = np.zeros(amounts.shape[1:])
        for n, s in np.ndindex(*expected.shape):
            key, last = ((n, world.seed[i, n, s]) for i in (t + 1, t))
            if last != key and last in books:
                kept = last in vested and not transition.panicked[n]
                expected[n, s] -= 0.0 if kept else books.pop(last)
            if key[1] < 0:
                continue
            if world.fossil[t + 1, n, s]:
                vested.add(key)
            if transition.terminal[n] and key not in vested:
                expected[n, s] -= books.pop(key, 0.0)
                continue
            target = transition.after.evidence.shapley[n, s]
            new = books.get(key, 0.0) if np.isnan(target) else target
            expected[n, s] += new - books.get(key, 0.0)
            books[key] = new
        close(amounts[t], 2 * expected)
    assert books.keys() <= vested, "an episode closes every account that is not vested"
    left = np.zeros(amounts.shape[1])
    for (n, _), amount in books.items():
        left[n] += amount
    close(amounts.sum(axis=(0, 2)), 2 * left)


def lived(*life: tuple[int, float, bool], **changes: Any) -> list[float]:
    """What an account pays for one slot of one environment: (seed, target, committed) after every epoch."""
    stages = [Stage.FOSSILIZED if vested else Stage.HOLDING for _, _, vested in life]
    standings = [
        standing([[-1]]),
        *(
            standing([[n]], shapley=target, **({"stage": stage} if n >= 0 else {}))
            for (n, target, _), stage in zip(life, stages, strict=True)
        ),
    ]
    found: list[float] = component(paid([account(**changes)], epochs(standings)), "share")[:, 0, 0].tolist()
    return found


def test_every_unvested_way_out_takes_the_balance_back() -> None:
    alive, gone = (0, 3.0, False), (-1, 3.0, False)
    assert lived(alive, (0, 5.0, False), gone, gone) == [3, 2, -5, 0], "pruned"
    assert lived(alive, (0, NONE, False), (0, 1.0, False), gone) == [3, 0, -2, -1], "unknown changes nothing"
    assert lived(alive, (1, 4.0, False), gone) == [3, 1, -4], "the slot has another seed at once"
    assert lived(alive, alive, alive) == [3, 0, -3], "the episode ends"
    assert lived(gone, gone) == [0, 0], "a slot without a seed has no target"


def test_a_vested_seed_keeps_its_balance_which_goes_on_following_its_target() -> None:
    alive, vested, gone = (0, 3.0, False), (0, 8.0, True), (-1, 0.0, False)
    assert lived(alive, vested, (0, 4.0, True)) == [3, 5, -4]
    assert lived(alive, vested, (0, 8.0, False), gone) == [3, 5, 0, 0], "vested once is vested"
    assert lived(alive, vested, (1, 2.0, False), gone) == [3, 5, 2, -2], "the next seed has its own"
    assert lived(vested, vested) == [8, 0]
    assert lived(alive, (0, 3.0, True)) == [3, 0], "vested in the last epoch"


def test_a_seed_that_was_committed_and_is_lost_in_a_panic_pays_its_balance_back() -> None:
    """Else to commit, to fail, and to commit again would be a living."""
    standings = [
        standing([[-1]]),
        standing([[0]], shapley=3.0),
        standing([[0]], shapley=3.0, stage=Stage.FOSSILIZED),
        standing([[-1]]),
        standing([[-1]]),
    ]
    for gamma in (1.0, 0.5):
        amounts = component(
            paid([account()], epochs(standings, [[False], [False], [True], [False]]), gamma), "share"
        )
        assert gamma ** np.arange(4) @ amounts[:, 0, 0] == 0.0


def test_a_panic_closes_accounts_and_a_seed_that_comes_back_starts_from_nothing() -> None:
    seeds = [[[-1, -1]], [[0, 1]], [[0, 1]], [[0, 1]], [[0, 1]]]
    stages = [[0, 0], [4, 5], [4, 5], [4, 5], [4, 5]]
    standings = [standing(n, stage=s, shapley=2.0) for n, s in zip(seeds, stages, strict=True)]
    episode = epochs(standings, [[False], [True], [False], [False]])
    assert component(paid([account()], episode), "share")[:, 0].tolist() == [[2, 2], [-2, 0], [2, 0], [-2, 0]]


# flows, events, outcomes, panics


def test_flows_and_events_are_paid_every_epoch_and_outcomes_at_the_end() -> None:
    terms = [
        flow(lambda at: at.signals.score, weight=2.0),
        Event(name="op", units="", low=0, high=9, amount=lambda t: t.decision.op),
        Outcome(name="end", units="", low=0, high=9, amount=lambda at: at.signals.score, weight=-1.0),
    ]
    payments = paid(terms, epochs(scores(NONE, 1, 2, 3), [[False], [True], [False]], [[0], [5], [3]]))
    assert component(payments, "flow")[:, 0].tolist() == [2, 4, 6]
    assert component(payments, "op")[:, 0].tolist() == [0, 5, 3]
    assert component(payments, "end")[:, 0].tolist() == [0, 0, -3]
    assert totals(payments)[:, 0].tolist() == [2, 9, 6]


def test_an_outcome_may_be_unknown_before_the_end_and_has_one_shape() -> None:
    end = Outcome(name="end", units="", low=0, high=9, amount=lambda at: np.full((1, 1), at.signals.score[0]))
    payments = paid([end], epochs(scores(NONE, NONE, 99, 2)))
    assert component(payments, "end").tolist() == [[[0]], [[0]], [[2]]]
    with pytest.raises(RunError, match="component 'end' is not finite in epoch 1"):
        paid([end], epochs(scores(NONE, 1, NONE)))


@pytest.mark.acceptance("RL-01", "X-01")
@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(world=worlds(), gamma=GAMMAS, data=st.data())
def test_a_panic_costs_its_environment_the_penalty_and_no_other_a_bit(
    world: World, gamma: float, data: st.DataObject
) -> None:
    """Whatever comes after it in that environment, too; at every epoch, the first and the last included."""
    when = data.draw(st.integers(0, len(world.episode) - 1))
    other = data.draw(worlds(shape=world.seed.shape[1:]))
    panicked = world.panicked.copy()
    panicked[when, 0] = True
    standings = [world.episode[0].before, *(t.after for t in world.episode)]
    strange = [t.after for t in other.episode]
    for t, found in zip(range(when + 1, len(standings)), strange, strict=False):
        standings[t] = mixed(found, standings[t])
    forced = epochs(standings, panicked, [t.decision.op for t in world.episode])
    one, two = (paid(everything(), episode, gamma, 2.5) for episode in (world.episode, forced))
    np.testing.assert_array_equal(component(two, "panic"), np.where(panicked, -2.5, 0.0))
    np.testing.assert_array_equal(totals(one)[:, 1:], totals(two)[:, 1:])
    np.testing.assert_array_equal(totals(one)[:when], totals(two)[:when])
    for name in one[0].components:
        np.testing.assert_array_equal(component(one, name)[:, 1:], component(two, name)[:, 1:])


def mixed(first: Any, others: Any) -> Any:
    """The first environment of one standing before the others of another one."""

    def of(name: str) -> Any:
        one, two = getattr(first, name), getattr(others, name)
        fields = [a.name for a in attrs.fields(type(one))]
        return type(one)(**{f: np.concatenate([getattr(one, f)[:1], getattr(two, f)[1:]]) for f in fields})

    return evolve(others, **{name: of(name) for name in ("slots", "signals", "evidence")})


# families


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(world=worlds(), gamma=GAMMAS, order=st.permutations(range(8)))
def test_a_payment_is_the_sum_of_its_components_whatever_their_order(
    world: World, gamma: float, order: list[int]
) -> None:
    terms = everything()
    payments = paid(terms, world.episode, gamma, 2.5)
    for payment in payments:
        parts = [amount.reshape(len(payment.total), -1).sum(axis=1) for amount in payment.components.values()]
        close(payment.total, sum(parts))
        assert set(payment.components) == {"panic", *(term.name for term in terms)}
        assert payment.components["crowd"].ndim == payment.components["share"].ndim == 2
    shuffled = paid([terms[i] for i in order], world.episode, gamma, 2.5)
    np.testing.assert_array_equal(totals(payments), totals(shuffled))


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(world=worlds(), gamma=GAMMAS, a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_the_reward_is_linear_in_the_weights(world: World, gamma: float, a: float, b: float) -> None:
    terms = everything()
    one = np.asarray([term.weight for term in terms])
    two = np.roll(one, 3)

    def total(weights: np.ndarray) -> np.ndarray:
        chosen = [evolve(term, weight=w) for term, w in zip(terms, weights, strict=True)]
        return totals(paid(chosen, world.episode, gamma))

    np.testing.assert_allclose(total(a * one + b * two), a * total(one) + b * total(two), rtol=0, atol=1e-10)
    without = totals(paid(terms[1:], world.episode, gamma))
    np.testing.assert_array_equal(total(np.where(np.arange(8) == 0, 0.0, one)), without)


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(world=worlds(), gamma=GAMMAS, data=st.data())
def test_environments_are_paid_each_on_its_own(world: World, gamma: float, data: st.DataObject) -> None:
    """In another order, or without the others, bit for bit."""
    envs = world.panicked.shape[1]
    rows = data.draw(st.lists(st.integers(0, envs - 1), min_size=1, max_size=envs, unique=True))
    whole = totals(paid(everything(), world.episode, gamma, 2.5))
    np.testing.assert_array_equal(
        totals(paid(everything(), take_all(world.episode, rows), gamma, 2.5)), whole[:, rows]
    )


@pytest.mark.property
@settings(max_examples=50, deadline=None)
@given(world=worlds(), gamma=GAMMAS)
def test_nothing_that_is_given_is_changed(world: World, gamma: float) -> None:
    """Arrays that refuse to be written to are enough; a ledger may be used twice."""
    family = RewardFamily(name="test", terms=tuple(everything()))
    ledger = reward.open_ledger(family, *world.seed.shape[1:])
    for epoch, transition in enumerate(world.episode):
        for record in (transition.before, transition.after):
            for table in (record.slots, record.signals, record.evidence):
                lock(getattr(table, a.name) for a in attrs.fields(type(table)))
        lock([transition.panicked, transition.decision.op, ledger.seed])
        lock([*ledger.levels.values(), *ledger.balances.values(), *ledger.vested.values()])
        envs = np.arange(world.seed.shape[1])
        arguments: dict[str, Any] = {"envs": envs, "gamma": gamma, "penalty": 1.0, "epoch": epoch}
        first, after = reward.pay(family, ledger, deepcopy(transition), **arguments)
        again, ledger = reward.pay(family, ledger, transition, **arguments)
        np.testing.assert_array_equal(first.total, again.total)
        for one, two in ((after.levels, ledger.levels), (after.balances, ledger.balances)):
            assert one.keys() == two.keys()
            for name, array in one.items():
                np.testing.assert_array_equal(array, two[name])


def lock(arrays: Any) -> None:
    for array in arrays:
        array.setflags(write=False)


# what is refused

THREE = epochs([standing([[-1, -1]] * 3), standing([[0, -1]] * 3), standing([[0, -1]] * 3)])


@pytest.mark.parametrize(
    ("term", "said"),
    [
        (flow(lambda at: np.zeros(2)), r"shape \(2,\) in epoch 0; .* amount .* shape \(3,\) or \(3, 2\)"),
        (flow(lambda at: 0.0), r"shape \(\) in epoch 0"),
        (flow(lambda at: np.zeros((3, 3))), r"shape \(3, 3\)"),
        (
            potential(level=lambda at: np.zeros((3, 3))),
            r"level to have shape \(3,\) or \(3, 2\), environments first",
        ),
        (account(target=lambda at: np.zeros(3)), r"target to have shape \(3, 2\), environments first"),
        (account(vested=lambda at: np.zeros(3)), r"vested to have shape \(3, 2\), environments first"),
        (
            flow(lambda at: [NONE, 0, np.inf]),
            r"not finite in epoch 0, environments \[0, 2\]; expected its am",
        ),
        (flow(lambda at: [[0, 0], [0, NONE], [0, 0]]), r"not finite in epoch 0, environments \[1\]"),
        (potential(level=lambda at: [NONE, 0, -np.inf]), r"not finite .* environments \[2\]; .* level"),
        (account(target=lambda at: [[0, 0], [np.inf, 0], [0, 0]]), r"not finite .* \[1\]; .* target"),
        (
            flow(lambda at: [0, 9.1, -9.2]),
            r"out of bounds in epoch 0, environments \[1, 2\], with 9.1; expected its amount to be finite "
            r"and within \[-9.0, 9.0\] \(points\); correct the term, or the bounds that it declares",
        ),
        (potential(level=lambda at: [0, 2, 0], high=1.0), r"out of bounds .* \[1\], with 2.0; .* level"),
        (account(target=lambda at: [[0, 0], [0, 0], [-1, 0]]), r"out of bounds .* \[2\], with -1.0; .* tar"),
    ],
)
def test_a_component_that_cannot_be_paid_is_named(term: Term, said: str) -> None:
    with pytest.raises(RunError, match=f"^reward component {term.name!r} .*{said}"):
        paid([flow(lambda at: np.zeros(3), "fine"), term], THREE)


@pytest.mark.filterwarnings("ignore:overflow")
def test_weights_under_which_a_sum_overflows_are_refused() -> None:
    with pytest.raises(RunError, match=r"reward is not finite in epoch 0, environments \[1\], though every"):
        paid([flow(lambda at: np.asarray([0, 9, 1]), weight=1e308)], THREE)


def test_the_epoch_in_the_message_is_the_one_that_was_played() -> None:
    episode = epochs(scores(NONE, 1, 2, NONE, 4))
    with pytest.raises(RunError, match=r"component 'flow' is not finite in epoch 2, environments \[0\]"):
        paid([flow(lambda at: at.signals.score)], episode)


def test_bounds_are_those_of_what_a_family_supplies_and_leave_room_for_rounding() -> None:
    """Of levels and targets, not of the steps between them; before weighting; with empty slots left out."""
    ups = epochs(scores(NONE, 0, 1, 0, 1))
    assert component(paid([potential(low=0, high=1, weight=50.0)], ups), "score")[:, 0].tolist() == [
        0,
        50,
        -50,
        0,
    ]
    paid([flow(lambda at: np.full(3, 1 + 1e-12), low=0.0, high=1.0)], THREE)
    with pytest.raises(RunError, match="out of bounds"):
        paid([flow(lambda at: np.full(3, 1 + 1e-6), low=0.0, high=1.0)], THREE)
    paid([account(target=lambda at: np.asarray([[0, -5], [0, np.inf], [0, 99]]))], THREE)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ([flow(len), potential("flow")], "Potential 'flow': its name is taken, by another term"),
        ([flow(len, "panic")], "Flow 'panic': its name is taken, .* or by what panics cost; choose another"),
        ([flow(len, low=1.0, high=0.0)], r"Flow 'flow': its bounds must have low <= high, not \[1.0, 0.0\]"),
        ([flow(len, high=NONE)], r"must have low <= high, not \[-9.0, nan\]"),
        ([flow(len, weight=np.inf)], "its weight must be finite, not inf"),
        ([flow(len, weight=NONE)], "its weight must be finite, not nan"),
        (
            [account(low=-1.0)],
            "Account 'share': a balance is at least 0, so its bound 'low' must be, not -1.0",
        ),
        ([Term(name="x", units="", low=0, high=0)], "a term is a Term; expected Flow, Event, Potential"),
        (["score"], "a term is a str; expected Flow, Event, Potential, Account or Outcome"),
    ],
)
def test_a_family_that_cannot_be_paid_is_refused(terms: list[Any], said: str) -> None:
    with pytest.raises(PluginError, match=f"^reward test: .*{said}"):
        reward.check(RewardFamily(name="test", terms=tuple(terms)))


def test_a_family_without_terms_is_refused() -> None:
    with pytest.raises(PluginError, match="reward test: has no terms; expected at least one"):
        paid([], THREE)


def test_a_memory_is_there_from_the_start_and_keeps_its_shape() -> None:
    memory = Memory(blank=lambda n, s: np.zeros((n, 1)), follow=lambda noted, t: noted + 1)
    level = potential(memory=memory, level=lambda at: at.noted[:, 0])
    assert component(paid([level], epochs(scores(NONE, 1, 2, 3))), "score")[:, 0].tolist() == [1, 1, -2]
    flat = Memory(blank=lambda n, s: np.zeros((n, 1)), follow=lambda noted, t: noted[:, 0])
    with pytest.raises(RunError, match=r"'flow' remembers an array of shape \(3,\); expected \(3, 1\)"):
        paid([flow(lambda at: np.zeros(3), memory=flat)], THREE)


def test_needs_are_names_and_not_a_text() -> None:
    with pytest.raises(TypeError, match="'needs' must be a set of names, not the text 'score'"):
        flow(lambda at: np.zeros(3), needs="score")


# the default family


@pytest.mark.acceptance("ME-05")
@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(world=worlds(calm=True), rent=st.sampled_from([0.0, 0.1, 3.0]))
def test_the_default_pays_the_shipped_score_minus_the_first_minus_rent(world: World, rent: float) -> None:
    chosen = family("shipped", rent={"weight": -rent, "begins": 0.4, "full": 1.0})
    total = totals(paid(chosen.terms, world.episode)).sum(axis=0)
    last = world.episode[-1].after
    for env, sum_ in enumerate(total):
        known = [s for t in world.episode if not np.isnan(s := t.after.signals.score[env])]
        first = known[0] if known else 0.0
        ends = 0.0 if np.isnan(last.signals.score[env]) else last.signals.committed[env]
        owned = last.slots.parameters[env, world.fossil[-1, env]].sum()
        close(sum_, ends - first - rent * 0.5 * owned / 80)


def test_the_default_by_hand() -> None:
    """Rent counts committed parameters only, per host of parameters, and is paid with the shipped score."""
    chosen = family("shipped", rent={"weight": -0.5, "begins": 0.0, "full": 1.0})
    last = standing(
        [[0, 1, 2]],
        stage=[[Stage.FOSSILIZED, Stage.HOLDING, Stage.FOSSILIZED]],
        parameters=[[10, 1000, 30]],
        score=0.5,
        committed=0.4,
    )
    standings = [standing([[-1] * 3]), standing([[-1] * 3], score=0.2, committed=0.2), last]
    payments = paid(chosen.terms, epochs(standings), penalty=1.0)
    found = {name: component(payments, name)[:, 0].tolist() for name in payments[0].components}
    assert found == {
        "score": [0.0, -0.2],
        "shipped": [0.0, 0.4],
        "rent": [0.0, -0.5 * 40 / 80],
        "panic": [0.0, 0.0],
    }


@pytest.mark.parametrize("offset", [0.0, -20.0])
@pytest.mark.parametrize("when", [2, 4])
def test_a_panic_pays_what_was_rolled_back_to_and_costs_the_penalty(offset: float, when: int) -> None:
    """Whatever the sign of the scores, and wherever it happens, nothing is won by a panic."""
    terms = family().terms
    scores = (NONE, *(s + offset for s in (2, 5, 3, 6, 7)))
    standings = [standing([[-1]], score=s, committed=s) for s in scores]
    episode = epochs(standings, [[t == when] for t in range(5)])
    expected = [0.0, 3.0, -2.0, 3.0, 1.0]
    expected[when] -= 10.0
    assert totals(paid(terms, episode, penalty=10.0))[:, 0].tolist() == expected


def test_a_host_that_never_lived_through_an_epoch_has_gained_nothing() -> None:
    """It panicked in every epoch, so that nothing was ever measured; that is no reason to stop the run."""
    episode = epochs([standing([[-1]], progress=0.0)] * 3, [[True], [True]])
    assert totals(paid(family().terms, episode, penalty=1.0)).tolist() == [[-1], [-1]]
    episode = epochs([standing([[-1]]), standing([[-1]], score=0.5)])
    with pytest.raises(RunError, match="component 'shipped' is not finite in epoch 0"):
        paid(family().terms, episode)


@pytest.mark.parametrize(
    ("progress", "begins", "full", "share"),
    [
        (0.0, 0.3, 0.6, 0.0),
        (0.3, 0.3, 0.6, 0.0),
        (0.45, 0.3, 0.6, 0.5),
        (0.6, 0.3, 0.6, 1.0),
        (0.99, 0.3, 0.6, 1.0),
        (0.0, 0.0, 0.0, 1.0),
        (0.49, 0.5, 0.5, 0.0),
        (0.5, 0.5, 0.5, 1.0),
        (0.99, 1.0, 1.0, 0.0),
    ],
)
def test_rent_is_ramped_in(progress: float, begins: float, full: float, share: float) -> None:
    chosen = family("shipped", rent={"weight": -2.0, "begins": begins, "full": full})
    last = standing([[0]], stage=Stage.FOSSILIZED, parameters=40, score=0.5, committed=0.5, progress=progress)
    close(component(paid(chosen.terms, epochs([standing([[-1]]), last])), "rent"), [[-2.0 * share * 0.5]])


def test_rent_cannot_be_full_before_it_begins() -> None:
    with pytest.raises(ValueError, match=r"'full' must be >= 'begins' \(0.5\): 0.4"):
        CommittedRent(begins=0.5, full=0.4)


# whole episodes

FULL = {"begins": 0.0, "full": 0.0}


def assert_telescopes(played: Any, rent: float) -> None:
    """The sum of an episode, and what is paid in its last epoch and in no other."""
    rollout, reports = played.episode.rollout, played.reports
    slots = played.episode.slots
    owned = np.where(slots.stage == Stage.FOSSILIZED, slots.parameters, 0).sum(axis=1)
    expected = rollout.committed[-1] - rollout.score[0] - rent * owned / played.cast.host_parameters
    close(rollout.reward.sum(axis=0), expected)
    for epoch, report in enumerate(reports):
        last = epoch == len(reports) - 1
        components = report.payment.components
        assert set(components) == {"score", "shipped", "rent", "panic"}
        assert not components["panic"].any()
        np.testing.assert_array_equal(report.payment.total, rollout.reward[epoch])
        np.testing.assert_allclose(sum(components.values()), report.payment.total, rtol=0, atol=1e-15)
        if last:
            np.testing.assert_array_equal(components["shipped"], rollout.committed[-1])
            np.testing.assert_array_equal(components["score"], -rollout.score[max(epoch - 1, 0)])
            np.testing.assert_allclose(components["rent"], -rent * owned / played.cast.host_parameters)
        else:
            assert not components["shipped"].any()
            assert not components["rent"].any()


@pytest.mark.acceptance("ME-05")
@pytest.mark.property
@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    epochs=st.sampled_from([1, 2, 3, 9]), root=st.integers(0, 10**6), rent=st.sampled_from([1e-9, 0.1, 3.0])
)
def test_an_episode_pays_what_it_shipped(epochs: int, root: int, rent: float) -> None:
    train = TrainSettings(epochs=epochs, batch_size=8, train_batches=2, host=FAST, seed=FAST)
    cast = cast_of(program(spirals(), train=train, root=root), random.build)
    assert_telescopes(
        play(evolve(cast, reward=rewards("shipped", rent={"weight": -rent, **FULL})), range(4)), rent
    )


@pytest.mark.acceptance("ME-05")
@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_the_end_is_paid_once_and_uncommitted_seeds_are_dropped(epochs: int) -> None:
    """One environment commits its seed, one is still ramping at the end, one grows nothing."""
    steps = [
        step(0, "germinate", "block0", blueprint="linear", target=1.0, speed=0, envs=(0, 1)),
        step(1, "advance", "block0", envs=(0, 1)),
        step(3, "fossilize", "block0", envs=(0,)),
    ]
    train = TrainSettings(epochs=epochs, batch_size=8, host=FAST, seed=FAST)
    cast = cast_of(program(spirals(), train=train), script(*(s for s in steps if s.epoch < epochs)))
    played = play(evolve(cast, reward=rewards("shipped", rent=FULL)), (0, 1, 2))
    assert_telescopes(played, 0.1)
    if epochs == 7:
        last = played.reports[-1].payment.components
        assert last["rent"][0] < 0 == last["rent"][1] == last["rent"][2]
        rollout = played.episode.rollout
        assert rollout.committed[-1, 0] == rollout.score[-1, 0]
        assert rollout.committed[-1, 2] == rollout.score[-1, 2]


def test_gates_may_close_and_the_sum_still_holds() -> None:
    """Refused actions cost nothing of their own."""
    closed = GrowthSettings(
        **{**EVERYTHING, "min_health": 1.0, "contact_bound": 1e-12, "min_contribution": 1.0}
    )
    steps = (
        step(0, "germinate", "block0", blueprint="linear"),
        step(1, "advance", "block0"),
        step(2, "fossilize", "block0"),
    )
    train = TrainSettings(epochs=4, batch_size=8, train_batches=2)
    cast = cast_of(program(spirals(), train=train, growth=closed), script(*steps))
    played = play(evolve(cast, reward=rewards("shipped", rent=FULL)), range(2))
    assert played.episode.rollout.refused.any()
    assert_telescopes(played, 0.1)
