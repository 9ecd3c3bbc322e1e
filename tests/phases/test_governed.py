"""A forced panic: one environment's segment ends with the penalty, and nobody else notices."""

from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from numpy.testing import assert_array_equal
from worlds import (
    EVERYTHING,
    assert_same,
    cast_of,
    context_of,
    epochs,
    play,
    program,
    rows_of,
    script,
    spirals,
    step,
)

from esper_core.phases import collect
from esper_core.phases.advantage import gae
from esper_core.phases.collect import NEVER, Cast
from esper_core.plugin.rewards import Transition
from esper_core.state.evidence import Evidence
from esper_core.state.governor import Verdict
from esper_core.state.plans import EvalCounts, EvalPlan
from esper_core.state.run import RoundSummary
from esper_core.state.settings import GovernorSettings, GrowthSettings, TrainSettings
from esper_core.state.slots import PLANTED, Stage
from esper_plugins.policies import lstm
from esper_plugins.policies.settings import Lstm

EPOCHS = 8
TRAIN = TrainSettings(epochs=EPOCHS, batch_size=8, train_batches=2)
GROWTH = GrowthSettings(**{**EVERYTHING, "auto_advance": True})
ENVS = (0, 1, 2)


class Sick:
    """A device on which the validation loss of the first environment is lost in some epochs."""

    def __init__(self, device: Any, when: set[int]) -> None:
        self._device, self._when, self._epoch = device, when, -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def evaluate(self, tensors: Any, plan: EvalPlan) -> EvalCounts:
        counts: EvalCounts = self._device.evaluate(tensors, plan)
        self._epoch += 1
        if self._epoch in self._when:
            counts.loss_sum[0] = np.nan
        return counts


def learned(cast: Cast) -> Cast:
    return evolve(cast, policy=lstm.build(context_of(cast.program), Lstm(hidden=8, slot_code=4)))


def played(when: set[int], policy: Any = None, **governor: Any) -> Any:
    """An episode of a policy that has not learned yet, with a loss that is lost in some epochs."""
    built = program(spirals(), train=TRAIN, growth=GROWTH)
    cast = cast_of(built, policy) if policy else learned(cast_of(built, script()))
    cast = evolve(cast, device=Sick(cast.device, when), governor=GovernorSettings(**governor))
    return play(cast, ENVS)


def raw_advantages(run: Any) -> torch.Tensor:
    """Of the policy that played, before they are normalised over all environments."""
    rollout, network = run.episode.rollout, run.cast.policy._network
    with torch.no_grad():
        trace = {k: torch.from_numpy(v) for k, v in run.cast.policy._read(rollout.trace).items()}
        trace["group"] = torch.from_numpy(rollout.group).expand(rollout.reward.shape)
        value = network.judge(trace, torch.from_numpy(rollout.heads)).value.double()
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    ends = torch.from_numpy(rollout.terminated)
    reward = torch.from_numpy(rollout.reward)
    return gae(reward, value, following, ends, torch.zeros_like(ends), 1.0, 0.95)[0]


@pytest.mark.acceptance("RL-01", "TR-02", "X-01", "X-14")
@pytest.mark.parametrize("epoch", [0, 3, EPOCHS - 1])
def test_a_panic_ends_one_segment_with_the_penalty_and_touches_nobody_else(epoch: int) -> None:
    sick, well = played({epoch}, penalty=2.0), played(set(), penalty=2.0)
    for name in ("heads", "refused", "reward", "score", "committed", "terminated", "verdict"):
        mine, theirs = (getattr(run.episode.rollout, name)[:, 1:] for run in (sick, well))
        assert_array_equal(mine, theirs, err_msg=name)
    assert torch.equal(raw_advantages(sick)[:, 1:], raw_advantages(well)[:, 1:])
    for row in (1, 2):
        assert_same(sick.alone(row), well.alone(row))
    rollout = sick.episode.rollout
    assert rollout.terminated[:, 0].tolist() == [t in (epoch, EPOCHS - 1) for t in range(EPOCHS)]
    assert rollout.verdict[:, 0].tolist() == [
        int(Verdict.NONFINITE) if t == epoch else 0 for t in range(EPOCHS)
    ]
    assert_array_equal(rollout.reward[:epoch, 0], well.episode.rollout.reward[:epoch, 0])
    penalties = [report.payment.components["panic"] for report in sick.reports]
    assert [p.tolist() for p in penalties] == [[-2.0 * (t == epoch), 0, 0] for t in range(EPOCHS)]
    assert np.isfinite(rollout.reward).all()


@pytest.mark.acceptance("RL-01", "X-01")
def test_no_advantage_crosses_a_panic() -> None:
    """What comes after the cut changes nothing before it."""
    one, more = played({3}), played({3, 6})
    assert torch.equal(raw_advantages(one)[:4, 0], raw_advantages(more)[:4, 0])
    assert not torch.equal(raw_advantages(one)[4:, 0], raw_advantages(more)[4:, 0])


@pytest.mark.acceptance("RL-02")
def test_rollbacks_are_counted() -> None:
    run = played({1, 2, 6})
    added = np.zeros(len(ENVS), np.int64)
    assert RoundSummary.of(0, run.episode.rollout, ("shipped",), added, {}).rollbacks == (3, 0, 0)
    assert [report.restored.tolist() for report in run.reports] == [
        [{1: 0, 2: 0, 6: 5}.get(t, NEVER), NEVER, NEVER] for t in range(EPOCHS)
    ]


def test_what_is_rolled_back_is_the_last_healthy_host_and_its_fossils() -> None:
    """A fossil comes back as it was, a live seed is gone, and the host goes on from the healthy epoch."""
    steps = [
        step(0, "germinate", "block0", blueprint="linear", speed=0),
        step(3, "fossilize", "block0"),
        step(4, "germinate", "block1", blueprint="linear", speed=0),
    ]
    built = program(spirals(), train=TRAIN, growth=GROWTH)
    cast = cast_of(built, script(*steps))
    states = {}
    sick = evolve(cast, device=Sick(cast.device, {6}))
    for episode, _ in epochs(sick, ENVS):
        states[episode.epoch - 1] = (
            rows_of(sick.device.export(episode.tensors), episode.slots, 0),
            episode.slots.stage[0].tolist(),
            episode.signals,
        )
    before, after = states[5], states[6]
    assert before[1] == [Stage.FOSSILIZED, Stage.HOLDING]
    assert after[1] == [Stage.FOSSILIZED, Stage.PRUNED]
    kept = {name: t for name, t in before[0].items() if not name.startswith("pool/1")}
    assert_same(after[0], kept)
    assert after[2].score[0] == after[2].committed[0] == before[2].committed[0]
    assert np.isnan(after[2].loss[0])
    assert np.isfinite(states[7][2].loss[0])


def test_a_policy_is_told_that_a_segment_begins_and_knows_nothing_of_the_one_before() -> None:
    run = played({3})
    begins = run.episode.rollout.trace["begins"]
    assert begins[:, 0].tolist() == [True, False, False, False, True, False, False, False]
    assert not begins[1:, 1:].any()


def test_an_environment_that_panics_in_every_epoch_ends_the_round_like_any_other() -> None:
    run = played(set(range(EPOCHS)))
    assert run.episode.rollout.terminated[:, 0].all()
    assert np.isfinite(run.episode.rollout.reward).all()
    assert run.episode.slots.within(PLANTED)[0].sum() == 0
    assert np.isnan(run.episode.evidence.contribution[0]).all()


def test_a_reward_sees_what_was_rolled_back_to() -> None:
    seen: list[Transition] = []
    built = program(spirals(), train=TRAIN, growth=GROWTH)
    cast = cast_of(built, script(step(0, "germinate", "block0", blueprint="linear", speed=0)))
    pay = collect.reward.pay

    def watch(family: Any, ledger: Any, transition: Transition, **rest: Any) -> Any:
        seen.append(transition)
        return pay(family, ledger, transition, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect.reward, "pay", watch)
        play(evolve(cast, device=Sick(cast.device, {4})), ENVS)
    assert seen[4].panicked.tolist() == [True, False, False]
    assert seen[4].terminal.tolist() == [True, False, False]
    assert not seen[4].after.slots.within(PLANTED)[0].any()
    assert isinstance(seen[4].after.evidence, Evidence)
    assert [t.final for t in seen] == [False] * (EPOCHS - 1) + [True]
