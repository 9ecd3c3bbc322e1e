"""The modes that the predecessor had: what each of them promises, and where it was wrong."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from built import FAMILIES, TERMS, amount, term, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_worlds import HOST, component, epochs, paid, standing, totals
from worlds import family

from esper_core.plugin.rewards import Event
from esper_core.state.actions import Op
from esper_core.state.slots import Stage
from esper_core.testing.rewards import Lived, episodes, pay_episode
from esper_core.testing.scripted import play

SCORES = st.floats(0, 1)
LOSSES = st.floats(0, 9)
PARAMETERS = st.integers(0, 400)
NONE = float("nan")


def ended(mode: str, score: float, parameters: int) -> np.ndarray:
    """`[T]` rewards of an episode that ends with one committed seed."""
    fossil = standing([[0]], stage=Stage.FOSSILIZED, parameters=parameters, score=score, committed=score)
    before = standing([[0]], stage=Stage.HOLDING, parameters=parameters, score=0.3, committed=0.2)
    return totals(paid(FAMILIES[mode].terms, epochs([before, before, fossil])))[:, 0]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(score=SCORES, better=SCORES, parameters=PARAMETERS, more=PARAMETERS)
def test_sparse_pays_what_was_shipped_at_the_end(
    score: float, better: float, parameters: int, more: int
) -> None:
    """R19: 0 before the end; the committed score minus a tenth of a host per host; it rises with the score,
    falls with the parameters, and ten points outweigh nine tenths of a host.
    """
    *early, last = ended("sparse", score, parameters)
    assert not any(early)
    assert last == pytest.approx(score - 0.1 * parameters / HOST, abs=1e-12)
    assert -0.1 * parameters / HOST - 1e-12 <= last <= 1.0
    assert (ended("sparse", better, parameters)[-1] - last) * (better - score) >= 0
    assert ended("sparse", score, parameters + more)[-1] <= last + 1e-12
    assert ended("sparse", score + 0.1, 72)[-1] > ended("sparse", score, 0)[-1]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(episode=episodes())
def test_minimal_is_sparse_and_a_price_for_early_prunes(episode: Lived) -> None:
    """R20: Their difference is 0 or -0.1."""
    one, two = (pay_episode(FAMILIES[mode], episode) for mode in ("minimal", "sparse"))
    for t, minimal, sparse in zip(episode, one, two, strict=True):
        early = amount(TERMS["early_prune"], t)
        np.testing.assert_allclose(minimal.total - sparse.total, -0.1 * early, rtol=0, atol=1e-12)


@pytest.mark.defect("B24")
def test_an_early_prune_is_paid_for_in_the_real_loop() -> None:
    """The predecessor's penalty could not be reached; this one is, at the age of 4 and not at that of 5."""
    early, late = (((0, Op.GERMINATE, 0), (age, Op.PRUNE, 0)) for age in (4, 5))
    played = play(family("contribution", "minimal"), lambda *_: 0.5, [early, late, ()], epochs=8)
    found = played.component("early_prune")
    assert found[4].tolist() == [-0.1, 0.0, 0.0]
    assert found.sum(axis=0).tolist() == [-0.1, 0.0, 0.0]
    assert [report.refused.any() for report in played.reports] == [False] * 8


# the loss


def improvement(before: float, after: float) -> float:
    """What a change of the loss pays, weighted."""
    (transition,) = epochs([standing([[-1]], loss=before), standing([[-1]], loss=after)])
    return weight("loss", "improvement") * float(amount(TERMS["loss_change"], transition)[0])


def predecessors_improvement(before: float, after: float) -> float:
    """-5 x with x = clip(difference / 0.1, +-5), halved above 0, for a difference with the wrong sign."""
    x = float(np.clip((before - after) / 0.1, -5, 5))
    return -5.0 * (0.5 * x if x > 0 else x)


def assert_falls_pay(change: Any, before: float, after: float, later: float) -> None:
    """The check: less loss, more pay; a fall pays at least 0, and a rise at most 0."""
    assert (change(before, after) - change(before, later)) * (later - after) >= 0
    assert change(before, after) * (before - after) >= 0


@pytest.mark.defect("B2")
@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(before=LOSSES, after=LOSSES, later=LOSSES)
def test_a_fall_of_the_loss_pays_and_a_rise_costs(before: float, after: float, later: float) -> None:
    """R21: Non-increasing in the loss; an improvement pays at least 0."""
    assert_falls_pay(improvement, before, after, later)


@pytest.mark.defect("B2")
def test_the_predecessors_sign_was_wrong() -> None:
    with pytest.raises(AssertionError):
        assert_falls_pay(predecessors_improvement, 1.0, 0.95, 0.9)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(losses=st.lists(LOSSES, min_size=2, max_size=8))
def test_what_a_loss_goes_up_and_down_is_worth_its_ends(losses: list[float]) -> None:
    """R21: The sum over an episode is that of its first and its last loss; a way back is never farmed."""
    ways = [improvement(a, b) for a, b in pairwise(losses)]
    assert sum(ways) == pytest.approx(improvement(losses[0], losses[-1]), abs=1e-9)


@pytest.mark.defect("B2")
def test_the_first_loss_is_neutral() -> None:
    """R21: What was never measured has not changed; the predecessor paid -12.5 for it."""

    def neutral(paid: float) -> None:
        assert paid == 0.0

    neutral(improvement(NONE, 3.0))
    neutral(improvement(3.0, NONE))
    with pytest.raises(AssertionError):
        neutral(predecessors_improvement(np.inf, 3.0))


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(loss=LOSSES, more=LOSSES)
def test_how_far_the_loss_came_is_a_share(loss: float, more: float) -> None:
    """R21: 0 from the start on, 1 from the goal on, linear between them, and falling."""
    chosen = term("final_loss", start=4.0, goal=1.0)

    def found(loss: float) -> float:
        return float(amount(chosen, standing([[-1]], loss=loss))[0])

    assert found(loss) == pytest.approx(min(max((4.0 - loss) / 3.0, 0.0), 1.0), abs=1e-12)
    assert found(loss + more) <= found(loss)
    assert found(NONE) == 0.0


# the gain


def assert_gain_of_the_episode(paid: float, bare: float, committed: float) -> None:
    assert paid == pytest.approx(weight("basic", "gain") * (committed - bare), abs=1e-12)


@pytest.mark.defect("B15")
@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(committed=st.lists(SCORES, min_size=3, max_size=6), bare=st.lists(SCORES, min_size=6, max_size=6))
def test_the_gain_is_that_of_the_episode(committed: list[float], bare: list[float]) -> None:
    """R25: By how much committed seeds raise the score over the same host without any, at the end.

    The predecessor paid the change of the score in the last epoch.
    """
    standings = [
        standing([[0]], stage=Stage.FOSSILIZED, score=c, committed=c, bare=b)
        for c, b in zip(committed, bare, strict=False)
    ]
    (found,) = component(paid(FAMILIES["basic"].terms, epochs(standings)), "gain")[-1]
    last = bare[len(committed) - 1]
    assert_gain_of_the_episode(found, last, committed[-1])
    of_the_last_epoch = 5.0 * (committed[-1] - committed[-2])
    if abs(committed[-2] - last) > 1e-6:
        with pytest.raises(AssertionError):
            assert_gain_of_the_episode(of_the_last_epoch, last, committed[-1])


# every slot


def harmed_and_helped(worth: Sequence[float]) -> Any:
    """A host, and seeds that are each worth something."""
    return lambda envs, epoch, influence: 0.5 + influence @ np.asarray(worth)


@pytest.mark.defect("B6")
@pytest.mark.parametrize("mode", ["shaped", "escrow", "shapley"])
@pytest.mark.parametrize("slot", [0, 1, 2])
def test_every_slot_is_paid_whatever_is_decided(mode: str, slot: int) -> None:
    """A seed in any slot, while the controller waits; the predecessor scored the first one then."""
    worth = [0.2 if s == slot else 0.0 for s in range(3)]
    story = ((0, Op.GERMINATE, slot), (1, Op.ADVANCE, slot))
    played = play(FAMILIES[mode], harmed_and_helped(worth), [story], slots=3, epochs=6)

    def paid_where_it_grows(paid: np.ndarray) -> None:
        """`[T, S]` amounts of what credits seeds, and of what counts their stages."""
        assert np.abs(paid[:, slot]).sum() > 0
        assert not paid[:, [s for s in range(3) if s != slot]].any()

    for name in ("stage", {"shapley": "share"}.get(mode, "attribution")):
        found = played.component(name)[:, 0]
        paid_where_it_grows(found)
        waiting = np.asarray([report.decision.op[0] == Op.WAIT for report in played.reports])
        assert found[waiting, slot].any()
        sampled = np.where(waiting[:, None] & (np.arange(3) != 0), 0.0, found)
        if slot != 0:
            with pytest.raises(AssertionError):
                np.testing.assert_array_equal(sampled, found)


@pytest.mark.defect("B8")
@pytest.mark.parametrize("mode", list(FAMILIES))
@pytest.mark.parametrize("slot", [0, 1])
def test_to_prune_what_is_harmful_is_no_merit(mode: str, slot: int) -> None:
    """In the epoch of a prune, no component that credits seeds pays more than it has taken before; the
    predecessor paid the size of the harm, where the harm itself was free in every slot but the first.
    """
    worth = [-0.2 if s == slot else 0.0 for s in range(2)]
    story = ((0, Op.GERMINATE, slot), (1, Op.ADVANCE, slot), (4, Op.PRUNE, slot))
    played = play(FAMILIES[mode], harmed_and_helped(worth), [story], slots=2, epochs=6)

    def no_merit(paid: np.ndarray) -> None:
        """`[T]`: what was paid for seeds, from the first epoch to the last."""
        assert paid.sum() <= 1e-12
        assert paid[4] <= 1e-12

    for name in {"attribution", "share", "synergy", "bonus", "drip"} & set(
        played.reports[0].payment.components
    ):
        no_merit(played.component(name)[:, 0].sum(axis=-1))
    inverted = np.zeros(6)
    inverted[4] = 100 * 0.2
    with pytest.raises(AssertionError):
        no_merit(inverted)


@pytest.mark.defect("B26")
def test_paying_twice_pays_the_same_and_tells_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """R3: A term is a function of what it is given; the predecessor's drip moved when it was asked."""

    class Drip:
        """Its state is in the function that is asked for the amount."""

        def __init__(self) -> None:
            self.pool = 1.0

        def __call__(self, transition: Any) -> Any:
            self.pool *= 0.5
            return np.full(len(transition.refused), self.pool)

    def same_twice(event: Event) -> None:
        episode = epochs([standing([[0]], stage=Stage.FOSSILIZED, contribution=0.5)] * 2)
        one, two = (paid([event], episode)[0].total for _ in range(2))
        np.testing.assert_array_equal(one, two)

    for name, found in TERMS.items():
        if isinstance(found, Event):
            same_twice(found)
            assert not caplog.records, name
    with pytest.raises(AssertionError):
        same_twice(Event(name="drip", units="", low=0.0, high=1.0, amount=Drip()))
