"""Episodes whose measurements are scripted: the real loop, with a device that trains nothing.

`play` takes a reward, a score as a function of the epoch and of the influences, and what each environment
does; everything between them (gates, lifecycle, fused validation, governor, ledgers) is what a run has. So
a sequence of decisions can be priced in milliseconds: what does it earn to germinate and prune, to hold, to
commit, to ask for what is refused?

Role: public, for tests of rewards and policies.
Neighbours: `phases.collect` plays, `testing.rewards` checks terms on random records instead.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from esper_core.model.hosts import Site
from esper_core.model.parts import Part
from esper_core.model.problem import Problem, Split
from esper_core.model.program import Program
from esper_core.phases import collect
from esper_core.phases.collect import Cast, Episode, EpochReport
from esper_core.phases.reward import Rewards, check
from esper_core.plugin.protocols import Choice, Rule, View
from esper_core.plugin.rewards import RewardFamily, Term
from esper_core.rules.lifecycle import Edits
from esper_core.state.actions import HEADS, ActionSpace, Blend, Curve, Decision, Op
from esper_core.state.arrays import Bools, Floats, Ints
from esper_core.state.plans import EvalCounts, EvalPlan, GradientStatistics, TrainCounts, TrainPlan
from esper_core.state.settings import GovernorSettings, GrowthSettings, TrainSettings
from esper_core.state.slots import SlotTable

Measure = Callable[[Ints, int, Floats], Any]
"""`(envs [N], epoch, influence [N, K, S]) -> [N, K]`, or what broadcasts to it: mean per sample, after an
epoch, of networks whose seeds have these influences."""
Move = tuple[int, Op, int]
"""Epoch, operation, slot."""

HOST_PARAMETERS = 100
SEED_PARAMETERS = 10
SAMPLES = 100
OPEN = GrowthSettings(
    training_dwell=0.0, min_health=0.0, min_contribution=-1e9, contact_bound=1e9, embargo=0.0, max_live=99
)
"""Growth under which a seed can be advanced and committed as soon as it is there."""


@frozen(eq=False)
class _Tensors:
    """All that there is of N networks.

    Attributes:
        envs: `[N]` their numbers.
        epoch: that they were trained for last; -1 at birth.
    """

    envs: Ints
    epoch: int


class ScriptedDevice:
    """A device strategy that returns scripted measurements; gradients are always healthy.

    A restored environment is as old as the others: what it scores is the script's business.
    """

    fingerprint: Mapping[str, Any] = {"device": "scripted"}

    def __init__(self, score: Measure, loss: Measure | None = None, deviation: float = 0.0) -> None:
        """Follow a script.

        Args:
            score: mean score.
            loss: mean loss; absent means 1 - score.
            deviation: standard deviation of a sample's score that is reported, independent between
                configurations, so that the standard error of a score is deviation / sqrt(99). It adds no
                noise: whoever wants some adds it to `score`.
        """
        self._score = score
        self._loss = loss
        self._deviation = deviation

    def start(self, envs: Ints, round_index: int) -> _Tensors:
        """Networks of the environments; every `round_index` begins alike."""
        return _Tensors(envs, -1)

    def edit(self, tensors: _Tensors, edits: Edits) -> tuple[_Tensors, Bools]:
        """Every seed can be built."""
        return tensors, edits.germinate

    def train(self, tensors: _Tensors, plan: TrainPlan) -> tuple[_Tensors, TrainCounts]:
        """An epoch passes."""
        trained = _Tensors(tensors.envs, plan.epoch)
        loss = self._losses(trained, plan.influence[:, None, :])[:, 0]
        counts = TrainCounts(
            loss_sum=loss * SAMPLES,
            score_sum=self._scores(trained, plan.influence[:, None, :])[:, 0] * SAMPLES,
            samples=SAMPLES,
            bad_losses=np.zeros(len(loss), np.int64),
            host=_healthy(np.ones(len(loss), np.bool_)),
            seeds=_healthy(plan.training),
            wait_ms=0.0,
            device_ms=0.0,
        )
        return trained, counts

    def evaluate(self, tensors: _Tensors, plan: EvalPlan) -> EvalCounts:
        """What the script says of every configuration."""
        score = self._scores(tensors, plan.influence)
        products = score[:, :, None] * score[:, None, :]
        products = products + self._deviation**2 * np.eye(score.shape[1])
        unknown = np.full(plan.influence.shape[::2], np.nan)
        return EvalCounts(
            samples=SAMPLES,
            loss_sum=self._losses(tensors, plan.influence) * SAMPLES,
            score_sum=score * SAMPLES,
            co_score=products * SAMPLES,
            rank=unknown,
            orthogonality=unknown,
            device_ms=0.0,
        )

    def snapshot(self, tensors: _Tensors, last: Any, envs: Bools) -> None:
        """Nothing has to be kept."""

    def restore(self, tensors: _Tensors, snapshot: None, envs: Bools) -> _Tensors:
        """Nothing has changed."""
        return tensors

    def export(self, tensors: _Tensors) -> Mapping[str, Tensor]:
        """There are no tensors."""
        return {}

    def adopt(self, arrays: Mapping[str, Tensor], slots: SlotTable, envs: Ints, round_index: int) -> _Tensors:
        """Networks of the environments, at birth."""
        return _Tensors(envs, -1)

    def close(self) -> None:
        """Nothing is held."""

    def _scores(self, tensors: _Tensors, influence: Floats) -> Floats:
        return _filled(self._score(tensors.envs, tensors.epoch, influence), influence)

    def _losses(self, tensors: _Tensors, influence: Floats) -> Floats:
        if self._loss is None:
            return 1.0 - self._scores(tensors, influence)
        return _filled(self._loss(tensors.envs, tensors.epoch, influence), influence)


def _filled(values: Any, influence: Floats) -> Floats:
    """`[N, K]`."""
    return np.broadcast_to(np.asarray(values, np.float64), influence.shape[:2])


def _healthy(trained: Bools) -> GradientStatistics:
    """One sampled step with a gradient of norm 1 for every group that was trained."""
    once, nothing = trained.astype(np.int64), np.zeros(trained.shape)
    return GradientStatistics(
        steps=once,
        square=once.astype(np.float64),
        largest=once.astype(np.float64),
        smallest=np.where(trained, 1.0, np.inf),
        nonfinite=np.zeros_like(once),
        vanished=nothing,
        exploded=nothing,
        culprit=np.full(trained.shape, -1),
    )


class _Story(Rule):
    """A policy that does what it is told, possible or not, and waits otherwise."""

    def __init__(self, moves: Sequence[Sequence[Move]]) -> None:
        """One sequence of moves per environment."""
        self._moves = [{epoch: (op, slot) for epoch, op, slot in story} for story in moves]

    def decide(self, view: View, memory: Any, uniforms: Floats) -> Choice:
        """Look the epoch up."""
        heads = {head: np.zeros(len(uniforms), np.int64) for head in HEADS}
        for env, story in enumerate(self._moves):
            heads["op"][env], heads["slot"][env] = story.get(view.epoch, (Op.WAIT, 0))
        return Choice(decision=Decision(**heads))


def program(slots: int, epochs: int, growth: GrowthSettings = OPEN) -> Program:
    """A program that has nothing to execute.

    Args:
        slots: S; there is one blueprint, of 10 parameters, for a host of 100.
        epochs: T.
        growth: what may grow; the first of its targets and of its speeds are the ones that moves use.
    """
    nothing = Split(torch.zeros(1), torch.zeros(1))
    blueprint = Part(name="scripted/seed", build="", call=Term)
    return Program(
        problem=Problem(
            fit=nothing,
            validation=nothing,
            report=nothing,
            host=Part(name="scripted/host", build="", call=Term),
            loss=torch.sub,
            score=torch.sub,
        ),
        sites=tuple(Site(name=f"slot{s}", after=s, kind="vector", width=1) for s in range(slots)),
        space=ActionSpace(
            slots=tuple(f"slot{s}" for s in range(slots)),
            blueprints=(blueprint.name,),
            blends=(Blend.ADD,),
            curves=(Curve.LINEAR,),
            targets=np.asarray(growth.targets[::-1]),
            speeds=np.asarray(growth.speeds),
            enabled=np.ones(slots, np.bool_),
            cost=np.full((slots, 1, 1), SEED_PARAMETERS),
        ),
        blueprints=(blueprint,),
        train=TrainSettings(epochs=epochs, batch_size=1, train_batches=1),
        growth=growth,
        root=0,
    )


@frozen(kw_only=True, eq=False)
class Played:
    """An episode that is over.

    Attributes:
        episode: its last state, with the rollout.
        reports: what happened, epoch by epoch.
    """

    episode: Episode
    reports: tuple[EpochReport, ...]

    @property
    def paid(self) -> Floats:
        """`[T, N]` rewards."""
        return self.episode.rollout.reward

    def component(self, name: str) -> Floats:
        """`[T, N]` or `[T, N, S]` amounts of a component."""
        return np.stack([report.payment.components[name] for report in self.reports])


def play(
    reward: Rewards | RewardFamily,
    score: Measure,
    stories: Sequence[Sequence[Move]],
    *,
    slots: int = 1,
    epochs: int = 8,
    gamma: float = 1.0,
    growth: GrowthSettings = OPEN,
    governor: GovernorSettings | None = None,
    loss: Measure | None = None,
    deviation: float = 0.0,
    progress: float = 1.0,
) -> Played:
    """Play one episode of some environments side by side, each with a story of its own.

    Args:
        reward: what is paid.
        score: mean score of any network in any epoch.
        stories: what each environment does; an operation that is refused is refused as in a run.
        slots: S.
        epochs: T.
        gamma: discount per epoch.
        growth: what may grow; without limits unless told otherwise.
        governor: absent means its defaults.
        loss: mean loss; absent means 1 - score. A NaN is a panic.
        deviation: as for `ScriptedDevice`.
        progress: share of the run's rounds that are done.
    """
    if isinstance(reward, RewardFamily):
        check(reward)
        reward = Rewards.of(reward)
    cast = Cast(
        program=program(slots, epochs, growth),
        device=ScriptedDevice(score, loss, deviation),
        policy=_Story(stories),
        reward=reward,
        governor=governor or GovernorSettings(),
        gamma=gamma,
        rounds=1000,
        host_parameters=HOST_PARAMETERS,
    )
    episode = collect.begin(cast, np.arange(len(stories)), round(1000 * progress))
    reports = []
    for _ in range(epochs):
        episode, report = collect.advance(cast, episode)
        reports.append(report)
    return Played(episode=episode, reports=tuple(reports))
