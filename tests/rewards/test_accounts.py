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
    seed that is there, and what seeds were vested with: at the end, that alone.
    """
    worth = np.zeros(episode[0].before.slots.shape)
    kept = np.zeros_like(worth)
    for t, epoch in enumerate(books(account(step=step), episode, gamma)):
        worth += gamma**t * epoch.paid
        was, now = vested(epoch)
        balance = balances(epoch)[1]
        kept += np.where(now & ~(was & epoch.same), gamma**t * balance, 0.0)
        close(worth, kept + np.where(now, 0.0, gamma**t * balance))
        if epoch.transition.final:
            close(worth, kept)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS, follows=st.booleans())
def test_a_balance_moves_towards_its_target_and_not_beyond(
    episode: Lived, gamma: float, step: float, follows: bool
) -> None:
    """L2: It is never negative, lies between where it was and its target, and moves by at most a step, but
    where it is closed.
    """
    term = account(step=step, follows=follows)
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
        assert ((np.abs(after - sofar) <= step + 1e-12) | closed).all()
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
    """L5: A seed that is pruned pays exactly its balance, with an epoch's interest."""
    for epoch in books(account(step=step), episode, gamma):
        gone = (epoch.before.seed >= 0) & (epoch.after.seed < 0) & ~vested(epoch)[0]
        close(epoch.paid[gone], -balances(epoch)[0][gone] / gamma)
        assert (balances(epoch)[1][epoch.after.seed < 0] == 0).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS)
def test_a_vested_seed_is_paid_no_more_and_owes_nothing(episode: Lived, gamma: float, step: float) -> None:
    """L6: Unless the account follows; nor when it is gone after all."""
    for epoch in books(account(step=step), episode, gamma):
        was = vested(epoch)[0]
        assert (epoch.paid[was & (epoch.same | (epoch.after.seed < 0))] == 0).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS)
def test_an_account_that_follows_pays_a_vested_seed_by_the_change(
    episode: Lived, gamma: float, step: float
) -> None:
    """L6: No interest is due on what need not be paid back; what a seed loses later is taken back."""
    term = account(step=step, follows=True)
    for epoch in books(term, episode, gamma):
        before, after = balances(epoch)
        was = vested(epoch)[0] & epoch.same
        close(epoch.paid[was], (after - before)[was])
        free = was & ~epoch.transition.after.slots.withdrawing
        target = term.target(epoch.transition.after)
        expected = np.clip(np.where(np.isnan(target), 0.0, target - before), -step, step)
        close((after - before)[free], expected[free])


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS, step=STEPS, follows=st.booleans())
def test_a_seed_that_is_withdrawn_earns_nothing_more(
    episode: Lived, gamma: float, step: float, follows: bool
) -> None:
    """L7: Its balance can only fall."""
    for epoch in books(account(step=step, follows=follows), episode, gamma):
        before, after = balances(epoch)
        leaving = epoch.transition.after.slots.withdrawing
        assert (after[leaving] <= np.where(epoch.same, before, 0.0)[leaving]).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS)
def test_a_drip_is_slow_and_has_the_sign_of_what_changed(episode: Lived, gamma: float) -> None:
    """L8: Nothing before a seed is committed; then small steps towards its contribution, up and down, so that
    all of it together is at most the largest contribution that there was.
    """
    drip = TERMS["drip"]
    assert isinstance(drip, Account)
    most = np.zeros(episode[0].before.slots.shape)
    for epoch in books(drip, episode, gamma):
        before, after = balances(epoch)
        contribution = epoch.transition.after.evidence.contribution
        fossil = committed(epoch.transition.after)
        assert (epoch.paid[~fossil] == 0).all()
        assert (np.abs(epoch.paid) <= drip.step + 1e-12).all()
        known = fossil & ~np.isnan(contribution)
        sofar = np.where(epoch.same, before, 0.0)
        np.testing.assert_array_equal(
            np.sign(epoch.paid)[known], np.sign(np.maximum(contribution, 0.0) - sofar)[known]
        )
        most = np.maximum(most, np.nan_to_num(contribution))
        assert (after <= most + 1e-12).all()


def test_a_drip_and_the_bonus_beside_it_are_the_bonus_alone() -> None:
    """L8: What basic_plus pays at once and little by little adds up to what basic pays at once."""
    together = weight("basic_plus", "fossilized") + weight("basic_plus", "drip")
    assert together == weight("basic", "fossilized")


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    one=st.floats(-0.5, 0.5), two=st.floats(-0.5, 0.5), start=st.floats(0.0, 0.5), step=st.floats(0.001, 0.1)
)
def test_a_drip_rises_with_the_contribution(one: float, two: float, start: float, step: float) -> None:
    """L8: Non-decreasing in it."""
    found = []
    for contribution in sorted((one, two)):
        worth = [0.0, start, contribution]
        life = [standing([[0]], stage=Stage.FOSSILIZED, contribution=c) for c in worth]
        found.append(books(term("drip", step=step), epochs([*life, life[-1]]))[-2].paid[0, 0])
    assert found[0] <= found[1] + 1e-12


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes(**SEVERAL), gamma=GAMMAS)
def test_the_end_of_a_segment_forgets_everything_but_what_is_vested(episode: Lived, gamma: float) -> None:
    """L10: Balances of seeds that are not vested, and what terms remember."""
    for name in ("attribution", "hindsight", "share"):
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

ALIVE, FOSSIL = Stage.HOLDING, Stage.FOSSILIZED


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
    assert lived(account(), 0.5, holds, kept, kept) == [1.0, -1.0, 0.0], "vested with 1"
    assert lived(account(follows=True), 0.5, holds, kept, kept) == [1.0, 2.0, 0.0], "vested with 4"


def test_steps_by_hand() -> None:
    """Up and down by at most a step; what is taken back at the end is taken back at once."""
    rises, falls = (0, 5.0, ALIVE, False), (0, 0.5, ALIVE, False)
    assert lived(account(step=2.0), 1.0, rises, rises, rises, falls, falls) == [2.0, 2.0, 1.0, -2.0, -3.0]
    kept, less = (0, 5.0, FOSSIL, False), (0, 0.0, FOSSIL, False)
    assert lived(account(step=2.0, follows=True), 1.0, rises, kept, kept, less) == [2.0, 2.0, 1.0, -2.0]
    assert lived(account(step=2.0), 1.0, rises, kept, kept, less) == [2.0, 0.0, 0.0, 0.0]


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
    conserved(lived(account(), 1.0, *life), targets[0])
    paid, balance = [], 0.0
    for target in targets:
        change = target - balance
        balance += change
        paid.append(0.0 if joint < 0 and target is targets[-1] else change)
    with pytest.raises(AssertionError):
        conserved(paid, balance)
