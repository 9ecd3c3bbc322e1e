"""The update: which steps are taken, what they leave untouched, and how often anything is read back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import FLOOR, OPS, USED, N, T, Table, adam, part_of, take
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from esper_core.model.categorical import sample
from esper_core.phases import update
from esper_core.phases.update import Experience, Judged, experience, improve, losses
from esper_core.state.rollout import Rollout
from esper_core.state.settings import LearnSettings

torch.set_num_threads(1)

many = settings(max_examples=200, deadline=None)
seeds = st.integers(0, 10**6)
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, 1e-2),
    "momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.5),
}
optimizers = st.sampled_from(sorted(OPTIMIZERS))


def everything(actor: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters and all that the optimizer remembers of them."""
    found = {f"parameter {i}": p.detach().clone() for i, p in enumerate(actor.parameters())}
    for i, state in optimizer.state_dict()["state"].items():
        found |= {f"{k} of {i}": v.clone() for k, v in state.items() if isinstance(v, Tensor)}
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit, and of the same things."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def broken(part: Experience, where: str, at: int, value: float) -> Experience:
    """With something in one cell that is not finite."""
    t, n = at % T, at // T % N
    if where == "anchor":
        log_p = part.anchor.log_probability.clone()
        log_p[t, n, 0] = value
        return attrs.evolve(part, anchor=part.anchor._replace(log_probability=log_p))
    cells = getattr(part, where).clone()
    cells[t, n] = value
    return attrs.evolve(part, **{where: cells})


def step_by_step(
    actor: Table,
    optimizer: torch.optim.Optimizer,
    part: Experience,
    learn: LearnSettings,
    keys: tuple[int, int],
) -> dict[str, float]:
    """The same update, decided on the host: what is not finite is skipped, what goes too far is the end."""
    steps, skipped, seen = 0, 0, []
    for envs in update._minibatches(N, learn, keys):
        few = part.of(envs)
        loss, numbers = losses(actor.judge({}, few.heads), few, learn, 1.0, learn.entropy)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(actor.parameters()), learn.max_norm)
        if not all(bool(x.isfinite()) for x in (numbers[0], loss, norm)):
            skipped += 1
            continue
        seen.append([*numbers.tolist(), float(norm)])
        if float(numbers[0]) > learn.kl_limit:
            break
        optimizer.step()
        steps += 1
    names = ("divergence", "policy_loss", "value_loss", "entropy", "clipped", "gradient_norm")
    means = np.mean(seen, axis=0) if seen else np.full(len(names), np.nan)
    return {**dict(zip(names, means, strict=True)), "steps": steps, "skipped": skipped}


# --------------------------------------------------------------------------------- which steps are taken


@pytest.mark.property
@many
@given(
    seeds,
    optimizers,
    st.sampled_from([1e-4, 0.01, 0.05, 1e9]),
    st.sampled_from([None, "advantage", "target", "anchor"]),
    st.integers(0, T * N - 1),
    st.booleans(),
)
def test_an_update_is_what_it_is_when_the_host_decides_every_step(
    seed: int, name: str, kl_limit: float, where: str | None, at: int, old: bool
) -> None:
    """U11, U12: bit for bit in parameters and optimizer, wherever it stops and whatever it leaves out."""
    learn = LearnSettings(lr=0.05, passes=2, minibatches=2, kl_limit=kl_limit)
    found = []
    for way in ("device", "host"):
        actor = Table(seed)
        optimizer = OPTIMIZERS[name](actor.parameters())
        part = part_of(actor, seed)
        if old:
            take(actor, optimizer, part, passes=1, kl_limit=1e9)
        if where:
            part = broken(part, where, at, float("nan"))
        for group in optimizer.param_groups:
            group["lr"] = learn.lr
        if way == "device":
            told = improve(actor, optimizer, part, learn, scale=1.0, keys=(seed, 1), progress=0.0)
        else:
            told = step_by_step(actor, optimizer, part, learn, (seed, 1))
        found.append((everything(actor, optimizer), told))
    (one, told), (other, expected) = found
    assert same(one, other)
    for key, number in expected.items():
        assert told[key] == pytest.approx(number, rel=1e-12, abs=1e-12, nan_ok=True), key


@pytest.mark.property
@many
@given(seeds, optimizers, st.sampled_from([1e-3, 0.01, 0.1]))
def test_passes_stop_before_the_step_that_would_go_too_far(seed: int, name: str, kl_limit: float) -> None:
    """U11: what comes behind the limit changes no bit: as many passes without a limit give the same."""
    found = []
    passes = 4
    for limit in (kl_limit, 1e9):
        actor = Table(seed)
        optimizer = OPTIMIZERS[name](actor.parameters())
        part = part_of(actor, seed)
        told = take(actor, optimizer, part, passes=passes, kl_limit=limit)
        passes = int(told["steps"])
        assert passes >= 1, "at the anchor itself the divergence is 0"
        found.append(everything(actor, optimizer))
    assert same(*found)


def test_a_limit_of_the_divergence_stops_some_updates_and_not_others() -> None:
    steps = set()
    for kl_limit in (1e-3, 0.01, 0.1, 1e9):
        actor = Table()
        steps.add(take(actor, adam(actor), part_of(actor), passes=30, kl_limit=kl_limit)["steps"])
    assert len(steps) == 4
    assert max(steps) == 30


@pytest.mark.property
@many
@given(
    seeds,
    optimizers,
    st.sampled_from(["advantage", "target", "anchor"]),
    st.integers(0, T * N - 1),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    st.booleans(),
)
def test_what_is_not_finite_changes_nothing(
    seed: int, name: str, where: str, at: int, value: float, old: bool
) -> None:
    """U12: parameters and the optimizer's state and counters stay bit for bit, also those not born yet."""
    if where == "anchor" and value > 0:
        value = float("nan")  # an infinite ratio is clipped
    actor = Table(seed)
    optimizer = OPTIMIZERS[name](actor.parameters())
    part = part_of(actor, seed)
    if old:
        take(actor, optimizer, part)
    before = everything(actor, optimizer)
    told = take(actor, optimizer, broken(part, where, at, value), passes=2)
    if where == "anchor" and value == -float("inf"):
        return
    assert told["steps"] == 0
    assert told["skipped"] == 2
    assert same(everything(actor, optimizer), before)
    assert not np.isfinite(told["divergence"])


class Edge(Table):
    """Its loss is finite and its gradient is not: a root at 0."""

    def judge(self, trace: Mapping[str, Tensor], heads: Tensor) -> Judged:
        said = super().judge(trace, heads)
        return said._replace(value=said.value + self.value.abs().sqrt())


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    actor = Edge()
    optimizer = adam(actor)
    part = part_of(actor)
    before = everything(actor, optimizer)
    told = take(actor, optimizer, part, passes=2)
    assert (told["steps"], told["skipped"]) == (0, 2)
    assert same(everything(actor, optimizer), before)
    assert optimizer.state_dict()["state"] == {}


@pytest.mark.property
@many
@given(seeds, st.sampled_from([1e-3, 0.1, 0.5, 10.0]))
def test_no_gradient_is_longer_than_its_limit(seed: int, limit: float) -> None:
    """U13: with plain descent at rate 1 a step is its gradient; what is told is its length before."""
    actor, before = Table(seed), Table(seed)
    optimizer = torch.optim.SGD(actor.parameters(), 1.0)
    told = take(actor, optimizer, part_of(actor, seed), lr=1.0, passes=1, max_norm=limit)
    steps = [(p - b).reshape(-1) for p, b in zip(actor.parameters(), before.parameters(), strict=True)]
    length = torch.cat(steps).norm().item()
    assert length <= limit * (1 + 1e-9)
    assert length == pytest.approx(min(told["gradient_norm"], limit), rel=1e-2)


@pytest.mark.property
@many
@given(seeds, optimizers)
def test_an_update_is_a_function_of_what_it_is_given(seed: int, name: str) -> None:
    """U14: the same bits again, whatever torch's generator is at; other keys are another order."""
    found = []
    for root in (seed, seed, seed + 1):
        actor = Table(seed)
        optimizer = OPTIMIZERS[name](actor.parameters())
        part = part_of(actor, seed)
        state = torch.get_rng_state()
        told = take(actor, optimizer, part, keys=(root, 3), minibatches=2, passes=1)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(1)
        found.append((everything(actor, optimizer), told))
    (one, told), (again, told_again), (other, _) = found
    assert same(one, again)
    assert told == told_again
    assert not same(one, other) or orders(seed) == orders(seed + 1)


def orders(root: int) -> list[list[int]]:
    learn = LearnSettings(minibatches=2, passes=1)
    return [envs.tolist() for envs in update._minibatches(N, learn, (root, 3))]


# ---------------------------------------------------------------------------------- nothing is read back


READS = ("tolist", "item", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__")


class Scalars(TorchDispatchMode):
    """Counts what asks a device for one number."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@contextmanager
def reads() -> Iterator[list[str]]:
    """Names of the methods by which tensors are read, in the order of their calls."""
    found: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            found.append(name)
            return original(self, *args, **kwargs)

        return read

    with mock.patch.multiple(Tensor, **{name: watched(name) for name in READS}), Scalars() as scalars:
        yield found
    assert scalars.calls <= len(found), "a number was read by a way that this test does not know"


@pytest.mark.parametrize("name", ["sgd", "momentum"])
@pytest.mark.parametrize("case", ["plain", "stopped", "broken"])
@pytest.mark.parametrize("value_clip", [None, 0.2])
def test_an_update_reads_once(name: str, case: str, value_clip: float | None) -> None:
    """However many steps are taken, stopped or left out. (Adam on a CPU reads its own counters there.)"""
    actor = Table()
    optimizer = OPTIMIZERS[name](actor.parameters())
    part = part_of(actor)
    if case == "broken":
        part = broken(part, "target", 0, float("nan"))
    with reads() as found:
        told = take(
            actor,
            optimizer,
            part,
            passes=3,
            minibatches=2,
            kl_limit=1e-6 if case == "stopped" else 1e9,
            value_clip=value_clip,
        )
    assert found == ["tolist"]
    assert told["steps"] == {"plain": 6, "stopped": 1, "broken": 3}[case]


def test_the_counter_of_reads_sees_every_kind() -> None:
    x = torch.ones(())
    kinds: list[Callable[[], Any]] = [
        lambda: bool(x),
        lambda: float(x),
        lambda: int(x),
        lambda: np.asarray(x),
    ]
    for read in (*kinds, lambda: x.item(), lambda: x.tolist(), lambda: x.numpy(), lambda: x.cpu()):
        with reads() as found:
            read()
        assert found


# ------------------------------------------------------------------------------------------ what it does


@pytest.mark.property
@many
@given(
    seeds,
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_rate_and_price_of_certainty_fall_linearly(
    seed: int, progress: float, lr_end: float, entropy_end: float
) -> None:
    """From 1 to their end: a step for nothing but entropy is rate times price as long as at the start."""
    steps = []
    for p in (0.0, progress):
        actor, before = Table(seed), Table(seed)
        part = part_of(actor, seed)
        part = attrs.evolve(part, advantage=torch.zeros_like(part.advantage))
        optimizer = torch.optim.SGD(actor.parameters(), 1.0)
        learn = LearnSettings(
            passes=1,
            minibatches=1,
            value=0.0,
            entropy=0.5,
            max_norm=1e9,
            lr=0.1,
            lr_end=lr_end,
            entropy_end=entropy_end,
        )
        improve(actor, optimizer, part, learn, scale=1.0, keys=(0, 0), progress=p)
        steps.append((actor.op - before.op).detach())
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * (1 + (lr_end - 1) * p))
    share = (1 + (lr_end - 1) * progress) * (1 + (entropy_end - 1) * progress)
    torch.testing.assert_close(steps[1], share * steps[0], rtol=1e-9, atol=1e-13)
    assert steps[0].any()


class InUnits(Table):
    """Its values of every environment are in a unit of their own, which the trace tells."""

    def judge(self, trace: Mapping[str, Tensor], heads: Tensor) -> Judged:
        said = super().judge(trace, heads)
        return said._replace(value=said.value * trace["unit"])


@pytest.mark.acceptance("RL-06")
@pytest.mark.property
@many
@given(seeds, st.sampled_from([None, 0.1]))
def test_every_environment_is_learned_from_in_its_own_unit(seed: int, value_clip: float | None) -> None:
    """N8: where returns of some environments are in another unit, and so is their scale, nothing changes."""
    found = []
    for unit in ([1.0] * N, [1.0, 1e3, 1.0, 1e-3]):
        scale = torch.tensor(unit, dtype=torch.float64)
        actor = InUnits(seed)
        part = part_of(Table(seed), seed)
        part = attrs.evolve(part, trace={"unit": scale.expand(T, N)}, target=part.target * scale)
        optimizer = adam(actor)
        learn = LearnSettings(passes=1, minibatches=2, value_clip=value_clip)
        improve(actor, optimizer, part, learn, scale=2.0 * scale, keys=(0, 0), progress=0.0)
        found.append(everything(actor, optimizer))
    for key, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][key], rtol=1e-9, atol=1e-12)


def played(actor: Table, favoured: int, uniforms: Any) -> Rollout:
    """One round in which one operation is paid and no other."""
    rollout = Rollout.empty(T, N)
    lead = (T, N)
    with torch.no_grad():
        for k, (p, _) in enumerate(actor.heads(lead)):
            rollout.heads[..., k] = sample(p, torch.from_numpy(uniforms[..., k])).numpy()
    rollout.reward[:] = (rollout.heads[..., 0] == favoured).astype(float)
    rollout.played[:] = True
    rollout.terminated[-1] = True
    return rollout


@pytest.mark.parametrize(("favoured", "updates"), [(0, 200), (1, 200), (2, 50), (3, 50), (4, 50), (5, 50)])
def test_entropy_never_collapses(favoured: int, updates: int) -> None:
    """After many updates for one operation every other one still has a chance, and gradients.

    Of the loss, and of its own log-probability: a floor that replaces small probabilities has none there.
    """
    actor = Table(dtype=torch.float32)
    optimizer = adam(actor)
    learn = LearnSettings(lr=0.1, lr_end=1.0, passes=2, minibatches=1)
    draw = np.random.default_rng(0)
    for number in range(updates):
        rollout = played(actor, favoured, draw.random((T, N, 7)))
        part = experience(actor, rollout, USED.expand(T, N, 7), learn)
        improve(actor, optimizer, part, learn, scale=1.0, keys=(0, number), progress=0.0)
    chances = actor.heads((1, 1))[0][0][0, 0]
    assert chances.argmax() == favoured
    assert chances[favoured] > 0.8
    assert float(chances.detach().min()) >= FLOOR * (1 - 1e-6)
    rollout = played(actor, favoured, draw.random((T, N, 7)))
    part = experience(actor, rollout, USED.expand(T, N, 7), learn)
    loss, _ = losses(actor.judge({}, part.heads), part, learn, 1.0, learn.entropy)
    (grad,) = torch.autograd.grad(loss, [actor.op])
    assert (grad != 0).all()
    for op in range(OPS):
        (own,) = torch.autograd.grad(actor.heads(())[0][0][op].log(), [actor.op])
        assert own[op] > 0
