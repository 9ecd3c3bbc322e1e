"""What the built things must be: the interfaces that plugins implement.

Role: structural types; a plugin inherits from nothing. Importing this module does not import torch.
Neighbours: `plugin.specs` describes how the things are found, `esper_core.testing` checks that they behave.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from esper_core.state.actions import ActionSpace, Decision, Masks
from esper_core.state.arrays import Bools, Floats, Ints
from esper_core.state.evidence import Evidence
from esper_core.state.plans import EvalCounts, EvalPlan, TrainCounts, TrainPlan
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable

if TYPE_CHECKING:
    from torch import Tensor

    from esper_core.rules.lifecycle import Edits


@attrs.frozen(kw_only=True, eq=False)
class View:
    """What a policy sees before an epoch.

    Attributes:
        epoch: that is about to begin, from 0.
        epochs: length of the episode.
        slots: where every seed stands.
        evidence: what was measured about it.
        signals: what was measured about the hosts.
        masks: which choices will succeed.
    """

    epoch: int
    epochs: int
    slots: SlotTable
    evidence: Evidence
    signals: HostSignals
    masks: Masks


@attrs.frozen(kw_only=True, eq=False)
class Choice:
    """What a policy answers.

    Attributes:
        decision: one action per environment.
        memory: handed back at the next epoch; whatever the policy needs.
    """

    decision: Decision
    memory: Any = None


class Policy(Protocol):
    """A controller over N environments."""

    def start(self, envs: int) -> Any:
        """Memory at the start of an episode of `envs` environments."""
        ...

    def decide(self, view: View, memory: Any, uniforms: Floats) -> Choice:
        """Choose an action for every environment.

        Args:
            view: what can be seen.
            memory: of the previous epoch, or of `start`.
            uniforms: `[N, 7]` in [0, 1), the only source of randomness.
        """
        ...

    def state(self) -> Mapping[str, Any]:
        """What it has learned, as JSON values; empty if it does not learn. Every checkpoint has it."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; called before the first episode.

        Args:
            state: what `state` gave.
        """
        ...


@attrs.frozen(kw_only=True, eq=False)
class PolicyContext:
    """What a policy is built from.

    Attributes:
        space: what the heads of an action index.
        epochs: length of the episode.
    """

    space: ActionSpace
    epochs: int


@attrs.frozen(kw_only=True, eq=False)
class Transition:
    """One epoch of N environments, as a reward family sees it: before, decision, after.

    Attributes:
        epoch: that was played, from 0.
        epochs: length of the episode; the last epoch is terminal.
        before: slots when the decision was made.
        after: slots when its consequences were measured.
        signals_before: signals when the decision was made; unknown in the first epoch.
        signals: signals after the epoch.
        evidence: measurements after the epoch.
        decision: what was asked for.
        refused: `[N]` of `Refusal`.
        host_parameters: of one host.
    """

    epoch: int
    epochs: int
    before: SlotTable
    after: SlotTable
    signals_before: HostSignals
    signals: HostSignals
    evidence: Evidence
    decision: Decision
    refused: Ints
    host_parameters: int

    @property
    def terminal(self) -> bool:
        """The episode ends with this epoch."""
        return self.epoch == self.epochs - 1


class RewardFamily(Protocol):
    """A reward: a named sum of components."""

    def components(self, transition: Transition) -> Mapping[str, Floats]:
        """`[N]` per component; the reward is their sum."""
        ...


class Device(Protocol):
    """A device strategy: executes a program for N environments.

    A call consumes the tensor record that it is given and returns the next one; nothing else may hold the
    old one. What the record is made of is the strategy's own business.
    """

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What has to be equal for results to be equal bit for bit."""
        ...

    def start(self, envs: Ints, round_index: int) -> Any:
        """Tensors of newborn hosts.

        Args:
            envs: `[N]` numbers of the environments; they key the initialisation.
            round_index: number of the round, from 0.
        """
        ...

    def edit(self, tensors: Any, edits: "Edits") -> tuple[Any, Bools]:
        """Carry out changes of structure, all or none.

        Returns:
            The next tensors, and `[N, S]`: the new seed was built, finite and shape-preserving (G1).
        """
        ...

    def train(self, tensors: Any, plan: TrainPlan) -> tuple[Any, TrainCounts]:
        """Train every host and its seeds for one epoch; consumes `tensors` and returns the next."""
        ...

    def evaluate(self, tensors: Any, plan: EvalPlan) -> EvalCounts:
        """Evaluate every configuration; changes nothing in `tensors`, not even batch statistics."""
        ...

    def export(self, tensors: Any) -> "Mapping[str, Tensor]":
        """Everything in the tensors, in a layout that every strategy shares, on the CPU."""
        ...

    def adopt(self, arrays: "Mapping[str, Tensor]", slots: SlotTable, envs: Ints, round_index: int) -> Any:
        """The reverse of `export`.

        Args:
            arrays: what `export` gave.
            slots: the table that belongs to them; it says whose the rows of seeds are.
            envs: `[N]` numbers of the environments.
            round_index: number of the round, from 0.
        """
        ...

    def close(self) -> None:
        """Give back what the strategy holds."""
        ...


class Sink(Protocol):
    """A receiver of events. Training never reads a sink."""

    def write(self, event: Mapping[str, Any]) -> None:
        """Take one event: JSON values only."""
        ...

    def position(self) -> int:
        """How far it has written, in a unit of its own; every checkpoint has it. 0 if it cannot go back."""
        ...

    def close(self) -> None:
        """Flush; nothing is lost."""
        ...


@attrs.frozen(kw_only=True)
class SinkContext:
    """What a sink is built from.

    Attributes:
        folder: of the run.
        resume_at: what `position` was at the checkpoint that the run goes on from, so that what was written
            after it can be dropped; None where there is none.
    """

    folder: Path
    resume_at: int | None = None
