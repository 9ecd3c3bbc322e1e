"""Conformance of the terms of a reward: what makes them safe to pay.

    @given(episode=episodes())
    def test_my_term(episode):
        check_terms({"mine": build(Settings())}, episode)

Role: public; random episodes, in which seeds come and go and nothing is trained, and the check that our own
terms pass.
Neighbours: `phases.reward` pays, `testing.scripted` plays sequences of decisions through the real loop.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from attrs import frozen
from hypothesis import strategies as st

from esper_core.errors import EsperError
from esper_core.phases.reward import Payment, check, open_ledger, pay
from esper_core.plugin.rewards import MEASUREMENTS, RewardFamily, Standing, Term, Transition
from esper_core.state.actions import HEADS, Curve, Decision, Op
from esper_core.state.arrays import Bools, Floats, Ints, rows, take
from esper_core.state.attribution import Attribution
from esper_core.state.evidence import Evidence
from esper_core.state.signals import HostSignals
from esper_core.state.slots import BLENDED, LIVE, PLANTED, SlotTable, Stage

Lived = tuple[Transition, ...]
"""An episode, epoch by epoch."""

CLOSE = 1e-9
"""Difference of two sums of the same amounts in another order."""
EMPTIED = {
    Stage.PRUNED: Stage.EMBARGOED,
    Stage.EMBARGOED: Stage.RESETTING,
    Stage.RESETTING: Stage.DORMANT,
    Stage.DORMANT: Stage.DORMANT,
}
"""What a slot without a seed is an epoch later."""


# the episodes


@frozen
class _Chance:
    """Where random values come from.

    Attributes:
        rng: the generator.
        unknown: share of the measurements that were not taken.
        coarse: values are multiples of 1/8, so that ties and thresholds are met.
    """

    rng: np.random.Generator
    unknown: float
    coarse: bool

    def values(self, *shape: int) -> Floats:
        """In [-0.375, 1], NaN where unknown."""
        some = self.rng.integers(-3, 9, shape) / 8 if self.coarse else self.rng.uniform(-0.375, 1, shape)
        return np.where(self.rng.random(shape) < self.unknown, np.nan, some)


@st.composite
def episodes(draw: st.DrawFn, *, max_epochs: int = 5, max_envs: int = 3, max_slots: int = 3) -> Lived:
    """Random episodes, as a reward sees them; their arrays refuse to be written to.

    Seeds germinate, come along from stage to stage, are replaced, pruned, withdrawn and committed; hosts
    panic. Decisions are anything and need not be what happened. Measurements are unknown now and then, but a
    host whose score is known has a committed score, too.

    Args:
        draw: hypothesis.
        max_epochs: T.
        max_envs: N.
        max_slots: S.
    """
    count, envs, slots = (draw(st.integers(1, most)) for most in (max_epochs, max_envs, max_slots))
    chance = _Chance(
        rng=np.random.default_rng(draw(st.integers(0, 2**32))),
        unknown=draw(st.sampled_from([0.0, 0.25, 1.0])),
        coarse=draw(st.booleans()),
    )
    panics = draw(st.sampled_from([0.0, 0.3]))
    at = Standing(
        slots=SlotTable.empty(envs, slots),
        signals=HostSignals.unknown(envs),
        evidence=Evidence.unknown(envs, slots),
        attribution=Attribution.unknown(envs, slots),
        host_parameters=draw(st.integers(1, 1000)),
        progress=draw(st.floats(0, 1)),
    )
    epochs = []
    for t in range(count):
        panicked = chance.rng.random(envs) < panics
        heads = {head: np.zeros(envs, np.int64) for head in HEADS}
        heads["op"] = chance.rng.integers(0, len(Op), envs)
        heads["slot"] = chance.rng.integers(0, slots, envs)
        transition = Transition(
            before=at,
            after=_next(chance, at, panicked),
            decision=Decision(**heads),
            refused=chance.rng.integers(0, 2, envs),
            panicked=panicked,
            final=t == count - 1,
        )
        epochs.append(transition)
        at = transition.after
    _lock(epochs)
    return tuple(epochs)


def _next(chance: _Chance, at: Standing, panicked: Bools) -> Standing:
    """An epoch later; what a panic leaves is known as `phases.collect` leaves it."""
    slots = _lived(chance.rng, at.slots, panicked)
    signals, attribution = _measured(chance, at.signals, slots)
    unknown, unknown_host = Evidence.unknown(*slots.shape), HostSignals.unknown(len(panicked))
    floats = [a.name for a in attrs.fields(Evidence) if getattr(unknown, a.name).dtype == np.float64]
    drawn = np.where(slots.seed >= 0, chance.values(len(floats), *slots.shape), np.nan)
    values = {n: np.abs(v) if n.endswith("_error") else v for n, v in zip(floats, drawn, strict=True)}
    evidence = attrs.evolve(unknown, **values)
    rescued = attrs.evolve(
        signals, train_loss=unknown_host.train_loss, loss=unknown_host.loss, score=signals.committed
    )
    shipped = attrs.evolve(
        Attribution.unknown(*slots.shape), committed=attribution.committed, bare=attribution.bare
    )
    return attrs.evolve(
        at,
        slots=slots,
        signals=rows(panicked, rescued, signals),
        evidence=rows(panicked, unknown, evidence),
        attribution=rows(panicked, shipped, attribution),
    )


def _lived(rng: np.random.Generator, slots: SlotTable, panicked: Bools) -> SlotTable:
    """Where the seeds are an epoch later."""
    chance, shape = rng.random(slots.shape), slots.shape
    live, empty, calm = slots.within(LIVE), slots.seed < 0, ~panicked[:, None]
    new = calm & ((empty & (chance < 0.5)) | (live & (chance > 0.95)))
    lost = np.where(live, ~calm | (chance < 0.1), ~empty & ~calm & (chance < 0.5))
    same = ~empty & ~lost & ~new
    emptied = np.asarray([EMPTIED.get(stage, Stage.PRUNED) for stage in Stage])
    came = np.where(live & calm & (chance > 0.5), slots.stage + 1, slots.stage)
    stage = np.where(new, int(Stage.TRAINING), np.where(same, came, emptied[slots.stage]))
    moving = np.isin(stage, BLENDED)
    steps = rng.integers(1, 4, shape)
    return SlotTable(
        born=slots.born + new.sum(axis=1),
        stage=stage,
        seed=np.where(new, slots.born[:, None] + new.cumsum(axis=1) - 1, np.where(same, slots.seed, -1)),
        blueprint=np.where(new | same, 0, -1),
        blend=np.where(new | same, 0, -1),
        parameters=np.where(new, rng.integers(1, 99, shape), np.where(same, slots.parameters, 0)),
        age=np.where(new | same, np.where(same, slots.age, 0) + 1, 0),
        dwell=np.where(
            stage == Stage.DORMANT, 0, np.where(~new & (stage == slots.stage), slots.dwell, 0) + 1
        ),
        ramp_start=np.where(moving, rng.random(shape), 0.0),
        ramp_target=np.where(moving, rng.random(shape), 0.0),
        ramp_steps=np.where(moving, steps, 0),
        ramp_done=np.where(moving, rng.integers(0, steps + 1), 0),
        ramp_curve=rng.integers(0, len(Curve), shape),
        withdrawing=np.isin(stage, (Stage.BLENDING, Stage.HOLDING)) & (rng.random(shape) < 0.2),
    )


def _measured(chance: _Chance, last: HostSignals, slots: SlotTable) -> tuple[HostSignals, Attribution]:
    """What a validation says of hosts and seeds."""
    envs, count = slots.shape
    score, loss, train_loss, bare = chance.values(4, envs)
    committed = attrs.evolve(chance, unknown=0.0).values(envs)
    signals = HostSignals(
        train_loss=np.abs(train_loss),
        loss=np.abs(loss),
        score=score,
        committed=np.where(np.isnan(score), np.nan, committed),
        best=np.fmax(last.best, score),
        plateau=chance.rng.integers(0, 9, envs),
    )
    players = slots.within(PLANTED)
    pair = players[:, :, None] & players[:, None, :] & ~np.eye(count, dtype=bool)
    half = chance.values(envs, count, count)
    names = ("contribution", "shapley", "banzhaf", "contact")
    seeds = np.where(players, chance.values(len(names), envs, count), np.nan)
    attribution = Attribution(
        loss=signals.loss,
        score=score,
        score_error=np.abs(score) / 4,
        committed=signals.committed,
        committed_error=np.abs(signals.committed) / 4,
        bare=np.where(np.isnan(score), np.nan, bare),
        players=players,
        **dict(zip(names, seeds, strict=True)),
        **{f"{name}_error": np.abs(values) / 4 for name, values in zip(names[:3], seeds[:3], strict=True)},
        interaction=np.where(pair, half + half.transpose(0, 2, 1), np.nan),
        interaction_error=np.where(pair, np.abs(half), np.nan),
    )
    return signals, attribution


def _lock(value: Any) -> None:
    """Make arrays at any depth refuse to be written to."""
    if isinstance(value, np.ndarray):
        value.setflags(write=False)
    elif isinstance(value, list):
        for item in value:
            _lock(item)
    elif attrs.has(type(value)):
        _lock([getattr(value, a.name) for a in attrs.fields(type(value))])


# what is changed in them


def without(episode: Sequence[Transition], names: Collection[str]) -> Lived:
    """The episode in which nobody ever measured the `names`, of `MEASUREMENTS`."""

    def blank(at: Standing) -> Standing:
        unknown: dict[str, Any] = {
            "signals": HostSignals.unknown(len(at.slots.seed)),
            "evidence": Evidence.unknown(*at.slots.shape),
            "attribution": Attribution.unknown(*at.slots.shape),
        }
        changed = {}
        for record, nothing in unknown.items():
            found = {a.name for a in attrs.fields(type(nothing))} & set(names)
            changed[record] = attrs.evolve(getattr(at, record), **{n: getattr(nothing, n) for n in found})
        return attrs.evolve(at, **changed)

    return tuple(attrs.evolve(t, before=blank(t.before), after=blank(t.after)) for t in episode)


def reordered(episode: Sequence[Transition], order: Ints) -> Lived:
    """The episode with slot `order[s]` in the place of slot s; decisions follow the slot that they mean."""

    def of(record: Any) -> Any:
        arrays = {a.name: getattr(record, a.name) for a in attrs.fields(type(record))}
        arrays = {n: v[:, order] if v.ndim > 1 else v for n, v in arrays.items()}
        return attrs.evolve(record, **{n: v[:, :, order] if v.ndim > 2 else v for n, v in arrays.items()})

    def standing(at: Standing) -> Standing:
        parts = {name: of(getattr(at, name)) for name in ("slots", "evidence", "attribution")}
        return attrs.evolve(at, **parts)

    place = np.argsort(order)
    return tuple(
        attrs.evolve(
            t,
            before=standing(t.before),
            after=standing(t.after),
            decision=attrs.evolve(t.decision, slot=place[t.decision.slot]),
        )
        for t in episode
    )


# the check


def pay_episode(
    reward: RewardFamily | Term, episode: Sequence[Transition], *, gamma: float = 1.0, penalty: float = 0.0
) -> list[Payment]:
    """What an episode pays, epoch by epoch.

    Args:
        reward: a family, or a term, which is paid alone.
        episode: from its begin.
        gamma: discount per epoch.
        penalty: of a panic.

    Raises:
        PluginError: the family cannot be paid.
        RunError: an epoch cannot be paid.
    """
    family = reward if isinstance(reward, RewardFamily) else RewardFamily(name="test", terms=(reward,))
    check(family)
    ledger = open_ledger(family, *episode[0].before.slots.shape)
    envs, payments = np.arange(len(episode[0].refused)), []
    for epoch, transition in enumerate(episode):
        payment, ledger = pay(
            family, ledger, transition, envs=envs, gamma=gamma, penalty=penalty, epoch=epoch
        )
        payments.append(payment)
    return payments


def check_terms(terms: Mapping[str, Term], episode: Sequence[Transition], *, gamma: float = 0.99) -> None:
    """Check that terms can be paid, whatever happens.

    Their values have the right shape, are finite and within their bounds; they are functions of what they are
    given, and change none of it; they read no measurement that they do not need; environments do not know of
    each other; and slots have no names: in another order they are paid the same.

    Args:
        terms: as their builders return them, by any name.
        episode: from `episodes`.
        gamma: discount per epoch.

    Raises:
        AssertionError: the message names the term, what is wrong with it, and what to do.
    """
    given = [attrs.evolve(term, name=name) for name, term in terms.items()]
    found = _amounts(given, episode, gamma)
    _require_same(
        found, _amounts(given, episode, gamma), "paid twice, it pays something else", "keep no state"
    )
    for needs in dict.fromkeys(term.needs for term in given):
        alike, others = [term for term in given if term.needs == needs], MEASUREMENTS - needs
        for dishonest in _readers(alike, episode, others, found, gamma):
            read = [n for n in sorted(others) if _readers([dishonest], episode, [n], found, gamma)]
            raise AssertionError(
                f"term {dishonest.name!r}: it reads {', '.join(read or sorted(others))}; "
                "name that in 'needs', or do not read it"
            )
    alone = _amounts(given, [take(t, np.zeros(1, np.int64)) for t in episode], gamma)
    first = {name: [amount[:1] for amount in amounts] for name, amounts in found.items()}
    _require_same(first, alone, "it pays an environment for what others do", "keep them apart: axis 0")
    order = np.arange(episode[0].before.slots.shape[1])[::-1]
    back = _amounts(given, reordered(episode, order), gamma)
    back = {name: [a[:, order] if a.ndim > 1 else a for a in amounts] for name, amounts in back.items()}
    _require_same(found, back, "it pays something else when slots change places", "treat all slots alike")


def _amounts(terms: Sequence[Term], episode: Sequence[Transition], gamma: float) -> dict[str, list[Floats]]:
    """What an episode pays, epoch by epoch, by the name of the term."""
    try:
        paid = pay_episode(RewardFamily(name="test", terms=tuple(terms)), episode, gamma=gamma)
    except EsperError as error:
        raise AssertionError(str(error)) from error
    return {term.name: [payment.components[term.name] for payment in paid] for term in terms}


def _readers(
    terms: Sequence[Term],
    episode: Sequence[Transition],
    names: Collection[str],
    found: Mapping[str, list[Floats]],
    gamma: float,
) -> list[Term]:
    """The terms that pay something else, or cannot be paid, where nobody measured the `names`."""
    try:
        different = _different(found, _amounts(terms, without(episode, names), gamma))
    except AssertionError:
        if len(terms) == 1:
            return list(terms)
        return [reader for term in terms for reader in _readers([term], episode, names, found, gamma)]
    return [term for term in terms if term.name in different]


def _different(one: Mapping[str, list[Floats]], other: Mapping[str, list[Floats]]) -> list[str]:
    """Names of terms that pay something else; sums may differ by the order of their summands."""
    return [
        name
        for name, amounts in other.items()
        if not all(np.abs(a - b).max() <= CLOSE for a, b in zip(amounts, one[name], strict=True))
    ]


def _require_same(
    one: Mapping[str, list[Floats]], other: Mapping[str, list[Floats]], wrong: str, remedy: str
) -> None:
    for name in _different(one, other):
        raise AssertionError(f"term {name!r}: {wrong}; {remedy}")
