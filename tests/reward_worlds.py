"""Made-up episodes for the tests of the reward kernel: seeds come and go, and nothing is trained."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st

from esper_core.phases import reward
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
from esper_core.state.arrays import take
from esper_core.state.attribution import Attribution
from esper_core.state.evidence import Evidence
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable, Stage

HOST = 80
"""Parameters of a host."""


def standing(seed: Any, *, progress: float = 1.0, **known: Any) -> Standing:
    """N environments with seeds of the numbers `seed`, `[N, S]`, -1 where there is none.

    Whatever has the name of what is given is filled with it, in every record; the rest is unknown.
    """
    seed = np.asarray(seed, np.int64)

    def fill(given: Any, like: np.ndarray) -> np.ndarray:
        return np.broadcast_to(given, like.shape).astype(like.dtype)

    def filled(record: Any) -> Any:
        given = {
            field.name: fill(known[field.name], getattr(record, field.name))
            for field in attrs.fields(type(record))
            if field.name in known
        }
        return attrs.evolve(record, **given)

    known = {"stage": np.where(seed >= 0, int(Stage.HOLDING), int(Stage.DORMANT)), "seed": seed, **known}
    records = {
        "slots": filled(SlotTable.empty(*seed.shape)),
        "signals": filled(HostSignals.unknown(len(seed))),
        "evidence": filled(Evidence.unknown(*seed.shape)),
        "attribution": filled(Attribution.unknown(*seed.shape)),
    }
    names = {field.name for record in records.values() for field in attrs.fields(type(record))}
    assert known.keys() <= names, f"nobody knows {known.keys() - names}"
    return Standing(**records, host_parameters=HOST, progress=progress)


def epochs(standings: Sequence[Standing], panicked: Any = None, ops: Any = None) -> list[Transition]:
    """An episode of T epochs from its T + 1 standings; `panicked` and `ops` are `[T, N]`."""
    count, envs = len(standings) - 1, len(standings[0].slots.seed)
    panicked = np.zeros((count, envs), np.bool_) if panicked is None else np.asarray(panicked, np.bool_)
    ops = np.zeros((count, envs), np.int64) if ops is None else np.asarray(ops, np.int64)
    return [
        Transition(
            before=standings[t],
            after=standings[t + 1],
            decision=attrs.evolve(Decision.wait(envs), op=ops[t]),
            refused=np.zeros(envs, np.int64),
            panicked=panicked[t],
            final=t == count - 1,
        )
        for t in range(count)
    ]


def paid(
    terms: Sequence[Term], episode: Sequence[Transition], gamma: float = 1.0, penalty: float = 0.0
) -> list[reward.Payment]:
    """What an episode pays, epoch by epoch."""
    family = RewardFamily(name="test", terms=tuple(terms))
    reward.check(family)
    ledger = reward.open_ledger(family, *episode[0].before.slots.shape)
    payments = []
    for epoch, transition in enumerate(episode):
        payment, ledger = reward.pay(
            family,
            ledger,
            transition,
            envs=np.arange(len(transition.refused)),
            gamma=gamma,
            penalty=penalty,
            epoch=epoch,
        )
        payments.append(payment)
    return payments


def component(payments: Sequence[reward.Payment], name: str) -> np.ndarray:
    """`[T, ...]` amounts of a component."""
    return np.stack([payment.components[name] for payment in payments])


def totals(payments: Sequence[reward.Payment]) -> np.ndarray:
    """`[T, N]`."""
    return np.stack([payment.total for payment in payments])


def committed(at: Standing) -> np.ndarray:
    """`[N, S]`: fossils."""
    return at.slots.stage == Stage.FOSSILIZED


def potential(name: str = "score", **changes: Any) -> Potential:
    fields = {"units": "points", "low": -np.inf, "high": np.inf, "level": lambda at: at.signals.score}
    return Potential(name=name, **{**fields, **changes})


def account(name: str = "share", **changes: Any) -> Account:
    fields = {"units": "points", "low": 0.0, "high": 9.0, "vested": committed}
    return Account(name=name, **{**fields, "target": lambda at: at.evidence.shapley, **changes})


def flow(amount: Callable[[Standing], Any], name: str = "flow", **changes: Any) -> Flow:
    return Flow(name=name, **{"units": "points", "low": -9.0, "high": 9.0, "amount": amount, **changes})


def everything() -> list[Term]:
    """Terms of all kinds, with weights, by environment and by slot."""
    return [
        flow(lambda at: at.signals.loss, "loss", weight=-0.3),
        flow(lambda at: at.slots.parameters / HOST, "crowd", weight=0.7),
        Event(
            name="acted",
            units="actions",
            low=0.0,
            high=1.0,
            weight=-0.1,
            amount=lambda t: (t.decision.op != Op.WAIT) & (t.refused == 0),
        ),
        potential(weight=1.7),
        potential("best", level=lambda at: at.signals.best),
        account(weight=0.9),
        account("rank", target=lambda at: at.evidence.rank, vested=lambda at: at.slots.age > 3),
        Outcome(
            name="shipped",
            units="points",
            low=-9.0,
            high=9.0,
            weight=1.3,
            amount=lambda at: at.signals.committed,
        ),
    ]


def take_all(episode: Sequence[Transition], rows: Any) -> list[Transition]:
    """Some environments of an episode, in any order."""
    standings = [take(episode[0].before, rows), *(take(t.after, rows) for t in episode)]
    panicked = [t.panicked[rows] for t in episode]
    return epochs(standings, panicked, [t.decision.op[rows] for t in episode])


@attrs.frozen
class World:
    """An episode, and what its random standings were made of.

    Attributes:
        seed: `[T + 1, N, S]` numbers.
        fossil: `[T + 1, N, S]`.
        panicked: `[T, N]`.
        episode: its T epochs.
    """

    seed: np.ndarray
    fossil: np.ndarray
    panicked: np.ndarray
    episode: list[Transition]


@st.composite
def worlds(draw: st.DrawFn, *, shape: tuple[int, int] | None = None, calm: bool = False) -> World:
    """Random episodes of N environments and S slots, `shape`; hosts panic unless `calm`.

    Seeds are planted, replaced, pruned and committed. Measurements are unknown now and then, scores before
    the first epoch, too. What a panic leaves are some of the fossils, and signals that may be unknown. Losses
    and what would ship are always known.
    """
    envs, slots = shape or (draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    count = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    unknown = draw(st.sampled_from([0.0, 0.2, 0.8]))
    panicked = rng.random((count, envs)) < (0.0 if calm else draw(st.sampled_from([0.0, 0.3, 0.9])))
    seed, fossil = np.full((count + 1, envs, slots), -1), np.zeros((count + 1, envs, slots), np.bool_)
    born = np.zeros(envs, np.int64)
    for t, n, s in np.ndindex(count, envs, slots):
        number, kept, chance = seed[t, n, s], fossil[t, n, s], rng.random()
        if kept:
            number = -1 if panicked[t, n] and chance < 0.5 else number
        elif panicked[t, n]:
            number = -1
        elif chance < 0.45:
            number, born[n] = born[n], born[n] + 1
        elif chance < 0.55:
            number = -1
        elif chance < 0.65:
            kept = number >= 0
        seed[t + 1, n, s], fossil[t + 1, n, s] = number, kept and number >= 0

    def some(*shape: int) -> np.ndarray:
        return np.where(rng.random(shape) < unknown, np.nan, rng.uniform(0, 9, shape))

    standings = [
        standing(
            seed[t],
            stage=np.where(fossil[t], 5, np.where(seed[t] >= 0, 4, 0)),
            parameters=np.where(seed[t] >= 0, rng.integers(1, 99, (envs, slots)), 0),
            age=np.where(seed[t] >= 0, rng.integers(0, 6, (envs, slots)), 0),
            score=some(envs) if t else np.nan,
            best=some(envs) - 4 if t else np.nan,
            loss=rng.uniform(0, 9, envs),
            committed=rng.uniform(-9, 9, envs),
            shapley=some(envs, slots),
            rank=some(envs, slots),
            progress=0.7,
        )
        for t in range(count + 1)
    ]
    ops = rng.integers(0, len(Op), (count, envs))
    return World(seed, fossil, panicked, epochs(standings, panicked, ops))
