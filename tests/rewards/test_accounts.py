"""Accounts: what a seed was paid is kept once it is committed, and given back with interest otherwise."""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from built import TERMS, discounted, term, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_worlds import epochs, standing

from esper_core.phases import reward
from esper_core.phases.reward import Ledger
from esper_core.plugin.rewards import Account, RewardFamily, Transition
from esper_core.state.slots import Stage
from esper_core.testing.rewards import Lived, episodes

GAMMAS = st.floats(0.5, 1.0)
STEPS = st.sampled_from([np.inf, 0.1, 0.02])
SEVERAL = {"max_epochs": 8}
NONE = float("nan")
ALIVE, FOSSIL = Stage.HOLDING, Stage.FOSSILIZED


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def committed(at: Any) -> Any:
    return at.slots.stage == Stage.FOSSILIZED


def account(**changes: Any) -> Account:
    fields = {
        "name": "account",
        "units": "score",
        "low": 0.0,
        "high": np.inf,
        "target": lambda at: np.maximum(at.evidence.contribution, 0.0),
        "vested": committed,
    }
    return Account(**{**fields, **changes})


@attrs.frozen
class Kept:
    """An epoch of an account: its transition, the books before and after, and what it paid, `[N, S]`."""

    transition: Transition
    before: Ledger
    after: Ledger
    paid: np.ndarray

    @property
    def same(self) -> np.ndarray:
        """The slot has the seed that it had."""
        return (self.after.seed == self.before.seed) & (self.after.seed >= 0)


def books(term: Account, episode: Sequence[Transition], gamma: float = 1.0) -> list[Kept]:
    family = RewardFamily(name="test", terms=(term,))
    reward.check(family)
    ledger, kept = reward.open_ledger(family, *episode[0].before.slots.shape), []
    for epoch, transition in enumerate(episode):
        envs = np.arange(len(transition.refused))
        payment, following = reward.pay(
            family, ledger, transition, envs=envs, gamma=gamma, penalty=0.0, epoch=epoch
        )
        kept.append(Kept(transition, ledger, following, payment.components[term.name]))
        ledger = following
    return kept


def balances(epoch: Kept) -> tuple[np.ndarray, np.ndarray]:
    """Before and after, whichever seed they belong to."""
    (before,), (after,) = epoch.before.balances.values(), epoch.after.balances.values()
    return before, after


def vested(epoch: Kept) -> tuple[np.ndarray, np.ndarray]:
    (before,), (after,) = epoch.before.vested.values(), epoch.after.vested.values()
    return before, after


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS)
def test_payments_so_far_are_worth_what_the_books_say(episode: Lived, gamma: float, step: float) -> None:
    """L1, L3: After every epoch, and for every slot, the discounted payments are worth the balance of the
    seed that is there, and what vested seeds were pruned with; at the end, only if the seed is vested.
    """
    worth = np.zeros(episode[0].before.slots.shape)
    kept = np.zeros_like(worth)
    for t, epoch in enumerate(books(account(step=step), episode, gamma)):
        worth += gamma**t * epoch.paid
        before, balance = balances(epoch)
        pruned = vested(epoch)[0] & ~epoch.same & ~epoch.transition.panicked[:, None]
        kept += np.where(pruned, gamma ** (t - 1) * before, 0.0)
        close(worth, kept + gamma**t * balance)
        if epoch.transition.final:
            assert (balance[~vested(epoch)[1]] == 0).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS)
def test_a_balance_moves_towards_its_target_and_not_beyond(episode: Lived, gamma: float, step: float) -> None:
    """L2: It is never negative, lies between where it was and its target, and rises by at most a step; it
    falls at once.
    """
    term = account(step=step)
    for epoch in books(term, episode, gamma):
        before, after = balances(epoch)
        assert (after >= 0).all()
        now = vested(epoch)[1]
        closed = epoch.transition.terminal[:, None] & ~now
        sofar = np.where(epoch.same, before, 0.0)
        target = term.target(epoch.transition.after)
        reached = np.where(np.isnan(target) | (epoch.after.seed < 0), sofar, target)
        inside = (after >= np.minimum(sofar, reached) - 1e-12) & (after <= np.maximum(sofar, reached) + 1e-12)
        assert (inside | closed).all()
        assert ((after - sofar <= step + 1e-12) | closed).all()
        assert ((after <= reached + 1e-12) | closed).all(), "a fall is not delayed"
        assert (after[closed] == 0).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS)
def test_what_is_never_vested_is_worth_nothing(episode: Lived, gamma: float, step: float) -> None:
    """L4: Whatever the way out (prune, replacement, panic, end), for any gamma: sum gamma^t payment = 0."""
    never = account(step=step, vested=lambda at: np.zeros(at.slots.shape, np.bool_))
    found = [epoch.paid for epoch in books(never, episode, gamma)]
    close(discounted(found, gamma), 0.0)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS)
def test_whoever_is_gone_has_paid_its_balance_back(episode: Lived, gamma: float, step: float) -> None:
    """L5: A seed that is gone pays exactly its balance, with an epoch's interest; unless it is vested, and
    was pruned: what a panic undoes is paid back, too.
    """
    for epoch in books(account(step=step), episode, gamma):
        gone = (epoch.before.seed >= 0) & (epoch.after.seed < 0)
        keeps = vested(epoch)[0] & ~epoch.transition.panicked[:, None]
        owed = np.where(keeps, 0.0, balances(epoch)[0] / gamma)
        close(epoch.paid[gone], -owed[gone])
        assert (balances(epoch)[1][epoch.after.seed < 0] == 0).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS)
def test_a_vested_seed_goes_on_following_its_target(episode: Lived, gamma: float, step: float) -> None:
    """L6: It is paid as any other, and keeps its balance when the segment ends; vested once is vested."""
    term = account(step=step)
    for epoch in books(term, episode, gamma):
        before, after = balances(epoch)
        was, now = vested(epoch)
        was &= epoch.same
        assert now[was].all()
        free = was & ~epoch.transition.after.slots.withdrawing
        target = term.target(epoch.transition.after)
        change = np.minimum(np.where(np.isnan(target), 0.0, target - before), step)
        close((after - before)[free], change[free])
        close(epoch.paid[was], (after - before / gamma)[was])


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS)
def test_a_seed_that_is_withdrawn_earns_nothing_more(episode: Lived, gamma: float, step: float) -> None:
    """L7: Its balance can only fall."""
    for epoch in books(account(step=step), episode, gamma):
        before, after = balances(epoch)
        leaving = epoch.transition.after.slots.withdrawing
        assert (after[leaving] <= np.where(epoch.same, before, 0.0)[leaving]).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS)
def test_a_bonus_is_for_committed_seeds_and_moves_in_steps(episode: Lived, gamma: float) -> None:
    """L8, R23: Nothing before a seed was committed in this episode; then small steps up to what it
    contributes, and never beyond the largest contribution that there was.
    """
    slow = term("bonus", step=0.05)
    arrived = np.zeros(episode[0].before.slots.shape, np.bool_)
    most = np.zeros(arrived.shape)
    for epoch in books(slow, episode, gamma):
        before, after = balances(epoch)
        slots = epoch.transition.before.slots, epoch.transition.after.slots
        happened = epoch.same & (slots[0].stage != Stage.FOSSILIZED) & (slots[1].stage == Stage.FOSSILIZED)
        arrived = np.where(epoch.same, arrived, False) | happened
        most = np.maximum(most, np.nan_to_num(epoch.transition.after.evidence.contribution))
        assert (after[~arrived] == 0).all()
        assert (after <= most + 1e-12).all()
        sofar = np.where(epoch.same, before, 0.0)
        assert (after - sofar <= 0.05 + 1e-12).all()


def test_a_drip_and_the_bonus_beside_it_are_the_bonus_alone() -> None:
    """L8: What basic_plus pays at once and little by little adds up to what basic pays at once."""
    assert weight("basic_plus", "bonus") + weight("basic_plus", "drip") == weight("basic", "bonus")


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(one=st.floats(-0.5, 0.5), two=st.floats(-0.5, 0.5), step=st.floats(0.001, 0.1))
def test_a_bonus_rises_with_the_contribution(one: float, two: float, step: float) -> None:
    """L8: Non-decreasing in it, epoch by epoch."""
    found = []
    for contribution in sorted((one, two)):
        known = {"contribution": contribution, "bare": 0.0, "committed": 1.0, "score": 1.0}
        life = [standing([[0]], stage=stage, dwell=9, **known) for stage in (ALIVE, FOSSIL, FOSSIL, FOSSIL)]
        kept = books(term("bonus", step=step, errors=0.0), epochs(life))
        found.append([float(balances(epoch)[1][0, 0]) for epoch in kept])
    assert (np.diff(found, axis=0) >= -1e-12).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS)
def test_the_end_of_a_segment_forgets_everything_but_what_is_vested(episode: Lived, gamma: float) -> None:
    """L10: Balances of seeds that are not vested, and what terms remember."""
    for name in ("attribution", "hindsight", "bonus", "share"):
        kept = TERMS[name]
        assert isinstance(kept, Account)
        for epoch in books(kept, episode, gamma):
            ends = epoch.transition.terminal
            now = vested(epoch)[1]
            assert (balances(epoch)[1][ends[:, None] & ~now] == 0).all()
            for noted in epoch.after.notes.values():
                assert kept.memory is not None
                blank = kept.memory.blank(*epoch.after.seed.shape)
                np.testing.assert_array_equal(noted[ends], blank[ends])


def test_an_episode_begins_with_empty_books() -> None:
    """L10: Nothing is known of a seed that another episode had, though it has the same number."""
    term = account()
    life = [standing([[0]], contribution=c) for c in (NONE, 0.5, 0.5)]
    first = [epoch.paid[0, 0] for epoch in books(term, epochs(life))]
    again = [epoch.paid[0, 0] for epoch in books(term, epochs(life))]
    assert first == again == [0.5, -0.5]


# by hand


def lived(term: Account, gamma: float, *life: tuple[int, float, Stage, bool]) -> list[float]:
    """Payments for one slot: (seed, contribution, stage, withdrawing) after every epoch."""
    standings = [
        standing([[n]], contribution=c, withdrawing=leaving, **({"stage": stage} if n >= 0 else {}))
        for n, c, stage, leaving in [(-1, NONE, ALIVE, False), *life]
    ]
    return [float(epoch.paid[0, 0]) for epoch in books(term, epochs(standings), gamma)]


def test_interest_by_hand() -> None:
    """At gamma = 1/2 a balance of 1 costs 2 an epoch later: as a potential of the same level would."""
    holds, gone = (0, 1.0, ALIVE, False), (-1, NONE, ALIVE, False)
    assert lived(account(), 0.5, holds, holds, gone, gone) == [1.0, -1.0, -2.0, 0.0]
    assert lived(account(), 0.5, holds, holds, holds) == [1.0, -1.0, -2.0], "the end"
    assert lived(account(), 0.5, holds, (1, 3.0, ALIVE, False), gone) == [1.0, 1.0, -6.0], "replaced"
    kept = (0, 4.0, FOSSIL, False)
    assert lived(account(), 0.5, holds, kept, kept) == [1.0, 2.0, -4.0], "vested with 4, worth 4 / 4"
    assert lived(account(), 0.5, holds, kept, gone, gone) == [1.0, 2.0, 0.0, 0.0], "pruned with 4"


def test_steps_by_hand() -> None:
    """Up by at most a step, and down at once."""
    rises, falls = (0, 5.0, ALIVE, False), (0, 0.5, ALIVE, False)
    assert lived(account(step=2.0), 1.0, rises, rises, rises, falls, falls) == [2.0, 2.0, 1.0, -4.5, -0.5]
    kept, less = (0, 5.0, FOSSIL, False), (0, 0.0, FOSSIL, False)
    assert lived(account(step=2.0), 1.0, rises, kept, kept, less) == [2.0, 2.0, 1.0, -5.0]


def test_a_withdrawal_by_hand() -> None:
    """A seed that leaves keeps its balance until it is gone; what it loses meanwhile is taken back."""
    leaves = (0, 3.0, ALIVE, True)
    holds, gone = (0, 1.0, ALIVE, False), (-1, NONE, ALIVE, False)
    assert lived(account(), 1.0, holds, leaves, leaves, gone, gone) == [1.0, 0.0, 0.0, -1.0, 0.0]
    assert lived(account(), 1.0, holds, (0, 0.25, ALIVE, True), gone) == [1.0, -0.75, -0.25]


# what the predecessor did


def assert_closed(paid: Sequence[float], gamma: float) -> None:
    """The check of L4, for one slot."""
    close(discounted(np.asarray(paid), gamma), 0.0)


def escrow(targets: Sequence[float], gone: int, *, scheduled: bool) -> list[float]:
    """The predecessor's payments for a slot whose seed is gone after `gone` epochs.

    A prune in the action takes the balance back; one that was scheduled goes on minting until the slot is
    empty, where the balance is dropped; the end takes it back without interest.
    """
    paid, balance = [], 0.0
    for t, target in enumerate(targets):
        change = -balance if t == gone and not scheduled else target - balance if t < gone else 0.0
        balance = 0.0 if t >= gone else balance + change
        paid.append(change - (balance if t == len(targets) - 1 else 0.0))
    return paid


@pytest.mark.defect("B16")
@pytest.mark.parametrize(
    ("gone", "scheduled", "gamma"), [(3, True, 1.0), (3, False, 0.9), (9, True, 0.9), (9, False, 0.9)]
)
def test_every_way_out_closes_an_account(gone: int, scheduled: bool, gamma: float) -> None:
    targets = [1.0, 2.0, 4.0, 3.0, 5.0]
    life = [
        (0, target, ALIVE, scheduled and t >= 1) if t < gone else (-1, NONE, ALIVE, False)
        for t, target in enumerate(targets)
    ]
    found = lived(account(), gamma, *life)
    assert_closed(found, gamma)
    if scheduled:
        assert all(paid <= 1e-12 for paid in found[1:]), "nothing is minted after the order"
        assert max(escrow(targets, gone, scheduled=True)[1:]) > 0
    with pytest.raises(AssertionError):
        assert_closed(escrow(targets, gone, scheduled=scheduled), gamma)


@pytest.mark.defect("B16")
def test_a_commitment_moves_no_balance_that_it_does_not_pay() -> None:
    """Where the joint contribution was negative, the predecessor paid nothing and moved the balance."""

    def conserved(paid: Sequence[float], balance: float) -> None:
        close(sum(paid), balance)

    targets, joint = [1.0, 2.0], -0.5
    life = [(0, targets[0], ALIVE, False), *[(0, targets[1], FOSSIL, False)] * 2]
    conserved(lived(account(), 1.0, *life), targets[1])
    paid, balance = [], 0.0
    for target in targets:
        change = target - balance
        balance += change
        paid.append(0.0 if joint < 0 and target is targets[-1] else change)
    with pytest.raises(AssertionError):
        conserved(paid, balance)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("share", [0.25, 0.25, -0.375]), ("attribution", [0.25, 0.25, -0.375]), ("bonus", [0.0, 0.5, -0.375])],
)
def test_what_becomes_of_an_account_after_the_commitment(name: str, expected: list[float]) -> None:
    """By hand: worth 0.25 when it is held, 0.5 when it is committed, and 0.125 later on."""
    settings = {"attribution": {"combine": "contribution", "step": 1.0}}.get(name, {})
    worth = [(ALIVE, 0.25), (FOSSIL, 0.5), (FOSSIL, 0.125)]
    standings = [standing([[-1]])]
    for stage, c in worth:
        known = {"contribution": c, "shapley": c, "bare": 0.0, "score": 1.0, "dwell": 9}
        standings.append(standing([[0]], stage=stage, committed=1.0 if stage == FOSSIL else 0.0, **known))
    found = [float(epoch.paid[0, 0]) for epoch in books(term(name, **settings), epochs(standings))]
    assert found == expected


@pytest.mark.parametrize("name", ["share", "attribution", "bonus"])
def test_a_survivor_of_a_panic_keeps_its_balance(name: str) -> None:
    """Until something is known of it again; what the term remembered is gone with the segment."""
    known = {"contribution": 0.5, "shapley": 0.5, "bare": 0.0, "score": 1.0, "committed": 1.0, "dwell": 9}
    life = [standing([[0]], stage=stage, **known) for stage in (ALIVE, FOSSIL)]
    life += [standing([[0]], stage=FOSSIL, dwell=9)] * 3
    settings = {"attribution": {"combine": "contribution", "step": 1.0}}.get(name, {})
    episode = epochs(life, [[False], [True], [False], [False]])
    kept = books(term(name, **settings), episode)
    assert [float(balances(epoch)[1][0, 0]) for epoch in kept] == [0.5] * 4
    later = epochs(
        [*life[:3], standing([[0]], stage=FOSSIL, **known), life[1]], [[False], [True], [False], [False]]
    )
    assert float(balances(books(term(name, **settings), later)[-1])[1][0, 0]) == 0.5
