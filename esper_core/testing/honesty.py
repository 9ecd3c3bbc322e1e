"""Whether a reward can be farmed: stories through the real loop that must not pay more than idleness.

    def test_mine():
        check_family(family("acme/frugal"))

Role: public; a fixed set of stories, the same that our own families pass with random numbers in them.
Neighbours: `testing.scripted` plays, `testing.families` gives a family by name.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from esper_core.plugin.rewards import RewardFamily
from esper_core.state.actions import Op
from esper_core.state.arrays import Floats
from esper_core.testing.scripted import Move, play

EPOCHS, SLOTS = 8, 2
CLOSE = 1e-9
"""Difference of returns below which they are equal."""
WORTH = 0.25
"""What a useful seed adds to the score, and a harmful one takes off."""


def check_family(family: RewardFamily, *, gamma: float = 1.0) -> None:
    """Check that nobody is paid for nothing.

    With the discounted return of an idle environment as the measure: to plant a seed that adds nothing, and
    to prune it, never pays; a harmful seed pays in no slot, whether it is pruned, held or committed; to ask
    for what is refused never pays, and to ask again pays no more; and to commit a useful seed as soon as that
    is possible is worth at least holding it for ever.

    Args:
        family: of the reward.
        gamma: discount per epoch.

    Raises:
        AssertionError: the message names the family, what pays, and how much.
    """
    for slot in range(SLOTS):
        asked = [tuple((t, Op.FOSSILIZE, slot) for t in range(k)) for k in range(4)]
        refused = _returns(family, slot, 0.0, gamma, asked)
        for fewer, more in pairwise(refused):
            _require(family, np.asarray([fewer, more]), "what is refused is asked for again")
        planted = ((0, Op.GERMINATE, slot), (1, Op.ADVANCE, slot))
        pruned, committed = (*planted, (4, Op.PRUNE, slot)), (*planted, (2, Op.FOSSILIZE, slot))
        alone = (planted[0], (2, Op.PRUNE, slot))
        none = _returns(family, slot, 0.0, gamma, [(), pruned, alone, (*alone, *_later(pruned, 4))])
        _require(family, none, "a seed that adds nothing is planted and pruned")
        harmful = _returns(family, slot, -WORTH, gamma, [(), pruned, planted, committed])
        _require(family, harmful, f"there is a harmful seed in slot {slot}")
        useful = _returns(family, slot, WORTH, gamma, [committed, planted])
        _require(family, useful, "a useful seed is held and never committed")


def _returns(
    family: RewardFamily, slot: int, worth: float, gamma: float, stories: Sequence[Sequence[Move]]
) -> Floats:
    """`[N]` discounted returns of stories on a host that learns, with a seed of some worth in a slot."""

    def score(envs: Any, epoch: int, influence: Floats) -> Any:
        return 0.4 + 0.01 * epoch + worth * influence[..., slot]

    played = play(family, score, stories, slots=SLOTS, epochs=EPOCHS, gamma=gamma)
    returns: Floats = gamma ** np.arange(EPOCHS) @ played.paid
    return returns


def _later(story: Sequence[Move], epochs: int) -> tuple[Move, ...]:
    return tuple((epoch + epochs, op, slot) for epoch, op, slot in story if epoch + epochs < EPOCHS)


def _require(family: RewardFamily, returns: Floats, what: str) -> None:
    """The first return is the largest."""
    won = float(returns.max() - returns[0])
    if won > CLOSE:
        raise AssertionError(
            f"reward {family.name}: where {what}, the return is {won:g} larger than without it; "
            "pay balances or potentials instead of levels, or raise the price"
        )
