"""Reward: what a decision is paid once its consequences are measured.

Role: the kernel that pays the terms of a reward family. It keeps the books, so that potentials telescope and
accounts are closed on every way out, whatever a family supplies; and it refuses values that are not finite
or outside the bounds that the family declares. Environments may be paid by different families.
Neighbours: `plugin.rewards` has the kinds of terms, `phases.collect` calls after every epoch.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from esper_core.errors import PluginError, RunError, did_you_mean
from esper_core.plugin.rewards import (
    MEASUREMENTS,
    Account,
    Event,
    Flow,
    Memory,
    Outcome,
    Potential,
    RewardFamily,
    Standing,
    Term,
    Transition,
)
from esper_core.plugin.specs import PANIC
from esper_core.state.arrays import Bools, Floats, Ints, take

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
        levels: `[N]` or `[N, S]` per potential: where it stood last; NaN before the segment's first known
            level.
        balances: `[N, S]` per account: what the seed has been paid.
        vested: `[N, S]` per account: the seed keeps it when it goes.
        notes: `[N, ...]` per term with a memory.
        seed: `[N, S]` numbers of the seeds that the balances belong to; -1 without one.
    """

    levels: Mapping[str, Floats]
    balances: Mapping[str, Floats]
    vested: Mapping[str, Bools]
    notes: Mapping[str, Floats]
    seed: Ints


@attrs.frozen(kw_only=True, eq=False)
class Rewards:
    """By which family every environment is paid.

    Attributes:
        families: by the name of the mode.
        modes: `[M]` index of the mode of the environment with the number e, at e modulo M.
    """

    families: Mapping[str, RewardFamily]
    modes: Ints

    @classmethod
    def of(cls, family: RewardFamily) -> "Rewards":
        """One family for all environments."""
        return cls(families={family.name: family}, modes=np.zeros(1, np.int64))

    def group(self, envs: Ints) -> Ints:
        """`[N]` index of the mode of each of the environments with these numbers."""
        return self.modes[envs % len(self.modes)]

    @property
    def needs(self) -> frozenset[str]:
        """Measurements that any of the terms reads."""
        return frozenset().union(*(t.needs for family in self.families.values() for t in family.terms))


def check(family: RewardFamily) -> None:
    """Refuse a family that cannot be paid.

    Raises:
        PluginError: it has no terms; or one is of an unknown kind, has a name that is taken, has bounds with
            nothing between them, has a weight that is not finite, needs what nobody measures, or is an
            account that may fall below 0 or never moves.
    """
    where = f"reward {family.name}"
    taken = {PANIC}
    if not family.terms:
        raise PluginError(f"{where}: has no terms; expected at least one")
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
        if isinstance(term, Account) and not term.step > 0:
            raise PluginError(f"{at}: its 'step' must be above 0, or it never pays, not {term.step}")
        if not np.isfinite(term.weight):
            raise PluginError(f"{at}: its weight must be finite, not {term.weight}")
        for name in sorted(term.needs - MEASUREMENTS):
            raise PluginError(
                f"{at}: nobody measures {name!r}, which it needs{did_you_mean(name, MEASUREMENTS)}; "
                "esper_core.plugin.MEASUREMENTS names what there is"
            )
        taken.add(term.name)


def open_ledger(family: RewardFamily, envs: int, slots: int) -> Ledger:
    """The books when an episode begins: no level is known, and nothing has been paid.

    Args:
        family: whose potentials and accounts are kept.
        envs: N.
        slots: S.
    """
    accounts = [t.name for t in family.terms if isinstance(t, Account)]
    return Ledger(
        levels={t.name: np.full(envs, np.nan) for t in family.terms if isinstance(t, Potential)},
        balances={name: np.zeros((envs, slots)) for name in accounts},
        vested={name: np.zeros((envs, slots), np.bool_) for name in accounts},
        notes={t.name: t.memory.blank(envs, slots) for t in family.terms if t.memory is not None},
        seed=np.full((envs, slots), -1),
    )


def open_ledgers(rewards: Rewards, envs: Ints, slots: int) -> tuple[Ledger, ...]:
    """The books of every mode's environments, of those with the numbers `envs`, `[N]`."""
    counts = np.bincount(rewards.group(envs), minlength=len(rewards.families)).tolist()
    families = rewards.families.values()
    return tuple(open_ledger(family, n, slots) for family, n in zip(families, counts, strict=True))


def pay_all(
    rewards: Rewards,
    ledgers: tuple[Ledger, ...],
    transition: Transition,
    *,
    envs: Ints,
    gamma: float,
    penalty: float,
    epoch: int,
) -> tuple[Payment, tuple[Ledger, ...]]:
    """Pay one epoch of every environment by the family of its mode.

    Args:
        rewards: who is paid by what.
        ledgers: one per mode, before the epoch.
        transition: of all environments.
        envs: `[N]` their numbers.
        gamma: as for `pay`.
        penalty: as for `pay`.
        epoch: as for `pay`.

    Returns:
        The payment, with the components of all modes, 0 for an environment whose mode has no such one; and
        the ledgers after the epoch.

    Raises:
        RunError: as for `pay`.
    """
    if len(rewards.families) == 1:
        ((family, ledger),) = zip(rewards.families.values(), ledgers, strict=True)
        payment, ledger = pay(
            family, ledger, transition, envs=envs, gamma=gamma, penalty=penalty, epoch=epoch
        )
        return payment, (ledger,)
    group, after = rewards.group(envs), []
    total = np.zeros(len(envs))
    components: dict[str, Floats] = {}
    for mode, (family, ledger) in enumerate(zip(rewards.families.values(), ledgers, strict=True)):
        of_mode = np.flatnonzero(group == mode)
        payment, ledger = pay(
            family,
            ledger,
            take(transition, of_mode),
            envs=envs[of_mode],
            gamma=gamma,
            penalty=penalty,
            epoch=epoch,
        )
        after.append(ledger)
        total[of_mode] = payment.total
        for name, amount in payment.components.items():
            components[name] = _filled(components.get(name), amount, of_mode, len(envs))
    return Payment(total=total, components=components), tuple(after)


def _filled(sofar: Floats | None, amount: Floats, of_mode: Ints, envs: int) -> Floats:
    """A component with one mode's amounts filled in; slot by slot if all modes pay it so."""
    if sofar is None:
        sofar = np.zeros((envs, *amount.shape[1:]))
    if sofar.ndim != amount.ndim:
        sofar, amount = _by_environment(sofar), _by_environment(amount)
    sofar[of_mode] = amount
    return sofar


def _by_environment(amount: Floats) -> Floats:
    """`[N]`: the sum over slots where there are any."""
    summed: Floats = amount.reshape(len(amount), int(np.prod(amount.shape[1:]))).sum(axis=1)
    return summed


def pay(
    family: RewardFamily,
    ledger: Ledger,
    transition: Transition,
    *,
    envs: Ints,
    gamma: float,
    penalty: float,
    epoch: int,
) -> tuple[Payment, Ledger]:
    """Pay one epoch of every environment.

    Each component is the weight of its term times:

    - flow, event: its amount.
    - potential: gamma * level' * [not terminal] - level; see `_potential`.
    - account: balance' - balance / gamma; see `_account`.
    - outcome: its amount in the episode's last epoch, 0 before.

    The component "panic" is minus the penalty where the environment panicked, else 0.

    Args:
        family: that `check` accepts.
        ledger: before the epoch; it is not changed.
        transition: of the epoch.
        envs: `[N]` numbers of the environments, for messages.
        gamma: discount per epoch in (0, 1], the same as the learner's.
        penalty: of a panic (units of the reward).
        epoch: number of the epoch, from 0, for messages.

    Returns:
        The payment, and the ledger after the epoch.

    Raises:
        RunError: an amount, a level or a target has a wrong shape, is not finite, or is out of bounds; the
            message names the component, the epoch, the environments and what was expected.
    """
    books = _Books(ledger=ledger, envs=envs, gamma=gamma, epoch=epoch)
    levels, balances, vested, notes, components = {}, {}, {}, {}, {}
    for term in family.terms:
        seen = transition
        if term.memory is not None:
            seen, notes[term.name] = _remembered(term, term.memory, ledger, transition)
        if isinstance(term, Potential):
            amount, levels[term.name] = _potential(term, books, seen)
        elif isinstance(term, Account):
            amount, balances[term.name], vested[term.name] = _account(term, books, seen)
        else:
            amount = _amount(term, books, seen)
        components[term.name] = term.weight * amount
    components[PANIC] = np.where(transition.panicked, -penalty, 0.0)
    total = np.zeros(len(ledger.seed))
    # by name: the same sum, bit for bit, whatever the order of the terms is
    for name in sorted(components):
        total = total + _by_environment(components[name])
    overflown = ~np.isfinite(total)
    if overflown.any():
        raise RunError(
            f"the reward is not finite in epoch {epoch}, {books.named(overflown)}, though every amount is; "
            "expected weights and amounts whose products can be added up: choose smaller weights"
        )
    return (
        Payment(total=total, components=components),
        Ledger(
            levels=levels, balances=balances, vested=vested, notes=notes, seed=transition.after.slots.seed
        ),
    )


def _remembered(
    term: Term, memory: Memory, ledger: Ledger, transition: Transition
) -> tuple[Transition, Floats]:
    """The transition as a term with a memory sees it, and what the memory has for the next epoch.

    Raises:
        RunError: the memory has another shape than it began with.
    """
    last = ledger.notes[term.name]
    noted: Floats = np.asarray(memory.follow(last, transition), np.float64)
    if noted.shape != last.shape:
        raise RunError(
            f"reward component {term.name!r} remembers an array of shape {noted.shape}; "
            f"expected {last.shape}, as it began; correct the term's memory"
        )
    seen = attrs.evolve(
        transition,
        before=attrs.evolve(transition.before, noted=last),
        after=attrs.evolve(transition.after, noted=noted),
    )
    ends = transition.terminal.reshape(-1, *[1] * (noted.ndim - 1))
    return seen, np.where(ends, memory.blank(*ledger.seed.shape), noted)


@attrs.frozen(kw_only=True, eq=False)
class _Books:
    """What the payment of every term needs.

    Attributes:
        ledger: before the epoch.
        envs: `[N]` numbers of the environments.
        gamma: discount per epoch.
        epoch: number of the epoch.
    """

    ledger: Ledger
    envs: Ints
    gamma: float
    epoch: int

    def named(self, wrong: Bools) -> str:
        """The environments of `[N]` or `[N, S]`, by their numbers."""
        return f"environments {self.envs[wrong.reshape(len(wrong), -1).any(axis=1)].tolist()}"


def _amount(term: Term, books: _Books, transition: Transition) -> Floats:
    """`[N]` or `[N, S]`: what a flow, an event or an outcome pays."""
    seed = books.ledger.seed
    if isinstance(term, Event):
        given: Any = term.amount(transition)
    else:
        given = term.amount(transition.after)  # type: ignore[attr-defined]
    amount = _shaped(term, "amount", given, books, seed.shape[:1], seed.shape)
    if isinstance(term, Outcome) and not transition.final:
        return np.zeros_like(amount)
    _expect(term, "amount", amount, ~np.isfinite(amount), books)
    return amount


def _potential(term: Potential, books: _Books, transition: Transition) -> tuple[Floats, Floats]:
    """What a potential pays, and where it stands, both `[N]` or both `[N, S]`.

    In a segment whose first known level is that after epoch k, and whose last epoch is e, the payments
    discounted from the segment's begin sum up to -gamma^(k+1) * level_k for every gamma and every k <= e: to
    nothing but where the segment started. To that end, a level that is unknown later on is taken to stay as
    it was. What a panic brings back belongs to the next segment.

    Source: Ng, Harada, Russell, "Policy invariance under reward transformations" (ICML 1999); for episodes
    that end, Grzes, "Reward shaping in episodic reinforcement learning" (AAMAS 2017).
    """
    gamma, shape, base = books.gamma, books.ledger.seed.shape, books.ledger.levels[term.name]
    shapes = (shape[:1], shape) if base.ndim == 1 else (shape,)

    def level_of(standing: Standing) -> Floats:
        given = _shaped(term, "level", term.level(standing), books, *shapes)
        _expect(term, "level", given, np.isinf(given), books)
        return given

    level = level_of(transition.after)
    if base.ndim < level.ndim:  # nothing was known yet, not even whether it is by slot
        base = np.repeat(base[:, None], level.shape[1], axis=1)
    if np.isnan(base).any():  # an episode begins, and some things are known from its start
        base = np.where(np.isnan(base), level_of(transition.before), base)
    panicked, terminal = (
        flag.reshape(-1, *[1] * (level.ndim - 1)) for flag in (transition.panicked, transition.terminal)
    )
    reached = np.where(np.isnan(level), base, level)
    left = np.where(np.isnan(base) & ~panicked, gamma * reached, base)
    amount = np.where(terminal, 0.0, gamma * reached) - left
    return np.where(np.isnan(left), 0.0, amount), np.where(panicked, level, reached)


def _account(term: Account, books: _Books, transition: Transition) -> tuple[Floats, Floats, Bools]:
    """What an account pays, its balances, and which of them are vested, all `[N, S]`.

    A balance b follows its seed's target, from 0 on, and an epoch pays b' - b / gamma, as a potential does:
    what is taken back is worth what was given, whenever that was. So the discounted payments for a seed add
    up to gamma^e b_e if it is vested at the end e of its segment, or when it is pruned, and to 0 otherwise.
    A panic undoes a commitment that was made after what it rolls back to, and then its balance, too.
    """
    after, ledger = transition.after, books.ledger
    seed, balance, kept = after.slots.seed, ledger.balances[term.name], ledger.vested[term.name]
    same = seed == ledger.seed
    target = _shaped(term, "target", term.target(after), books, seed.shape)
    target = np.where(seed >= 0, target, np.nan)
    _expect(term, "target", target, np.isinf(target), books)
    vesting = _shaped(term, "vested", term.vested(after), books, seed.shape) > 0
    vested = (seed >= 0) & (vesting | (same & kept))
    sofar = np.where(same, balance, 0.0)
    change = np.where(np.isnan(target), 0.0, target - sofar)
    change = np.minimum(change, np.where(after.slots.withdrawing, 0.0, term.step))
    due = np.where(transition.terminal[:, None] & ~vested, 0.0, sofar + change)
    keeps = kept & ~same & ~transition.panicked[:, None]
    return due - np.where(keeps, 0.0, balance / books.gamma), due, vested


def _shaped(term: Term, what: str, given: Any, books: _Books, *shapes: tuple[int, ...]) -> Floats:
    """The given values as an array of one of the shapes, or an error."""
    values: Floats = np.asarray(given, np.float64, order="C")
    if values.shape not in shapes:
        raise RunError(
            f"reward component {term.name!r} has shape {values.shape} in epoch {books.epoch}; expected its "
            f"{what} to have shape {' or '.join(map(str, shapes))}, environments first, then slots; "
            "correct the term"
        )
    return values


def _expect(term: Term, what: str, values: Floats, wrong: Bools, books: _Books) -> None:
    """Refuse `wrong` values, and those outside the term's bounds; NaN is inside."""
    bounds = f"expected its {what} to be finite and within [{term.low}, {term.high}] ({term.units})"
    if wrong.any():
        raise RunError(
            f"reward component {term.name!r} is not finite in epoch {books.epoch}, {books.named(wrong)}; "
            f"{bounds}; correct the term"
        )
    low = term.low - ROUNDING * max(1.0, abs(term.low))
    high = term.high + ROUNDING * max(1.0, abs(term.high))
    outside = (values < low) | (values > high)
    if outside.any():
        raise RunError(
            f"reward component {term.name!r} is out of bounds in epoch {books.epoch}, "
            f"{books.named(outside)}, with {values[outside][0]}; {bounds}; "
            "correct the term, or the bounds that it declares"
        )
