"""Reward: what a decision is paid once its consequences are measured.

Role: the kernel that pays the terms of a reward family. It keeps the books, so that potentials telescope and
accounts are closed on every way out, whatever a family supplies; and it refuses values that are not finite
or outside the bounds that the family declares.
Neighbours: `plugin.rewards` has the kinds of terms, `phases.collect` calls after every epoch.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from esper_core.errors import PluginError, RunError
from esper_core.plugin.rewards import (
    Account,
    Event,
    Flow,
    Outcome,
    Potential,
    RewardFamily,
    Term,
    Transition,
)
from esper_core.state.arrays import Bools, Floats, Ints

PANIC = "panic"
"""Name of the component that every family has: what panics cost."""
ROUNDING = 1e-9
"""How far a value may lie outside a bound b, in units of max(1, |b|)."""


@attrs.frozen(kw_only=True, eq=False)
class Payment:
    """What an epoch paid.

    Attributes:
        total: `[N]`.
        components: by name, weighted, each `[N]`, or `[N, S]` slot by slot; they add up to the total.
    """

    total: Floats
    components: Mapping[str, Floats]


@attrs.frozen(kw_only=True, eq=False)
class Ledger:
    """The books of N environments with S slots between two epochs; nothing in them is weighted.

    Attributes:
        levels: `[N]` per potential: where it stood last; NaN before the segment's first known level.
        balances: `[N, S]` per account: what the seed has been paid; NaN once it is vested, which closes its
            account for good.
        seed: `[N, S]` numbers of the seeds that the balances belong to; -1 without one.
    """

    levels: Mapping[str, Floats]
    balances: Mapping[str, Floats]
    seed: Ints


def check(family: RewardFamily) -> None:
    """Refuse a family that cannot be paid.

    Raises:
        PluginError: it has no terms; or one is of an unknown kind, has a name that is taken, has bounds with
            nothing between them, has a weight that is not finite, or is an account that may fall below 0.
    """
    where = f"reward family {type(family).__module__}.{type(family).__qualname__}"
    if not hasattr(family, "terms"):
        raise PluginError(f"{where}: has no 'terms'; expected a sequence of terms")
    taken = {PANIC}
    for term in family.terms:
        if not isinstance(term, Flow | Event | Potential | Account | Outcome):
            raise PluginError(
                f"{where}: a term is a {type(term).__name__}; "
                "expected Flow, Event, Potential, Account or Outcome"
            )
        at = f"{where}: {type(term).__name__} {term.name!r}"
        if term.name in taken:
            raise PluginError(
                f"{at}: its name is taken, by another term or by what panics cost; choose another"
            )
        if not term.low <= term.high:
            raise PluginError(f"{at}: its bounds must have low <= high, not [{term.low}, {term.high}]")
        if isinstance(term, Account) and term.low < 0:
            raise PluginError(f"{at}: a balance is at least 0, so its bound 'low' must be, not {term.low}")
        if not np.isfinite(term.weight):
            raise PluginError(f"{at}: its weight must be finite, not {term.weight}")
        taken.add(term.name)


def open_ledger(family: RewardFamily, envs: int, slots: int) -> Ledger:
    """The books when an episode begins: no level is known, and nothing has been paid.

    Args:
        family: whose potentials and accounts are kept.
        envs: N.
        slots: S.
    """
    return Ledger(
        levels={t.name: np.full(envs, np.nan) for t in family.terms if isinstance(t, Potential)},
        balances={t.name: np.zeros((envs, slots)) for t in family.terms if isinstance(t, Account)},
        seed=np.full((envs, slots), -1),
    )


def pay(
    family: RewardFamily, ledger: Ledger, transition: Transition, *, gamma: float, penalty: float, epoch: int
) -> tuple[Payment, Ledger]:
    """Pay one epoch of every environment.

    Each component is the weight of its term times:

    - flow, event: its amount.
    - potential: gamma * level' * [not terminal] - level; see `_potential`.
    - account: what its balances grow by; see `_account`.
    - outcome: its amount in the episode's last epoch, 0 before.

    The component "panic" is minus the penalty where the environment panicked, else 0.

    Args:
        family: that `check` accepts.
        ledger: before the epoch; it is not changed.
        transition: of the epoch.
        gamma: discount per epoch, the same as the learner's.
        penalty: of a panic (units of the reward).
        epoch: number of the epoch, from 0, for messages.

    Returns:
        The payment, and the ledger after the epoch.

    Raises:
        RunError: an amount, a level or a target has a wrong shape, is not finite, or is out of bounds; the
            message names the component, the epoch, the environments and what was expected.
    """
    levels, balances, components = {}, {}, {}
    for term in family.terms:
        if isinstance(term, Potential):
            amount, levels[term.name] = _potential(term, ledger, transition, gamma, epoch)
        elif isinstance(term, Account):
            amount, balances[term.name] = _account(term, ledger, transition, epoch)
        else:
            amount = _amount(term, ledger, transition, epoch)
        components[term.name] = term.weight * amount
    components[PANIC] = np.where(transition.panicked, -penalty, 0.0)
    total = np.zeros(len(ledger.seed))
    # by name: the same sum, bit for bit, whatever the order of the terms is
    for name in sorted(components):
        total = total + components[name].reshape(len(total), -1).sum(axis=1)
    overflown = ~np.isfinite(total)
    if overflown.any():
        raise RunError(
            f"the reward is not finite in epoch {epoch}, {_environments(overflown)}, though every amount is; "
            "expected weights and amounts whose products can be added up: choose smaller weights"
        )
    return (
        Payment(total=total, components=components),
        Ledger(levels=levels, balances=balances, seed=transition.after.slots.seed),
    )


def _amount(term: Term, ledger: Ledger, transition: Transition, epoch: int) -> Floats:
    """`[N]` or `[N, S]`: what a flow, an event or an outcome pays."""
    if isinstance(term, Event):
        given: Any = term.amount(transition)
    elif isinstance(term, Flow) or (isinstance(term, Outcome) and transition.final):
        given = term.amount(transition.after)
    else:
        return np.zeros(len(ledger.seed))
    amount = _shaped(term, "amount", given, epoch, ledger.seed.shape[:1], ledger.seed.shape)
    _expect(term, "amount", amount, ~np.isfinite(amount), epoch)
    return amount


def _potential(
    term: Potential, ledger: Ledger, transition: Transition, gamma: float, epoch: int
) -> tuple[Floats, Floats]:
    """What a potential pays, `[N]`, and where it stands, `[N]`.

    In a segment whose first known level is that after epoch k, and whose last epoch is e, the payments
    discounted from the segment's begin sum up to -gamma^(k+1) * level_k for every gamma and every k <= e: to
    nothing but where the segment started. To that end, a level that is unknown later on is taken to stay as
    it was. What a panic brings back belongs to the next segment.

    Source: Ng, Harada, Russell, "Policy invariance under reward transformations" (ICML 1999); for episodes
    that end, Grzes, "Reward shaping in episodic reinforcement learning" (AAMAS 2017).
    """
    base, panicked = ledger.levels[term.name], transition.panicked
    level = _shaped(term, "level", term.level(transition.after), epoch, base.shape)
    _expect(term, "level", level, np.isinf(level), epoch)
    reached = np.where(np.isnan(level), base, level)
    left = np.where(np.isnan(base) & ~panicked, gamma * reached, base)
    amount = np.where(transition.terminal, 0.0, gamma * reached) - left
    return np.where(np.isnan(left), 0.0, amount), np.where(panicked, level, reached)


def _account(term: Account, ledger: Ledger, transition: Transition, epoch: int) -> tuple[Floats, Floats]:
    """What an account pays, `[N, S]`, and its balances, `[N, S]`.

    A balance follows its seed's target, from 0 on. It is paid back when the seed is gone or the segment ends,
    unless the seed is vested: then it is kept, and the account is closed.
    """
    after, balance = transition.after, ledger.balances[term.name]
    seed = after.slots.seed
    same = seed == ledger.seed
    target = _shaped(term, "target", term.target(after), epoch, seed.shape)
    target = np.where(seed >= 0, target, np.nan)
    _expect(term, "target", target, np.isinf(target), epoch)
    vested = _shaped(term, "vested", term.vested(after), epoch, seed.shape) > 0
    closed = vested | (same & np.isnan(balance))
    paid = np.where(np.isnan(balance), 0.0, balance)
    due = np.where(same, paid, 0.0)
    due = np.where(np.isnan(target) | closed, due, target)
    due = np.where(transition.terminal[:, None] & ~closed, 0.0, due)
    return due - paid, np.where(closed, np.nan, due)


def _shaped(term: Term, what: str, given: Any, epoch: int, *shapes: tuple[int, ...]) -> Floats:
    """The given values as an array of one of the shapes, or an error."""
    values: Floats = np.asarray(given, np.float64, order="C")
    if values.shape not in shapes:
        raise RunError(
            f"reward component {term.name!r} has shape {values.shape} in epoch {epoch}; expected its {what} "
            f"to have shape {' or '.join(map(str, shapes))}, environments first, then slots; "
            "correct the reward family"
        )
    return values


def _expect(term: Term, what: str, values: Floats, wrong: Bools, epoch: int) -> None:
    """Refuse `wrong` values, and those outside the term's bounds; NaN is inside."""
    bounds = f"expected its {what} to be finite and within [{term.low}, {term.high}] ({term.units})"
    if wrong.any():
        raise RunError(
            f"reward component {term.name!r} is not finite in epoch {epoch}, {_environments(wrong)}; "
            f"{bounds}; correct the reward family"
        )
    low = term.low - ROUNDING * max(1.0, abs(term.low))
    high = term.high + ROUNDING * max(1.0, abs(term.high))
    outside = (values < low) | (values > high)
    if outside.any():
        raise RunError(
            f"reward component {term.name!r} is out of bounds in epoch {epoch}, {_environments(outside)}, "
            f"with {values[outside][0]}; {bounds}; correct the reward family, or the bounds that it declares"
        )


def _environments(wrong: Bools) -> str:
    """The environments, by their index in the batch, of `[N]` or `[N, S]`."""
    return f"environments {np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1)).tolist()}"
