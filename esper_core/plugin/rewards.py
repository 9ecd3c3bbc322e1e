"""What a reward family is: named terms of five kinds, and what they are paid for.

A family supplies amounts; `phases.reward` pays them, keeps the ledgers, and checks finiteness and bounds, so
that no family can pay twice for one thing or forget to take back what did not last.

Role: records and the interface of reward plugins. Importing this module does not import torch.
Neighbours: `plugin.protocols` has the other interfaces, `phases.reward` is the kernel.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from esper_core.state.actions import Decision
from esper_core.state.arrays import Bools, Floats, Ints
from esper_core.state.evidence import Evidence
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable


@attrs.frozen(kw_only=True, eq=False)
class Standing:
    """Where N environments stand between two epochs.

    Attributes:
        slots: where every seed stands.
        signals: of the hosts; unknown before the first epoch.
        evidence: about the seeds.
        host_parameters: of one host.
        progress: share of the run's rounds that are done, in [0, 1].
    """

    slots: SlotTable
    signals: HostSignals
    evidence: Evidence
    host_parameters: int
    progress: float


@attrs.frozen(kw_only=True, eq=False)
class Transition:
    """One epoch of N environments: before, decision, after.

    Attributes:
        before: when the decision was made.
        after: when its consequences were measured; after a rollback, what was rolled back to.
        decision: what was asked for.
        refused: `[N]` of `Refusal`.
        panicked: `[N]` the governor rolled the environment back.
        final: the epoch is the episode's last.
    """

    before: Standing
    after: Standing
    decision: Decision
    refused: Ints
    panicked: Bools
    final: bool

    @property
    def terminal(self) -> Bools:
        """`[N]`: a segment ends here, with the episode or with a panic."""
        ends: Bools = self.panicked | self.final
        return ends


@attrs.frozen(kw_only=True)
class Term:
    """What terms of every kind have.

    Attributes:
        name: unique in its family.
        units: of the amount before weighting.
        low: least value that it may supply, before weighting: of an amount, a level or a target.
        high: greatest.
        weight: factor on the amount.
    """

    name: str
    units: str
    low: float
    high: float
    weight: float = 1.0


@attrs.frozen(kw_only=True)
class Flow(Term):
    """Paid every epoch for where it leads.

    Attributes:
        amount: `[N]` or `[N, S]`.
    """

    amount: Callable[[Standing], Floats]


@attrs.frozen(kw_only=True)
class Event(Term):
    """Paid for what happened.

    Attributes:
        amount: `[N]` or `[N, S]`.
    """

    amount: Callable[[Transition], Floats]


@attrs.frozen(kw_only=True)
class Potential(Term):
    """Paid as gamma * level' * [not terminal] - level, so that it telescopes (Ng, Harada, Russell 1999).

    A level that is not known yet (NaN before the first measurement) starts at its first known value.

    Attributes:
        level: `[N]`.
    """

    level: Callable[[Standing], Floats]


@attrs.frozen(kw_only=True)
class Account(Term):
    """Paid as the change of a balance that the kernel owns.

    While a seed is not vested, every way out (prune, rollback, end) takes its balance back.

    Attributes:
        target: `[N, S]`, at least 0: the balance that the seed deserves; unknown (NaN) leaves it as it is.
        vested: `[N, S]`: the seed keeps what it was paid.
    """

    target: Callable[[Standing], Floats]
    vested: Callable[[Standing], Bools]


@attrs.frozen(kw_only=True)
class Outcome(Term):
    """Paid once, when the episode ends.

    Attributes:
        amount: `[N]` or `[N, S]`.
    """

    amount: Callable[[Standing], Floats]


class RewardFamily(Protocol):
    """A reward: a sum of terms."""

    @property
    def terms(self) -> Sequence[Term]:
        """Its terms, each a `Flow`, `Event`, `Potential`, `Account` or `Outcome`."""
        ...
