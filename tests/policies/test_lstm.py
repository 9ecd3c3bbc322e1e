"""The learned policy: what it may choose, what it remembers, and how it learns."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor
from views import context_of, evidence_of, rules_of, space_of, view_of
from worlds import EVERYTHING, Played, cast_of, play, program, spirals

from esper_core.errors import RunError
from esper_core.model.categorical import log_probability, sample
from esper_core.phases.collect import Cast
from esper_core.phases.update import Experience, Judged, experience
from esper_core.plugin import Choice, Learned, View
from esper_core.rules import lifecycle
from esper_core.rules.features import HOST_FEATURES, SLOT_FEATURES
from esper_core.rules.gates import GrowthRules
from esper_core.runner import checkpoint
from esper_core.state.actions import HEADS, HEADS_OF, ActionSpace, Blend, Curve, Op
from esper_core.state.learner import Moments
from esper_core.state.rollout import Rollout
from esper_core.state.run import RunState
from esper_core.state.settings import GrowthSettings, LearnSettings, TrainSettings
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable
from esper_core.testing.strategies import action_spaces, evidence, growth_rules, live, slot_tables
from esper_plugins.policies import lstm
from esper_plugins.policies.lstm import LstmPolicy
from esper_plugins.policies.pointer import Codes, Memory, PointerNet
from esper_plugins.policies.settings import Lstm

SMALL: dict[str, Any] = {"hidden": 8, "slot_code": 4}
SPACE = space_of(
    3,
    blends=(Blend.ADD, Blend.GATE),
    curves=(Curve.LINEAR, Curve.COSINE, Curve.SIGMOID),
    cost=np.tile(np.asarray([[10, 20], [30, -1]]), (3, 1, 1)),
)
"""Every head has a choice, and some of them depend on those before."""
RULES = rules_of(16, max_live=2, budget=80)
ENVS = (0, 1, 2, 5, 7)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def policy_of(
    space: ActionSpace = SPACE,
    dtype: torch.dtype = torch.float64,
    learn: LearnSettings | None = None,
    seed: int = 0,
    groups: int = 1,
    **chosen: Any,
) -> LstmPolicy:
    """A policy far from its birth: any weights, and normalisers that have seen something."""
    context = attrs.evolve(
        context_of(space, RULES.epochs), learn=learn or LearnSettings(), root=seed, groups=groups
    )
    policy = lstm.build(context, Lstm(**{**SMALL, **chosen}))
    draw, numbers = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    with torch.no_grad():
        for weights in policy._network.parameters():
            weights.normal_(0.0, 0.7, generator=draw)
        policy._network.value_mean.fill_(0.5)
        policy._network.value_std.fill_(2.0)
    policy._network.to(dtype)
    policy._moments = {
        name: moments.merge(numbers.normal(0.3, 0.8, (50, len(moments.mean))))
        for name, moments in policy._moments.items()
    }
    return policy


@attrs.frozen(kw_only=True, eq=False)
class Step:
    """One decision: what was seen, remembered and drawn, and what came of it."""

    view: View
    memory: Memory
    uniforms: Any
    choice: Choice


def episode(policy: LstmPolicy, envs: Any = ENVS, seed: int = 0, cuts: float = 0.15) -> list[Step]:
    """An episode of random evidence and panics; what happens to an environment is drawn by its number."""
    numbers = np.asarray(envs)
    shape = (RULES.epochs, 16, len(SPACE.slots))
    draws = np.stack([np.random.default_rng((seed, n)).random(shape) for n in numbers], axis=1)
    slots, memory, steps = SlotTable.empty(len(numbers), 3), policy.start(numbers, 0), []
    for epoch, rows in enumerate(draws):
        told = rows.swapaxes(0, 1)
        seen = evidence_of(
            slots.shape,
            rank=np.where(told[0] < 0.2, np.nan, told[0]),
            contribution=np.where(told[1] < 0.2, np.nan, told[1] - 0.5),
            measured=np.where(told[1] < 0.2, 3, 0),
            health=told[2] + 0.5,
            gradient_norm=told[3],
        )
        curves = dict(zip(("train_loss", "loss", "score", "best"), told[4:8, :, 0], strict=True))
        signals = attrs.evolve(HostSignals.unknown(len(numbers)), **curves)
        begins = (told[8, :, 0] < cuts) | (epoch == 0)
        view = view_of(slots, seen, SPACE, RULES, epoch=epoch, begins=begins)
        view = attrs.evolve(view, signals=attrs.evolve(signals, plateau=view.signals.plateau))
        uniforms = np.concatenate(told[9:12], axis=1)[:, : len(HEADS)]
        choice = policy.decide(view, memory, uniforms)
        lived = live(slots, seen, choice.decision, SPACE, RULES)
        assert not lived.refused.any()
        steps.append(Step(view=view, memory=memory, uniforms=uniforms, choice=choice))
        slots, memory = lived.after, choice.memory
    return steps


def heads_of(choice: Choice) -> Any:
    return np.stack([getattr(choice.decision, head) for head in HEADS], axis=1)


def rollout_of(steps: list[Step], seed: int = 0, group: Any = None) -> Rollout:
    """The episode with random rewards; a segment ends where the next one begins."""
    rollout = Rollout.empty(len(steps), len(steps[0].uniforms), group)
    rewards = np.random.default_rng(seed).normal(size=rollout.reward.shape)
    for t, step in enumerate(steps):
        following = steps[t + 1].view.begins if t + 1 < len(steps) else 0
        choice, verdict = step.choice, np.zeros(len(step.uniforms), np.int64) + following
        nothing = HostSignals.unknown(len(verdict))
        rollout.record(t, choice.decision, choice.trace, verdict * 0, rewards[t], nothing, verdict)
    return rollout


def read(policy: LstmPolicy, trace: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in policy._read(trace).items()}


def looked(policy: LstmPolicy, step: Step) -> tuple[Codes, Memory]:
    """What the network makes of one step."""
    seen = {name: values.unsqueeze(0) for name, values in read(policy, step.choice.trace).items()}
    with torch.no_grad():
        return policy._network.encode(seen["host"], seen["slots"], seen["begins"], step.memory)


def chances(policy: LstmPolicy, step: Step) -> dict[str, Tensor]:
    """`[N, K]` probabilities of every head at one step, given what was chosen before it."""
    codes, _ = looked(policy, step)
    op, slot = (torch.from_numpy(getattr(step.choice.decision, h)).unsqueeze(0) for h in ("op", "slot"))
    masks = {head: torch.from_numpy(step.choice.trace[f"mask_{head}"]).unsqueeze(0) for head in HEADS}
    with torch.no_grad():
        return {h: policy._network.probabilities(h, codes, op, slot, masks[h])[0] for h in HEADS}


def judged(policy: LstmPolicy, rollout: Rollout) -> Judged:
    group = torch.from_numpy(rollout.group).expand(rollout.reward.shape)
    trace = {**read(policy, rollout.trace), "group": group}
    return policy._network.judge(trace, torch.from_numpy(rollout.heads))


def values(network: PointerNet, codes: Codes, group: int = 0) -> Tensor:
    """Under one reward mode."""
    return network.values(codes, torch.full(codes.summary.shape[:-1], group))


def used(rollout: Rollout) -> Tensor:
    """`[T, N, 7]` heads that had more than one choice."""
    return torch.stack([torch.from_numpy(rollout.trace[f"mask_{h}"]).sum(dim=-1) > 1 for h in HEADS], dim=-1)


def contents(learned: Learned) -> dict[str, Any]:
    """Everything that was learned, to compare bit for bit."""
    return {"values": learned.values, **{name: t.tolist() for name, t in learned.tensors.items()}}


# What it chooses


def test_the_episodes_of_these_tests_are_eventful() -> None:
    steps = [step for seed in range(2) for step in episode(policy_of(), seed=seed)]
    heads = np.concatenate([heads_of(step.choice) for step in steps])
    assert set(heads[:, 0]) == set(Op)
    assert (heads.max(axis=0) == np.asarray(SPACE.sizes) - 1).all()
    assert sum(step.view.begins.sum() for step in steps if step.view.epoch) > 10


@pytest.mark.property
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whatever_is_asked_for_would_succeed(data: st.DataObject) -> None:
    space, rules = data.draw(action_spaces()), data.draw(growth_rules())
    policy = policy_of(space, torch.float32, seed=data.draw(st.integers(0, 99)))
    slots, seen = data.draw(slot_tables(space, 4)), data.draw(evidence(4, len(space.slots), rules))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    view = view_of(slots, seen, space, rules, begins=draw.random(4) < 0.2)
    memory = tuple(torch.from_numpy(draw.normal(size=(4, 8))).float() for _ in range(2))
    uniforms = draw.choice([0.0, 0.5, 1.0 - 2**-53, draw.random()], (4, 7))
    choice = policy.decide(view, memory, uniforms)
    assert not lifecycle.refusals(slots, seen, choice.decision, space, rules).any()
    for op, *others in heads_of(choice):
        idle = [c for c, h in zip(others, HEADS[1:], strict=True) if h not in HEADS_OF[op]]
        assert not any(idle)
    floors = chances(policy, Step(view=view, memory=memory, uniforms=uniforms, choice=choice))
    for head, p in floors.items():
        mask = torch.from_numpy(choice.trace[f"mask_{head}"])
        count = mask.sum(dim=1, keepdim=True)
        least = torch.where(mask, (1.0 / count).clamp(max=0.01), 0.0)
        assert (p >= least * (1 - 1e-6)).all()
        assert not p[~mask].any()
        assert_allclose(p.sum(dim=1), (count[:, 0] > 0).float(), rtol=1e-5)


def test_a_head_has_a_choice_where_its_operation_uses_it_and_nowhere_else() -> None:
    """K9: WAIT uses the operation alone; any other that is offered finds a choice for each of its heads."""
    policy = policy_of()
    for view in (step.view for seed in range(2) for step in episode(policy, seed=seed)):
        for op in Op:
            offered = view.masks.op[:, op]
            chosen = {head: np.zeros(len(offered), np.int64) for head in HEADS}
            chosen["op"] += op
            assert_array_equal(policy._mask("op", view, chosen), view.masks.op)
            for head in HEADS[1:]:
                mask = policy._mask(head, view, chosen)
                chosen[head] = mask.argmax(axis=1)
                if head in HEADS_OF[op]:
                    assert mask[offered].any(axis=1).all()
                else:
                    assert not mask.any()
    assert HEADS_OF[Op.WAIT] == ("op",)


def test_uniforms_alone_decide() -> None:
    """Every head's choice is the one of its own uniform, and nothing is drawn anywhere else."""
    policy = policy_of()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    for step in episode(policy):
        again = policy.decide(step.view, step.memory, step.uniforms)
        assert_array_equal(heads_of(again), heads_of(step.choice))
        for index, (head, p) in enumerate(chances(policy, step).items()):
            expected = sample(p, torch.from_numpy(step.uniforms[:, index]))
            assert_array_equal(getattr(step.choice.decision, head), expected, err_msg=head)
    lstm.build(context_of(SPACE), Lstm(**SMALL))
    assert torch.equal(torch.get_rng_state(), before)
    assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_the_first_network_is_the_seed_s() -> None:
    born = [
        lstm.build(attrs.evolve(context_of(SPACE), root=root), Lstm(**SMALL)).state() for root in (1, 1, 2)
    ]
    assert contents(born[0]) == contents(born[1])
    assert contents(born[0]) != contents(born[2])


def test_a_new_policy_tries_everything() -> None:
    """Nearly uniform over what is offered, with `wait_bias` for waiting."""
    policy = lstm.build(context_of(SPACE, RULES.epochs), Lstm(**SMALL, wait_bias=0.7))
    for step in episode(policy):
        for head, p in chances(policy, step).items():
            mask = torch.from_numpy(step.choice.trace[f"mask_{head}"])
            logits = torch.zeros(p.shape)
            if head == "op":
                logits[:, Op.WAIT] = 0.7
            expected = logits.masked_fill(~mask, -torch.inf).softmax(dim=-1).nan_to_num(0.0)
            assert_allclose(p, expected, atol=0.05)


@pytest.mark.parametrize("offered", Op)
def test_no_operation_is_ever_lost(offered: Op) -> None:
    """Even where one operation has all the logits, the others' log-probabilities have a gradient."""
    network = policy_of(dtype=torch.float32)._network
    with torch.no_grad():
        network.op.bias.zero_()
        network.op.weight.mul_(0.1)
        network.op.bias[(offered + 1) % len(Op)] = 30.0
    codes = Codes(torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 3, 4))
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    p = network.probabilities("op", codes, nothing, nothing, torch.ones(1, 1, len(Op), dtype=torch.bool))
    assert p[0, 0, offered].item() == pytest.approx(0.01, rel=1e-4)
    (gradient,) = torch.autograd.grad(log_probability(p, nothing + int(offered)).sum(), [network.op.bias])
    assert gradient[offered] > 0
    assert gradient[(offered + 1) % len(Op)] < 0


# Slots


def lively_codes(network: PointerNet, slots: int, seed: int = 0) -> tuple[Codes, Tensor, Tensor]:
    """Codes of random features of hosts with any number of slots; host and slot features."""
    draw = torch.Generator().manual_seed(seed)
    host = torch.randn(2, 4, len(HOST_FEATURES), generator=draw, dtype=torch.float64)
    seen = torch.randn(2, 4, slots, len(SLOT_FEATURES), generator=draw, dtype=torch.float64)
    codes, _ = network.encode(host, seen, torch.zeros(2, 4, dtype=torch.bool), network.blank(4))
    return codes, host, seen


@pytest.mark.property
@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.sampled_from(list(Op)), st.integers(0, 99))
def test_slots_have_no_order(order: list[int], op: Op, seed: int) -> None:
    """Permuted slots have permuted logits; operations and values are what they were."""
    network = policy_of(seed=seed)._network
    codes, host, seen = lively_codes(network, 5, seed)
    moved, _ = network.encode(host, seen[:, :, order], torch.zeros(2, 4, dtype=torch.bool), network.blank(4))
    ops = torch.full((2, 4), int(op))
    one, other = (network.head("slot", c, ops, ops) for c in (codes, moved))
    assert one.std() > 0.1
    torch.testing.assert_close(other, one[..., order], **EXACT)
    torch.testing.assert_close(
        network.head("op", moved, ops, ops), network.head("op", codes, ops, ops), **EXACT
    )
    torch.testing.assert_close(values(network, moved), values(network, codes), **EXACT)


def test_one_network_serves_any_number_of_slots() -> None:
    """What was learned with two slots goes on with five."""
    two, five = (policy_of(space_of(slots), seed=slots) for slots in (2, 5))
    five.restore(two.state())
    for slots in (2, 5):
        op = torch.zeros(2, 4, dtype=torch.int64)
        results = []
        for network in (two._network, five._network):
            codes, *_ = lively_codes(network, slots)
            results.append((network.head("slot", codes, op, op), values(network, codes)))
        assert results[0][0].shape == (2, 4, slots)
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("head", HEADS[2:])
def test_later_heads_read_the_operation_and_the_slot(head: str) -> None:
    """Of the slots' codes they read the chosen one directly; the others only as far as the summary does."""
    network = policy_of()._network
    codes, *_ = lively_codes(network, 3)
    ops, slot = torch.full((2, 4), int(Op.GERMINATE)), torch.ones(2, 4, dtype=torch.int64)
    logits = network.head(head, codes, ops, slot)
    changed = codes.slots.clone()
    changed[:, :, [0, 2]] += 1.0
    assert torch.equal(network.head(head, codes._replace(slots=changed), ops, slot), logits)
    for other in (
        network.head(head, codes, ops, slot * 2),
        network.head(head, codes, torch.full((2, 4), int(Op.PRUNE)), slot),
    ):
        assert ((other - logits).abs().amax(dim=-1) > 1e-3).all()


def test_where_depends_on_what() -> None:
    """For every operation slots have an order of preference of their own."""
    network = policy_of()._network
    codes, *_ = lively_codes(network, 5)
    none = torch.zeros(2, 4, dtype=torch.int64)
    preferred = [network.head("slot", codes, none + int(op), none).log_softmax(dim=-1) for op in Op]
    for i, one in enumerate(preferred):
        assert all((one - other).abs().max() > 0.1 for other in preferred[:i])


# Memory


@pytest.mark.parametrize("cuts", [0.0, 0.3])
def test_stepping_and_judging_agree(cuts: float) -> None:
    """K10, K11: the same log-probabilities and values, also where segments begin in the middle."""
    policy = policy_of()
    steps = episode(policy, cuts=cuts)
    assert any(step.view.begins.any() for step in steps[1:]) == bool(cuts)
    rollout = rollout_of(steps)
    with torch.no_grad():
        found = judged(policy, rollout)
    for t, step in enumerate(steps):
        codes, memory = looked(policy, step)
        assert all(torch.equal(a, b) for a, b in zip(memory, step.choice.memory, strict=True))
        torch.testing.assert_close(values(policy._network, codes)[0], found.value[t], **EXACT)
        for k, (head, p) in enumerate(chances(policy, step).items()):
            expected = log_probability(p, torch.from_numpy(getattr(step.choice.decision, head)))
            torch.testing.assert_close(expected, found.log_probability[t, :, k], **EXACT)
    assert found.log_probability.std() > 0.1
    assert found.value.std() > 0.1


def test_memory_is_cleared_where_a_segment_begins_and_only_there() -> None:
    policy = policy_of()
    step = episode(policy)[3]
    begins = np.asarray([True, False, False, True, False])
    view = attrs.evolve(step.view, begins=begins)
    kept, other = step.memory, tuple(state + 1.0 for state in step.memory)
    one, two = (policy.decide(view, memory, step.uniforms).memory for memory in (kept, other))
    blank = policy.decide(view, policy.start(np.arange(5), 0), step.uniforms).memory
    for a, b, c in zip(one, two, blank, strict=True):
        same = [torch.equal(a[n], b[n]) for n in range(5)]
        assert same == begins.tolist()
        assert [torch.equal(a[n], c[n]) for n in range(5)] == begins.tolist()
    assert all(torch.equal(a, b) for a, b in zip(kept, step.memory, strict=True))


@pytest.mark.acceptance("RL-07")
@pytest.mark.parametrize("part", [[2], [4, 1], [0, 1, 2, 3], [3, 4, 2, 1, 0]])
def test_neighbours_change_nothing(part: list[int]) -> None:
    """Choices, what is noted of them, memory and values of a slice are those of the whole."""
    policy = policy_of()
    whole, some = episode(policy), episode(policy, [ENVS[n] for n in part])
    for a, b in zip(whole, some, strict=True):
        assert_array_equal(heads_of(a.choice)[part], heads_of(b.choice))
        for name, noted in a.choice.trace.items():
            assert_array_equal(noted[part], b.choice.trace[name], err_msg=name)
        for mine, theirs in zip(a.choice.memory, b.choice.memory, strict=True):
            torch.testing.assert_close(mine[part], theirs, **EXACT)
    with torch.no_grad():
        one, other = judged(policy, rollout_of(whole)), judged(policy, rollout_of(some))
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine[:, part], theirs, **EXACT)


class Late:
    """A device that computes beside the caller, and then uses the memory of its last results again."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._last: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def _call(self, name: str, *arguments: Any) -> Any:
        for array in arrays_of(self._last.get(name)):
            array[...] = -99
        found: list[Any] = []
        worker = Thread(target=lambda: found.append(getattr(self._device, name)(*arguments)))
        worker.start()
        worker.join()
        result = found[0]
        self._last[name] = result[1] if isinstance(result, tuple) else result
        return result

    def train(self, *arguments: Any) -> Any:
        return self._call("train", *arguments)

    def evaluate(self, *arguments: Any) -> Any:
        return self._call("evaluate", *arguments)


def arrays_of(record: Any) -> Iterator[Any]:
    """Every array of a record and of the records in it."""
    if isinstance(record, np.ndarray):
        yield record
    elif attrs.has(type(record)):
        for field in attrs.fields(type(record)):
            yield from arrays_of(getattr(record, field.name))


class Witness:
    """A policy that shows what it was shown."""

    def __init__(self, policy: LstmPolicy) -> None:
        self._policy = policy
        self.views: list[View] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def decide(self, view: View, memory: Any, uniforms: Any) -> Choice:
        self.views.append(view)
        return self._policy.decide(view, memory, uniforms)


def world(**growth: Any) -> Cast:
    built = program(
        spirals(),
        train=TrainSettings(epochs=8, batch_size=8, train_batches=2),
        growth=GrowthSettings(**{**EVERYTHING, **growth}),
    )
    return cast_of(built, lambda context: Witness(lstm.build(context, Lstm(**SMALL))))


@pytest.mark.acceptance("RL-03")
def test_what_a_policy_reads_has_arrived() -> None:
    """It reads arrays of the host, and nothing that it keeps is memory of the device's.

    A device that is late, and overwrites its results with the next ones, changes no decision and no value.
    """
    prompt = world()
    late = attrs.evolve(world(), device=Late(prompt.device))
    runs: list[Played] = [play(cast, (0, 1, 2)) for cast in (prompt, late)]
    one, other = (run.episode.rollout for run in runs)
    for name in ("heads", "refused", "reward", "score", "committed"):
        assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name, noted in one.trace.items():
        assert_array_equal(noted, other.trace[name], err_msg=name)
    assert torch.equal(*(judged(run.cast.policy, run.episode.rollout).value for run in runs))  # type: ignore[arg-type]
    assert one.heads[..., 0].any()
    for view in late.policy.views:  # type: ignore[attr-defined]
        for record in (view.slots, view.evidence, view.signals, view.masks):
            fields = attrs.asdict(record, recurse=False).values()
            assert {type(value) for value in fields} == {np.ndarray}


def test_in_a_world_nothing_is_refused() -> None:
    run = play(world(), range(6))
    assert not run.episode.rollout.refused.any()
    assert len(set(run.episode.rollout.heads[..., 0].ravel())) >= 4


# Learning


def test_heads_that_are_not_used_count_nothing() -> None:
    """K8: neither log-probability nor entropy, and no gradient, not even through a NaN."""
    policy = policy_of()
    rollout = rollout_of(episode(policy))
    found = judged(policy, rollout)
    idle = torch.stack([~torch.from_numpy(rollout.trace[f"mask_{h}"]).any(dim=-1) for h in HEADS], dim=-1)
    assert idle.any()
    assert not found.log_probability[idle].any()
    assert not found.entropy[idle].any()
    total = found.log_probability[idle].sum() + found.entropy[idle].sum()
    for gradient in torch.autograd.grad(total, list(policy._network.parameters()), materialize_grads=True):
        assert not gradient.any()


def test_steps_without_a_choice_teach_no_policy() -> None:
    """Where WAIT is all that is offered, only the values learn, whatever was paid."""
    policy = policy_of()
    rollout = rollout_of(episode(policy))
    rollout.heads[:] = 0
    for head in HEADS:
        rollout.trace[f"mask_{head}"][:] = False
    rollout.trace["mask_op"][..., Op.WAIT] = True
    before = {name: tensor.clone() for name, tensor in policy._network.state_dict().items()}
    policy.learn(rollout, 0, 2)
    after = policy._network.state_dict()
    for name in before:
        scores = name.startswith(("op.", "point.", "before_point", "choose.", "before_choose"))
        assert torch.equal(after[name], before[name]) == scores, name


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.floats(-100, 100), st.floats(1e-3, 1e4)), min_size=3, max_size=3),
)
def test_another_unit_changes_no_value(groups: int, units: list[tuple[float, float]]) -> None:
    """N7: whatever mean and deviation each reward mode's returns have, and twice in a row."""
    network = policy_of(groups=groups)._network
    codes, *_ = lively_codes(network, 3)
    with torch.no_grad():
        before = [values(network, codes, group).clone() for group in range(groups)]
        for shift in (0.0, 3.0):
            mean, std = (torch.tensor(x[:groups], dtype=torch.float64) for x in zip(*units, strict=True))
            network.rescale(mean + shift, std)
            for group in range(groups):
                torch.testing.assert_close(values(network, codes, group), before[group], rtol=1e-9, atol=1e-8)
            assert torch.equal(network.value_mean, mean + shift)
            assert torch.equal(network.value_std, std)
    assert all(value.std() > 0.1 for value in before)


def test_normalisers_take_in_a_round_at_its_end_and_once() -> None:
    """What was seen is merged as it was seen, not as it was read; a rollout changes nothing."""
    policy = policy_of(learn=LearnSettings(passes=3))
    begin = contents(policy.state())
    moments = policy._moments
    rollout = rollout_of(episode(policy))
    assert contents(policy.state()) == begin
    raw = {name: values.copy() for name, values in rollout.trace.items()}
    target = learned_from(policy, rollout).target
    policy.learn(rollout, 0, 1)
    samples = {**raw, "returns/0": target.numpy()[..., None]}
    assert policy._moments.keys() == {"host", "slots", "returns/0"}
    for name, now in policy._moments.items():
        expected: Moments = moments[name].merge(samples[name].reshape(-1, samples[name].shape[-1]))
        assert now.count == expected.count > moments[name].count
        assert_array_equal(now.mean, expected.mean, err_msg=name)
        assert_array_equal(now.m2, expected.m2, err_msg=name)
    assert policy._network.value_mean.tolist() == policy._moments["returns/0"].mean.tolist()
    assert policy._network.value_std.tolist() == policy._moments["returns/0"].std.tolist()
    for name, noted in raw.items():
        assert_array_equal(rollout.trace[name], noted, err_msg=name)


def learned_from(policy: LstmPolicy, rollout: Rollout) -> Experience:
    group = np.tile(rollout.group, (len(rollout.reward), 1))
    played = attrs.evolve(rollout, trace={**policy._read(rollout.trace), "group": group})
    return experience(policy._network, played, used(rollout), LearnSettings())


@pytest.mark.acceptance("RL-06", "X-24")
def test_the_order_of_environments_changes_no_bit_of_what_was_seen() -> None:
    """N1: of the same episode in another order; returns go through the network, which rounds."""
    order = [3, 0, 4, 2, 1]
    found = []
    for chosen in (range(5), order):
        policy = policy_of()
        rollout = rollout_of(episode(policy, [ENVS[n] for n in chosen]))
        rollout.reward[:] = np.random.default_rng(0).normal(size=rollout.reward.shape)[:, list(chosen)]
        policy.learn(rollout, 0, 1)
        found.append(policy._moments)
    for name in ("host", "slots"):
        for part in ("mean", "m2"):
            assert getattr(found[0][name], part).tobytes() == getattr(found[1][name], part).tobytes()
    assert_allclose(found[0]["returns/0"].m2, found[1]["returns/0"].m2, rtol=1e-12)


# Reward modes


GROUPS = np.asarray([0, 1, 1, 0, 1])


def test_every_mode_has_values_of_its_own() -> None:
    """The same hosts are worth what their mode pays; learning of one mode moves no other's values."""
    policy = policy_of(groups=2)
    steps = episode(policy)
    one, other = (judged(policy, rollout_of(steps, group=np.full(5, g))).value for g in (0, 1))
    mixed = judged(policy, rollout_of(steps, group=GROUPS)).value
    assert (one - other).abs().min() > 1e-6
    assert torch.equal(mixed, torch.where(torch.from_numpy(GROUPS) == 0, one, other))
    loss = mixed[:, torch.from_numpy(GROUPS) == 0].square().sum()
    (gradient,) = torch.autograd.grad(loss, [policy._network.expect.weight])
    assert gradient[0].any()
    assert not gradient[1].any()


@pytest.mark.acceptance("RL-06", "AB-07")
@pytest.mark.parametrize("unit", [1e-3, 1e6])
def test_a_mode_neither_drowns_others_nor_is_drowned(unit: float) -> None:
    """Where one mode pays in another unit, all weights are learned alike, and only that unit is another."""
    policies = []
    steps = episode(policy_of(groups=2))
    for scale in (1.0, unit):
        policy = policy_of(groups=2)
        mine = policy._moments["returns/1"]
        policy._moments["returns/1"] = Moments(
            count=mine.count, mean=mine.mean * scale, m2=mine.m2 * scale**2
        )
        policy._network.value_mean[1] *= scale
        policy._network.value_std[1] *= scale
        rollout = rollout_of(steps, group=GROUPS)
        rollout.reward[:, GROUPS == 1] *= scale
        told = policy.learn(rollout, 0, 2)
        assert told["steps"] > 0
        policies.append(policy._network)
    one, other = (network.state_dict() for network in policies)
    for name in one:
        expected = one[name].clone()
        if name in ("value_mean", "value_std"):
            expected[1] *= unit
        torch.testing.assert_close(other[name], expected, rtol=1e-7, atol=1e-9, msg=name)


def test_each_mode_has_the_moments_of_its_own_returns() -> None:
    policy = policy_of(groups=2)
    rollout = rollout_of(episode(policy), group=GROUPS)
    rollout.reward[:, GROUPS == 1] *= 50.0
    target, before = learned_from(policy, rollout).target.numpy(), policy._moments
    policy.learn(rollout, 0, 1)
    for group in range(2):
        expected = before[f"returns/{group}"].merge(target[:, group == GROUPS].reshape(-1, 1))
        now = policy._moments[f"returns/{group}"]
        assert (now.count, now.mean.tobytes(), now.m2.tobytes()) == (
            expected.count,
            expected.mean.tobytes(),
            expected.m2.tobytes(),
        )
        assert policy._network.value_std[group].item() == now.std[0]
    assert policy._network.value_std[1] > 3 * policy._network.value_std[0]


def test_a_mode_that_pays_nobody_keeps_its_unit() -> None:
    policy = policy_of(groups=3)
    before = policy._moments
    policy.learn(rollout_of(episode(policy), group=GROUPS * 2), 0, 1)
    assert policy._moments["returns/1"] is before["returns/1"]
    assert policy._moments["returns/2"].count > before["returns/2"].count


@pytest.mark.acceptance("RL-04")
@pytest.mark.parametrize("at", [0, 4, 11])
def test_a_cut_episode_goes_on_being_valued_with_its_memory(at: int) -> None:
    """What follows a truncation is worth what the carried memory says, and not what a blank one does."""
    policy = policy_of()
    steps = episode(policy, cuts=0.0)
    whole, cut = rollout_of(steps), rollout_of(steps[: at + 1])
    cut.terminated[-1], cut.truncated[-1] = False, True
    following = steps[at + 1]
    assert following.memory is steps[at].choice.memory
    blank = attrs.evolve(following, memory=policy.start(np.arange(5), 0))
    group = {"group": np.zeros(cut.reward.shape, np.int64)}
    cut = attrs.evolve(cut, trace={**policy._read(cut.trace), **group})
    with torch.no_grad():
        expected = torch.from_numpy(cut.reward).sum(dim=0) + judged(policy, whole).value[at + 1]
        for step, right in ((following, True), (blank, False)):
            after = values(policy._network, looked(policy, step)[0]).expand(cut.reward.shape)
            target = experience(policy._network, cut, used(cut), LearnSettings(trace=1.0), after).target
            assert torch.allclose(target[0], expected, rtol=1e-12, atol=1e-12) == right


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_before_the_first_step_every_ratio_is_exactly_1(dtype: torch.dtype) -> None:
    """K10: the anchor and the network are evaluated alike: not one bit of divergence, nothing clipped."""
    policy = policy_of(dtype=dtype, learn=LearnSettings(passes=1, minibatches=1))
    told = policy.learn(rollout_of(episode(policy)), 0, 1)
    assert (told["divergence"], told["clipped"], told["steps"]) == (0.0, 0.0, 1.0)


def test_what_is_read_is_normalised_by_what_was_seen_before() -> None:
    """(x - mean) / std within +-5, of the rounds before this one."""
    policy = policy_of()
    step = episode(policy)[5]
    for name in ("host", "slots"):
        samples = np.random.default_rng(1).normal(2.0, 3.0, (40, len(policy._moments[name].mean)))
        policy._moments[name] = Moments.none(samples.shape[1]).merge(samples)
        seen = step.choice.trace[name]
        expected = np.clip((seen - samples.mean(axis=0)) / samples.std(axis=0), -5.0, 5.0)
        assert_allclose(policy._read(step.choice.trace)[name], expected, rtol=1e-10)


def test_a_round_of_updates_is_told_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads with more than one choice, the unit of the values, the keys of its order, the run's progress."""
    policy = policy_of(seed=3)
    rollout = rollout_of(episode(policy))
    rollout.trace["mask_op"][:4, 0] = np.arange(len(Op)) == Op.WAIT
    told: dict[str, Any] = {}

    def improve(network: Any, optimizer: Any, played: Any, learn: Any, **arguments: Any) -> dict[str, float]:
        told.update(arguments, used=played.used)
        return {}

    monkeypatch.setattr(lstm, "improve", improve)
    for round_index, rounds, progress in ((0, 1, 0.0), (0, 5, 0.0), (2, 5, 0.5), (4, 5, 1.0)):
        scale = policy._network.value_std[[0] * len(ENVS)].tolist()
        policy.learn(rollout, round_index, rounds)
        assert told["scale"].tolist() == scale
        assert (told["keys"], told["progress"]) == ((3, round_index), progress)
        assert torch.equal(told["used"], used(rollout))
    assert not told["used"][:4, 0, 0].any()
    assert told["used"].any(dim=(0, 1)).all()


def saved(learned: Learned, folder: Path) -> Learned:
    """Through a checkpoint on disk."""
    state = checkpoint.Checkpoint(state=RunState(), slots=None, tensors={}, policy=learned, sinks={})
    return checkpoint.load(checkpoint.save(folder, state, keep=1)).policy


@pytest.mark.parametrize("rounds", [0, 2])
def test_what_is_restored_goes_on_as_if_nothing_had_happened(rounds: int, tmp_path: Path) -> None:
    """Through files, in another policy: the next round gives the same bits, and it is the other's own."""
    one, other = (policy_of(dtype=torch.float32, seed=seed) for seed in (0, 1))
    other._context = one._context
    for number in range(rounds):
        one.learn(rollout_of(episode(one, seed=number)), number, 4)
    before = one.state()
    other.restore(saved(before, tmp_path))
    assert contents(other.state()) == contents(before)
    kept = contents(before)
    rollout = rollout_of(episode(one, seed=9))
    told = [policy.learn(rollout, rounds, 4) for policy in (one, other)]
    assert told[0] == told[1]
    assert told[0]["steps"] > 0
    assert contents(one.state()) == contents(other.state()) != kept
    assert contents(before) == kept, "what was saved must not change with what is learned later"
    json.dumps(before.values)


def test_what_was_restored_is_a_copy() -> None:
    one, two, three = (policy_of(dtype=torch.float32, seed=seed) for seed in range(3))
    one.learn(rollout_of(episode(one)), 0, 4)
    state = one.state()
    two.restore(state)
    kept = contents(state)
    two.learn(rollout_of(episode(two)), 1, 4)
    assert contents(state) == kept
    three.restore(state)
    assert contents(three.state()) == kept


def test_learning_is_a_function_of_what_was_played() -> None:
    one, same, other = (policy_of(dtype=torch.float32) for _ in range(3))
    rollout = rollout_of(episode(one))
    for policy in (one, same):
        policy.learn(rollout, 0, 2)
    torch.rand(3)
    other.learn(rollout_of(episode(other), seed=1), 0, 2)
    assert contents(one.state()) == contents(same.state())
    assert contents(one.state()) != contents(other.state())


def other_features(state: Learned) -> Learned:
    """As another version with one feature more would have written it."""
    vocabulary = {**state.values["vocabulary"], "features of slots": [*SLOT_FEATURES, "mood"]}
    return attrs.evolve(state, values={**state.values, "vocabulary": vocabulary})


@pytest.mark.parametrize(
    ("state", "wrong"),
    [
        (lambda: policy_of(hidden=9).state(), r"op\.weight: has the shape \(6, 18\), expected \(6, 16\)"),
        (lambda: policy_of(space_of(3)).state(), r"blends: has \['add'\], expected \['add', 'gate'\]"),
        (lambda: policy_of(groups=2).state(), r"reward modes: has 2, expected 1"),
        (lambda: other_features(policy_of().state()), r"features of slots: has .*'mood'\], expected"),
        (Learned, r"operations: has None, expected \['wait'.*[\s\S]*op\.bias: has the shape None"),
    ],
    ids=["size", "choices", "modes", "features", "nothing"],
)
def test_what_was_learned_for_something_else_is_refused(state: Any, wrong: str) -> None:
    policy = policy_of()
    before = contents(policy.state())
    where = r"policy esper/lstm: the checkpoint was learned with other settings or by another version"
    then = r"go on with the settings and the version that wrote it, or begin a new run"
    with pytest.raises(RunError, match=rf"^{where}[\s\S]*{wrong}[\s\S]*{then}$"):
        policy.restore(state())
    assert contents(policy.state()) == before


def lottery(seed: int, rules: GrowthRules, epoch: int, envs: int) -> View:
    """Newborn hosts whose slots differ in nothing but their ranks."""
    ranks = np.random.default_rng((seed, epoch)).random((envs, 3))
    empty = SlotTable.empty(envs, 3)
    begins = np.full(envs, epoch == 0)
    return view_of(empty, evidence_of(empty.shape, rank=ranks), SPACE, rules, epoch=epoch, begins=begins)


def test_it_learns_where_help_is_needed() -> None:
    """Planting at the slot of the lowest rank pays 1; after some rounds it is what is most probable."""
    rules, envs, rounds = rules_of(4), 32, 20
    learn = LearnSettings(lr=1e-2, entropy=0.01, passes=4, minibatches=2, kl_limit=0.05)
    policy = lstm.build(attrs.evolve(context_of(SPACE, 4), learn=learn), Lstm(**SMALL))
    uniforms = np.random.default_rng(0)
    for number in range(rounds):
        memory, rollout = policy.start(np.arange(envs), number), Rollout.empty(4, envs)
        for epoch in range(4):
            view = lottery(number, rules, epoch, envs)
            choice = policy.decide(view, memory, uniforms.random((envs, 7)))
            decision, memory = choice.decision, choice.memory
            right = decision.slot == view.evidence.rank.argmin(axis=1)
            paid = ((decision.op == Op.GERMINATE) & right).astype(float)
            zeros = np.zeros(envs, np.int64)
            rollout.record(epoch, decision, choice.trace, zeros, paid, view.signals, zeros)
        policy.learn(rollout, number, rounds)
    view, memory = lottery(10**6, rules, 0, 200), policy.start(np.arange(200), 0)
    uniforms_ = np.full((200, 7), 0.5)
    step = Step(view=view, memory=memory, uniforms=uniforms_, choice=policy.decide(view, memory, uniforms_))
    codes, _ = looked(policy, step)
    ops = torch.full((1, 200), int(Op.GERMINATE))
    best = policy._network.head("slot", codes, ops, ops)[0].argmax(dim=-1).numpy()
    planted = chances(policy, step)["op"].argmax(dim=-1).numpy() == Op.GERMINATE
    assert (planted & (best == view.evidence.rank.argmin(axis=1))).mean() > 0.8
