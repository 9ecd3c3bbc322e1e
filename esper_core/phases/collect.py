"""Collect: one epoch of N growing networks, in one order for every policy.

    decide -> act (apply, tick, edit, settle) -> train -> evaluate -> attribute -> observe -> govern -> reward

Role: the only place where the control plane and a device strategy meet. There is no second training loop:
learned, scripted, random and static policies, and every arm of a comparison, run through `advance`.
Neighbours: `rules` for what may happen, `phases.validate` and `phases.reward` for the two other phases,
`runner.loop` around it.
"""

import time
from typing import Any

import attrs
import numpy as np

from esper_core.errors import RunError
from esper_core.model.program import Program
from esper_core.phases import reward, validate
from esper_core.plugin.protocols import Choice, Device, Policy, View
from esper_core.plugin.rewards import Standing, Transition
from esper_core.rules import actions, governor, lifecycle, observation, ramps, schedules
from esper_core.rules.gates import GrowthRules
from esper_core.rules.randomness import Purpose, permutations, uniforms
from esper_core.state.actions import HEADS, Decision
from esper_core.state.arrays import Bools, Floats, Ints, rows
from esper_core.state.attribution import Attribution
from esper_core.state.evidence import Evidence
from esper_core.state.governor import Verdict, Vitals
from esper_core.state.plans import MEASURES, EvalCounts, TrainCounts, TrainPlan
from esper_core.state.rollout import Rollout
from esper_core.state.settings import GovernorSettings
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable, Stage


@attrs.frozen(kw_only=True, eq=False)
class Cast:
    """Who takes part: the program and the plugins that carry it out.

    Attributes:
        program: what is executed.
        device: trains and evaluates.
        policy: decides.
        reward: by what every environment is paid.
        governor: when an environment is rolled back, and what that costs.
        gamma: discount per epoch, of returns and potentials.
        rounds: of the run; what is ramped in over it needs to know.
        host_parameters: of one host.
    """

    program: Program
    device: Device
    policy: Policy
    reward: reward.Rewards
    governor: GovernorSettings
    gamma: float
    rounds: int
    host_parameters: int

    @property
    def rules(self) -> GrowthRules:
        """Growth settings at the episode's length."""
        return GrowthRules(self.program.growth, self.program.train.epochs)


@attrs.frozen(kw_only=True, eq=False)
class Blessed:
    """What every environment would be rolled back to: its last healthy epoch.

    Attributes:
        epoch: `[N]` that was healthy; -1 for the hosts at birth.
        slots: after it.
        signals: after it.
        bare: `[N]` score without seeds after it; NaN for the hosts at birth.
        tensors: the device strategy's snapshot.
    """

    epoch: Ints
    slots: SlotTable
    signals: HostSignals
    bare: Floats
    tensors: Any


@attrs.frozen(kw_only=True, eq=False)
class Episode:
    """N environments between two epochs.

    Attributes:
        round_index: number of the round, from 0.
        epoch: that comes next, from 0.
        envs: `[N]` numbers of the environments.
        begins: `[N]` a segment begins with the next epoch.
        slots: where every seed stands.
        evidence: what was measured about it.
        attribution: of the last validation.
        signals: what was measured about the hosts.
        vitals: what the governor remembers.
        blessed: what a rollback would bring back.
        tensors: the device strategy's record.
        memory: the policy's.
        ledgers: what the reward has to remember, mode by mode.
        rollout: what happened so far.
    """

    round_index: int
    epoch: int
    envs: Ints
    begins: Bools
    slots: SlotTable
    evidence: Evidence
    attribution: Attribution
    signals: HostSignals
    vitals: Vitals
    blessed: Blessed
    tensors: Any
    memory: Any
    ledgers: tuple[reward.Ledger, ...]
    rollout: Rollout


@attrs.frozen(kw_only=True, eq=False)
class EpochReport:
    """Everything that happened in an epoch, for events and displays; training never reads it.

    Attributes:
        before: slots when the decision was made.
        tried: slots after the decision and the tick, before new seeds were built.
        after: slots during the epoch.
        decision: what was asked for.
        refused: `[N]` of `Refusal`.
        built: `[N, S]` new seeds that passed G1.
        attribution: of the validation.
        counts: of the training.
        verdict: `[N]` of `Verdict`.
        restored: `[N]` epoch whose end a rolled back environment returned to; -1 for its birth, and -2 for
            one that was not rolled back.
        payment: the reward and its components.
        wait_ms: waiting for data.
        device_ms: training and evaluation.
        host_ms: everything else.
    """

    before: SlotTable
    tried: SlotTable
    after: SlotTable
    decision: Decision
    refused: Ints
    built: Bools
    attribution: Attribution
    counts: TrainCounts
    verdict: Ints
    restored: Ints
    payment: reward.Payment
    wait_ms: float
    device_ms: float
    host_ms: float


NEVER = -2
"""Epoch that an environment was restored to if it was not."""


def begin(cast: Cast, envs: Ints, round_index: int, planted: SlotTable | None = None) -> Episode:
    """Newborn hosts.

    Args:
        cast: who takes part.
        envs: `[N]` numbers of the environments; they key everything random.
        round_index: number of the round, from 0.
        planted: seeds that are there from the start; absent means none.
    """
    count = len(cast.program.sites)
    slots = SlotTable.empty(len(envs), count)
    tensors = cast.device.start(envs, round_index)
    if planted is not None:
        edits = lifecycle.edits(slots, planted)
        tensors, built = cast.device.edit(tensors, edits)
        _expect_built(cast.program, edits.germinate & ~built)
        slots = planted
    signals = HostSignals.unknown(len(envs))
    everyone = np.ones(len(envs), np.bool_)
    saved = cast.device.snapshot(tensors, None, everyone)
    return Episode(
        round_index=round_index,
        epoch=0,
        envs=envs,
        begins=everyone,
        slots=slots,
        evidence=Evidence.unknown(len(envs), count),
        attribution=Attribution.unknown(len(envs), count),
        signals=signals,
        vitals=Vitals.unknown(len(envs), cast.governor.window),
        blessed=Blessed(
            epoch=np.full(len(envs), -1),
            slots=slots,
            signals=signals,
            bare=np.full(len(envs), np.nan),
            tensors=saved,
        ),
        tensors=tensors,
        memory=cast.policy.start(envs, round_index),
        ledgers=reward.open_ledgers(cast.reward, envs, count),
        rollout=Rollout.empty(cast.program.train.epochs, len(envs), cast.reward.group(envs)),
    )


def advance(cast: Cast, episode: Episode) -> tuple[Episode, EpochReport]:
    """Play one epoch; the old episode must not be used again."""
    started = time.perf_counter()
    program, rules = cast.program, cast.rules
    choice = _decide(cast, episode)
    decision = choice.decision
    acted, refused = lifecycle.apply(episode.slots, episode.evidence, decision, program.space, rules)
    tried = lifecycle.tick(acted, rules)
    tensors, built = cast.device.edit(episode.tensors, lifecycle.edits(episode.slots, tried))
    slots = lifecycle.settle(tried, built)
    tensors, counts = cast.device.train(tensors, train_plan(program, episode, slots))
    attribution, evaluated = _evaluate(cast, episode, slots, tensors)
    evidence = observation.evidence(
        episode.evidence, slots, attribution, evaluated, counts, cast.host_parameters, program.growth
    )
    signals = observation.signals(episode.signals, attribution, counts)
    measured = attrs.evolve(
        episode,
        epoch=episode.epoch + 1,
        begins=np.zeros(len(episode.envs), np.bool_),
        slots=lifecycle.age(slots),
        evidence=evidence,
        attribution=attribution,
        signals=signals,
        tensors=tensors,
        memory=choice.memory,
    )
    following, verdict = _govern(cast, measured)
    transition = Transition(
        before=_standing(cast, episode),
        after=_standing(cast, following),
        decision=decision,
        refused=refused,
        panicked=verdict != Verdict.NONE,
        final=following.epoch == program.train.epochs,
    )
    payment, ledgers = reward.pay_all(
        cast.reward,
        episode.ledgers,
        transition,
        envs=episode.envs,
        epoch=episode.epoch,
        gamma=cast.gamma,
        penalty=cast.governor.penalty,
    )
    episode.rollout.record(
        episode.epoch, decision, choice.trace, refused, payment.total, following.signals, verdict
    )
    device_ms = counts.device_ms + evaluated.device_ms
    elapsed_ms = (time.perf_counter() - started) * 1e3
    report = EpochReport(
        before=episode.slots,
        tried=tried,
        after=slots,
        decision=decision,
        refused=refused,
        built=built,
        attribution=attribution,
        counts=counts,
        verdict=verdict,
        restored=np.where(verdict != Verdict.NONE, episode.blessed.epoch, NEVER),
        payment=payment,
        wait_ms=counts.wait_ms,
        device_ms=device_ms,
        host_ms=elapsed_ms - device_ms - counts.wait_ms,
    )
    return attrs.evolve(following, ledgers=ledgers), report


def train_plan(program: Program, episode: Episode, slots: SlotTable) -> TrainPlan:
    """What every environment trains in the coming epoch.

    Batches are full; the remainder of an epoch rotates with its permutation. Every environment draws its own
    batches, keyed by its number, so that N changes nobody's data.
    """
    train, growth = program.train, program.growth
    size = len(program.problem.fit)
    steps = min(size // train.batch_size, train.train_batches or size)
    order = permutations(
        size, program.root, Purpose.BATCHES, episode.round_index, episode.envs, episode.epoch
    )
    indices = order[:, : steps * train.batch_size].reshape(len(order), steps, train.batch_size)
    stages = (Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
    training = slots.within(stages[:3] if growth.freeze_fossils else stages)
    return TrainPlan(
        epoch=episode.epoch,
        indices=indices,
        rate=schedules.rates(train, episode.epoch, steps),
        sampled=np.arange(steps) % train.statistics_stride == 0,
        influence=ramps.influence(slots),
        incubating=slots.stage == Stage.TRAINING,
        training=training,
        input_gain=growth.input_gain,
    )


def _expect_built(program: Program, missing: Bools) -> None:
    """A seed that has to be there from the start must not fail its birth (G1)."""
    if missing.any():
        names = [program.space.slots[site] for site in np.flatnonzero(missing.any(axis=0))]
        raise RunError(
            f"a planted seed is not finite, or changes the shape of its input, at {', '.join(names)}"
        )


def _decide(cast: Cast, episode: Episode) -> Choice:
    """Ask the policy; it sees what can be seen and gets its randomness as an argument."""
    program = cast.program
    masks = actions.masks(episode.slots, episode.evidence, program.space, cast.rules)
    view = View(
        epoch=episode.epoch,
        epochs=program.train.epochs,
        begins=episode.begins,
        slots=episode.slots,
        evidence=episode.evidence,
        signals=episode.signals,
        masks=masks,
    )
    draws: Floats = uniforms(
        program.root,
        Purpose.POLICY,
        episode.round_index,
        episode.envs[:, None],
        episode.epoch,
        np.arange(len(HEADS)),
    )
    return cast.policy.decide(view, episode.memory, draws)


def _evaluate(cast: Cast, episode: Episode, slots: SlotTable, tensors: Any) -> tuple[Attribution, EvalCounts]:
    """Fused validation, with the measurements that the policy asks for."""
    program = cast.program
    limit = program.train.validation_batches
    samples = None if limit is None else limit * program.train.batch_size
    keys = (program.root, episode.round_index, episode.envs, episode.epoch)
    question = validate.ask(slots, keys, "validation", samples)
    measures = cast.policy.needs | (cast.reward.needs & MEASURES)
    counts = cast.device.evaluate(tensors, attrs.evolve(question.plan, measures=measures))
    higher = program.problem.higher_is_better
    return validate.read(question, counts, higher_is_better=higher), counts


def _govern(cast: Cast, episode: Episode) -> tuple[Episode, Ints]:
    """Judge every environment after its epoch; bless the healthy, roll back those that panic.

    Returns:
        The episode, and `[N]` of `Verdict`.
    """
    signals = episode.signals
    vitals, verdict = governor.judge(
        episode.vitals, signals.loss, signals.score, cast.program.problem.chance, cast.governor
    )
    episode = attrs.evolve(episode, vitals=vitals)
    panicked = verdict != Verdict.NONE
    if panicked.any():
        episode = _rolled_back(cast, episode, panicked)
    healthy = governor.healthy(vitals, verdict)
    blessed = Blessed(
        epoch=np.where(healthy, episode.epoch - 1, episode.blessed.epoch),
        slots=rows(healthy, episode.slots, episode.blessed.slots),
        signals=rows(healthy, episode.signals, episode.blessed.signals),
        bare=np.where(healthy, episode.attribution.bare, episode.blessed.bare),
        tensors=cast.device.snapshot(episode.tensors, episode.blessed.tensors, healthy),
    )
    return attrs.evolve(episode, blessed=blessed), verdict


def _rolled_back(cast: Cast, episode: Episode, panicked: Bools) -> Episode:
    """Hosts and fossils of some environments as they were blessed; their other seeds are gone.

    What is known of them is what was known then of the network that ships; the rest is unknown.
    """
    blessed, unknown = episode.blessed, HostSignals.unknown(len(panicked))
    slots = lifecycle.rollback(episode.slots, blessed.slots, panicked)
    tensors, _ = cast.device.edit(episode.tensors, lifecycle.edits(episode.slots, slots))
    committed = blessed.signals.committed
    known = attrs.evolve(Attribution.unknown(*slots.shape), committed=committed, bare=blessed.bare)
    signals = attrs.evolve(blessed.signals, train_loss=unknown.train_loss, loss=unknown.loss, score=committed)
    return attrs.evolve(
        episode,
        begins=panicked,
        slots=slots,
        evidence=rows(panicked, Evidence.unknown(*slots.shape), episode.evidence),
        attribution=rows(panicked, known, episode.attribution),
        signals=rows(panicked, signals, episode.signals),
        tensors=cast.device.restore(tensors, blessed.tensors, panicked),
    )


def _standing(cast: Cast, episode: Episode) -> Standing:
    """What a reward sees of an episode."""
    return Standing(
        slots=episode.slots,
        signals=episode.signals,
        evidence=episode.evidence,
        attribution=episode.attribution,
        host_parameters=cast.host_parameters,
        progress=episode.round_index / cast.rounds,
    )
