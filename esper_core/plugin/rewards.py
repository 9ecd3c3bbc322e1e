"""What a reward is: named terms of five kinds, and what they are paid for.

A term supplies amounts; `phases.reward` pays them, keeps the ledgers, and checks finiteness and bounds, so
that no reward can pay twice for one thing or forget to take back what did not last. A family is data: a table
of terms, each a plugin's, with weights and settings.

Role: records that the builders of terms return, and what their functions read. Importing this module does
not import torch.
Neighbours: `plugin.specs` describes terms and families, `phases.reward` is the kernel.
"""

from collections.abc import Callable, Iterable

import attrs
import numpy as np

from esper_core.state.actions import Decision
from esper_core.state.arrays import Bools, Floats, Ints
from esper_core.state.attribution import Attribution
from esper_core.state.evidence import Evidence
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable

MEASUREMENTS = frozenset(a.name for kind in (HostSignals, Evidence, Attribution) for a in attrs.fields(kind))
"""Everything that is measured and that a term may declare that it needs: fields of `HostSignals`, `Evidence`
and `Attribution`. Slots and decisions are not measured; they are known."""


@attrs.frozen(kw_only=True, eq=False)
class Standing:
    """Where N environments stand between two epochs.

    Attributes:
        slots: where every seed stands.
        signals: of the hosts; unknown before the first epoch.
        evidence: about the seeds.
        attribution: of the last validation.
        host_parameters: of one host.
        progress: share of the run's rounds that are done, in [0, 1].
        noted: `[N, ...]` what the term that is asked has in its `Memory`; of no size if it has none.
    """

    slots: SlotTable
    signals: HostSignals
    evidence: Evidence
    attribution: Attribution
    host_parameters: int
    progress: float
    noted: Floats = attrs.field(factory=lambda: np.zeros(0))


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

    @property
    def done(self) -> Ints:
        """`[N]` of `Op`: what was carried out; WAIT where a decision was refused."""
        return np.where(self.refused == 0, self.decision.op, 0)


def _frozen(names: Iterable[str]) -> frozenset[str]:
    if isinstance(names, str):
        raise TypeError(f"'needs' must be a set of names, not the text {names!r}")
    return frozenset(names)


@attrs.frozen(kw_only=True, eq=False)
class Memory:
    """What a term remembers from epoch to epoch; the kernel keeps it, and forgets it where a segment ends.

    Attributes:
        blank: `(N, S) -> [N, ...]`, when a segment begins.
        follow: `(noted [N, ...], transition) -> [N, ...]`, once an epoch, before the term is asked.
    """

    blank: Callable[[int, int], Floats]
    follow: Callable[[Floats, Transition], Floats]


@attrs.frozen(kw_only=True)
class Term:
    """What terms of every kind have.

    Attributes:
        name: unique in its family, which gives it.
        weight: factor on the amount, of the family, too.
        units: of the amount before weighting.
        low: least value that it may supply, before weighting: of an amount, a level or a target.
        high: greatest.
        needs: what it reads of `MEASUREMENTS`; without them it must do as if they were unknown.
        memory: what it remembers; None if nothing.
    """

    name: str = ""
    weight: float = 1.0
    units: str
    low: float
    high: float
    needs: frozenset[str] = attrs.field(default=frozenset(), converter=_frozen)
    memory: Memory | None = None


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
        level: `[N]` or `[N, S]`.
    """

    level: Callable[[Standing], Floats]


@attrs.frozen(kw_only=True)
class Account(Term):
    """Paid as the change of a balance that the kernel owns.

    What is not vested is paid back on every way out (prune, rollback, end), with interest, so that its
    payments, discounted, add up to 0. A seed that is being withdrawn earns nothing more.

    Attributes:
        target: `[N, S]`, at least 0: the balance that the seed deserves; unknown (NaN) leaves it as it is.
        vested: `[N, S]`: the seed keeps its balance when the segment ends or it is pruned, from now on.
        step: largest rise of a balance in an epoch (units of the target); it falls at once.
    """

    target: Callable[[Standing], Floats]
    vested: Callable[[Standing], Bools]
    step: float = np.inf


@attrs.frozen(kw_only=True)
class Outcome(Term):
    """Paid once, when the episode ends.

    Attributes:
        amount: `[N]` or `[N, S]`.
    """

    amount: Callable[[Standing], Floats]


@attrs.frozen(kw_only=True)
class RewardFamily:
    """A reward: a sum of terms.

    Attributes:
        name: for messages: "esper/contribution, mode escrow".
        terms: each a `Flow`, `Event`, `Potential`, `Account` or `Outcome`.
    """

    name: str
    terms: tuple[Term, ...]
