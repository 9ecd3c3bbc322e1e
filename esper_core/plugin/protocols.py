"""What the built things must be: the interfaces that plugins implement.

Role: structural types; a plugin inherits from nothing. Importing this module does not import torch.
Neighbours: `plugin.specs` describes how the things are found, `esper_core.testing` checks that they behave.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from numpy.typing import NDArray

from esper_core.state.actions import ActionSpace, Decision, Masks
from esper_core.state.arrays import Bools, Floats, Ints
from esper_core.state.evidence import Evidence
from esper_core.state.plans import EvalCounts, EvalPlan, TrainCounts, TrainPlan
from esper_core.state.rollout import Rollout
from esper_core.state.settings import LearnSettings
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
        begins: `[N]` a segment begins: the episode does, or the governor rolled the environment back, and
            what happened before is over.
        slots: where every seed stands.
        evidence: what was measured about it.
        signals: what was measured about the hosts.
        masks: which choices will succeed.
    """

    epoch: int
    epochs: int
    begins: Bools
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
        trace: `[N, ...]` arrays by name, kept in the rollout for `learn`.
    """

    decision: Decision
    memory: Any = None
    trace: Mapping[str, NDArray[Any]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True, eq=False)
class Learned:
    """What a policy has learned.

    Attributes:
        values: JSON values.
        tensors: by name.
    """

    values: Mapping[str, Any] = attrs.field(factory=dict)
    tensors: "Mapping[str, Tensor]" = attrs.field(factory=dict)


class Policy(Protocol):
    """A controller over N environments."""

    @property
    def needs(self) -> frozenset[str]:
        """Measurements at sites that it reads, of `MEASURES`; they cost a pass over some samples."""
        ...

    def start(self, envs: Ints, round_index: int) -> Any:
        """Memory at the start of an episode.

        Args:
            envs: `[N]` numbers of the environments.
            round_index: number of the round, from 0.
        """
        ...

    def decide(self, view: View, memory: Any, uniforms: Floats) -> Choice:
        """Choose an action for every environment.

        Args:
            view: what can be seen.
            memory: of the previous epoch, or of `start`.
            uniforms: `[N, 7]` in [0, 1), the only source of randomness.
        """
        ...

    def learn(self, rollout: Rollout, round_index: int, rounds: int) -> Mapping[str, float]:
        """Learn from an episode, after its last epoch.

        Args:
            rollout: what was seen, done and paid.
            round_index: number of the round, from 0.
            rounds: of the run, for schedules.

        Returns:
            What can be told about it, by name; empty if it does not learn.
        """
        ...

    def state(self) -> Learned:
        """What it has learned. Every checkpoint has it."""
        ...

    def restore(self, state: Learned) -> None:
        """Go on from a checkpoint; called before the first episode.

        Args:
            state: what `state` gave.
        """
        ...


class Rule:
    """The part of a `Policy` that does not learn and remembers nothing; `decide` is left to write."""

    needs: frozenset[str] = frozenset()
    """No measurements at sites."""

    def start(self, envs: Ints, round_index: int) -> Any:
        """No memory, whatever `envs` and `round_index` are."""
        return None

    def learn(self, rollout: Rollout, round_index: int, rounds: int) -> Mapping[str, float]:
        """Nothing is learned from a `rollout`, in no `round_index` of `rounds`."""
        return {}

    def state(self) -> Learned:
        """Nothing."""
        return Learned()

    def restore(self, state: Learned) -> None:
        """There is nothing to go on with."""


@attrs.frozen(kw_only=True, eq=False)
class PolicyContext:
    """What a policy is built from.

    Attributes:
        space: what the heads of an action index.
        epochs: length of the episode.
        learn: how a policy that learns does so.
        root: the run's seed, for what is drawn from keys.
        host_parameters: of one host.
        oracle: `(envs [N], round) -> [N]` index of the slot where help is needed most; None where the task
            does not know it.
        groups: how many reward modes pay the environments; the returns of each have a size of their own.
    """

    space: ActionSpace
    epochs: int
    learn: LearnSettings
    root: int
    host_parameters: int
    oracle: Callable[[Ints, int], Ints] | None = None
    groups: int = 1


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

    def snapshot(self, tensors: Any, last: Any, envs: Bools) -> Any:
        """Copies of everything in some environments' rows; of the others, what the last snapshot has.

        Args:
            tensors: as they are; unchanged.
            last: the snapshot before, or None, where `envs` must be true everywhere; it is consumed.
            envs: `[N]` environments to copy.
        """
        ...

    def restore(self, tensors: Any, snapshot: Any, envs: Bools) -> Any:
        """Put some environments back: hosts, and the seeds that are still planted, as the snapshot has them.

        Args:
            tensors: consumed; the seeds that are not to come back have been removed by `edit`.
            snapshot: unchanged.
            envs: `[N]` environments to restore; the others stay bit for bit.

        Returns:
            The next tensors.
        """
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
