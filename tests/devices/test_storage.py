"""Stacked storage: modules on views of rows, export and adoption, and rows that do not feel each other."""

from functools import partial
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from worlds import (
    assert_same,
    cast_of,
    digits,
    epochs,
    pictures,
    plan_of,
    play,
    program,
    rows_of,
    script,
    spirals,
    step,
    table_of,
)

from esper_core.model.program import Program
from esper_core.phases import collect
from esper_core.phases.collect import Cast, Episode
from esper_core.plugin import PluginError
from esper_core.rules import lifecycle
from esper_core.state.settings import OptimizerSettings, TrainSettings
from esper_core.state.slots import SlotTable, Stage
from esper_plugins.devices import single
from esper_plugins.devices.blocks import Block, Layout, bind
from esper_plugins.devices.settings import Single
from esper_plugins.policies import random

LIKE = torch.empty(0, dtype=torch.float64)
ADAMW = OptimizerSettings(name="adamw", lr=0.02, weight_decay=0.1)
TRAIN = TrainSettings(epochs=12, batch_size=8, train_batches=2)


# ------------------------------------------------------------------ blocks


class Mixed(nn.Module):
    """Shared and frozen parameters, buffers of several types, one that a state_dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.same = self.one
        self.again = nn.Linear(3, 3, bias=False)
        self.again.weight = self.one.weight
        self.fixed = nn.Parameter(torch.rand(2), requires_grad=False)
        self.norm = nn.BatchNorm1d(3)
        self.many = nn.ParameterList([nn.Parameter(torch.rand(2, 2)), nn.Parameter(torch.rand(1))])
        self.register_buffer("hidden", torch.rand(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.again(self.same(self.one(x))) * self.hidden)
        return h * self.fixed.sum() + self.many[0].sum() * self.many[1]


def stacked(rows: int = 3) -> tuple[list[nn.Module], Block]:
    torch.manual_seed(0)
    modules: list[nn.Module] = [Mixed().double() for _ in range(rows)]
    return modules, Block.of(modules, Layout.of(modules[0]), ("momentum",), LIKE)


def test_a_block_holds_every_tensor_of_its_modules_once() -> None:
    modules, block = stacked()
    assert block.layout.names == tuple(n for n, p in modules[0].named_parameters() if p.requires_grad)
    assert set(block.layout.buffers) == {
        "fixed", "hidden", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"
    }  # fmt: skip
    assert block.values.shape == (3, sum(p.numel() for p in modules[0].parameters() if p.requires_grad))
    named = dict(block.tensors())
    for row, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            kind = "parameters" if parameter.requires_grad else "buffers"
            assert torch.equal(named[f"{kind}/{name}"][row], parameter)
        for name, buffer in module.named_buffers():
            assert torch.equal(named[f"buffers/{name}"][row], buffer)
    assert named["buffers/norm.num_batches_tracked"].dtype == torch.int64
    assert not named["momentum/one.weight"].any()


def test_a_bound_module_computes_the_same_and_trains_its_row() -> None:
    modules, block = stacked()
    x = torch.randn(5, 3, dtype=torch.float64)
    expected = [module.eval()(x) for module in modules]
    bound = [bind(module, block, row) for row, module in enumerate(modules)]
    for row, module in enumerate(modules):
        assert torch.equal(module(x), expected[row])
        assert module.again.weight is module.one.weight is module.same.weight
        assert [tuple(p.shape) for p in bound[row]] == [tuple(shape) for shape in block.layout.shapes]
    block.values[1] += 1.0
    assert torch.equal(modules[0](x), expected[0])
    assert not torch.allclose(modules[1](x), expected[1])
    before = block.buffers["norm.running_mean"].clone()
    modules[2].train()(x)
    assert torch.equal(block.buffers["norm.running_mean"][:2], before[:2])
    assert not torch.equal(block.buffers["norm.running_mean"][2], before[2])
    assert block.buffers["norm.num_batches_tracked"].tolist() == [0, 0, 1]


def test_rows_are_taken_and_joined_as_copies() -> None:
    _, block = stacked()
    block.state["momentum"].copy_(torch.rand_like(block.values))
    block.steps.copy_(torch.tensor([5, 6, 7]))
    swapped = block.take([2, 0])
    joined = swapped.join(block.take([1]))
    assert joined.rows == 3
    for (name, one), (_, other) in zip(joined.tensors(), block.tensors(), strict=True):
        assert torch.equal(one, other[[2, 0, 1]]), name
    joined.values.zero_()
    assert bool(block.values.any())


class Hoarder(nn.Module):
    """A module that keeps its tensors in a list of its own, and some recurrent layers, which do so too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.lstm = nn.Linear(3, 4), nn.LSTM(4, 2, batch_first=True)
        self.mine = [self.layer.weight, self.layer.bias]

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.lstm(nn.functional.linear(x, *self.mine).unsqueeze(1).expand(-1, 2, -1))[0]
        return h


def test_a_module_may_refer_to_its_tensors_in_any_way() -> None:
    torch.manual_seed(0)
    modules: list[nn.Module] = [Hoarder().double() for _ in range(2)]
    x = torch.randn(5, 3, dtype=torch.float64)
    expected = [module(x) for module in modules]
    block = Block.of(modules, Layout.of(modules[0]), (), LIKE)
    for row, module in enumerate(modules):
        bound = bind(module, block, row)
        assert torch.equal(module(x), expected[row])
        assert all(bool(g.any()) for g in torch.autograd.grad(module(x).sum(), bound))
    block.values[0] *= 0.5
    assert not torch.allclose(modules[0](x), expected[0])
    assert torch.equal(modules[1](x), expected[1])


class Other(Mixed):
    def __init__(self, change: str) -> None:
        super().__init__()
        if change == "more":
            self.extra = nn.Parameter(torch.zeros(1))
        if change == "less":
            self.many = nn.ParameterList([nn.Parameter(torch.rand(2, 2))])
        if change == "shape":
            self.many[1] = nn.Parameter(torch.rand(4))
        if change == "buffer":
            self.register_buffer("more", torch.zeros(1))
        if change == "frozen":
            self.norm.bias.requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "name"),
    [("more", "extra"), ("less", "many.1"), ("shape", "many.1"), ("buffer", "more"), ("frozen", "norm.bias")],
)
def test_modules_of_different_structure_are_refused(change: str, name: str) -> None:
    modules = [Mixed(), Other(change)]
    with pytest.raises(PluginError, match=rf"two modules of one builder \(Other\) differ in '{name}'"):
        Block.of(modules, Layout.of(modules[0]), (), LIKE)


# ------------------------------------------------------------------ rows that do not feel each other


@pytest.mark.acceptance("X-02", "X-09")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("make", "train"),
    [
        (partial(digits, width=32), evolve(TRAIN, batch_size=32)),
        (spirals, evolve(TRAIN, host=ADAMW, seed=ADAMW, clip_scope="joint")),
        (pictures, TRAIN),
    ],
    ids=["digits-sgd", "spirals-adamw-joint", "pictures-sgd"],
)
def test_an_added_environment_leaves_the_others_alone(make: Any, train: TrainSettings, dtype: Any) -> None:
    """Bit for bit: what environment 7 does, earns and weighs is the same alone and among others."""
    world = program(make(), train=train)
    alone, expected = history(cast_of(world, random.build, dtype), (7,), 7)
    assert (alone.rollout.heads[:, 0, 0] > 0).sum() >= 3
    assert any(name.startswith("pool/") for state in expected for name in state)
    for envs in ((0, 7), (9, 8, 7, 2, 1)):
        among, found = history(cast_of(world, random.build, dtype), envs, 7)
        for mine, theirs in zip(expected, found, strict=True):
            assert_same(mine, theirs)
        for field in ("heads", "refused", "reward", "score", "committed"):
            mine, theirs = (getattr(e.rollout, field) for e in (alone, among))
            np.testing.assert_array_equal(mine[:, 0], theirs[:, envs.index(7)])


def history(cast: Cast, envs: tuple[int, ...], number: int) -> tuple[Episode, list[dict[str, Tensor]]]:
    """The episode, and everything about one environment after every epoch."""
    row, states = envs.index(number), []
    for episode, report in epochs(cast, envs):
        state = rows_of(cast.device.export(episode.tensors), episode.slots, row)
        for record in (report.attribution, report.counts.host, report.counts.seeds):
            for field in attrs.fields(type(record)):
                state[f"{type(record).__name__}/{field.name}"] = torch.tensor(
                    getattr(record, field.name)[row]
                )
        states.append(state)
    return episode, states


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_repeats_itself_bit_for_bit(dtype: Any) -> None:
    one, other = (
        play(cast_of(program(pictures(dropout=0.3), train=TRAIN), random.build, dtype), range(3))
        for _ in "ab"
    )
    assert_same(one.tensors, other.tensors)
    np.testing.assert_array_equal(one.episode.rollout.reward, other.episode.rollout.reward)


def test_rounds_and_roots_are_different_worlds() -> None:
    rewards = [
        play(cast_of(program(spirals(), train=TRAIN, root=root), random.build), range(3), round_index=index)
        .episode.rollout.score.tolist()
        for root, index in ((0, 0), (0, 1), (1, 0))
    ]  # fmt: skip
    assert rewards[0] != rewards[1] != rewards[2] != rewards[0]


# ------------------------------------------------------------------ export and adoption


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [spirals, pictures])
@pytest.mark.parametrize("optimizer", [OptimizerSettings(), ADAMW], ids=["sgd", "adamw"])
def test_an_adopted_export_goes_on_bit_for_bit(make: Any, dtype: Any, optimizer: OptimizerSettings) -> None:
    """Interrupted in mid-episode, with seeds of every stage, on a device that has never seen them."""
    world = program(make(), train=evolve(TRAIN, host=optimizer, seed=optimizer))
    whole = play(cast_of(world, random.build, dtype), range(4))
    cast = cast_of(world, random.build, dtype)
    for episode, _ in epochs(cast, range(4)):
        if episode.epoch == 7:
            break
    arrays = cast.device.export(episode.tensors)
    assert any(name.startswith("pool/") for name in arrays)
    fresh = cast_of(world, random.build, dtype)
    adopted = fresh.device.adopt(arrays, episode.slots, episode.envs, episode.round_index)
    assert_same(fresh.device.export(adopted), arrays)
    episode = evolve(episode, tensors=adopted)
    while episode.epoch < world.train.epochs:
        episode, _ = collect.advance(fresh, episode)
    assert_same(fresh.device.export(episode.tensors), whole.tensors)
    np.testing.assert_array_equal(episode.rollout.reward, whole.episode.rollout.reward)


def test_a_host_that_diverged_is_adopted_with_its_seeds() -> None:
    """G1 asks whether a newborn may start; it has no say when what was there is put back."""
    world = program(spirals(), train=TRAIN)
    table = table_of(world, 2, (0, "lowrank", Stage.TRAINING, 1.0))
    device = single.build(world, Single())
    arrays = dict(device.export(device.adopt(*_with_seeds(world, table))))
    arrays["host/parameters/segments.0.0.weight"] = torch.full_like(
        arrays["host/parameters/segments.0.0.weight"], float("inf")
    )
    assert_same(device.export(device.adopt(arrays, table, np.arange(2), 0)), arrays)


def _with_seeds(world: Program, table: SlotTable) -> tuple[Any, ...]:
    device = single.build(world, Single())
    tensors, _ = device.edit(
        device.start(np.arange(2), 0), lifecycle.edits(SlotTable.empty(*table.shape), table)
    )
    return device.export(tensors), table, np.arange(2), 0


def test_an_export_is_a_copy_on_the_cpu() -> None:
    world = program(pictures(), train=TRAIN)
    table = table_of(world, 2, (0, "norm", Stage.HOLDING, 1.0))
    device = single.build(world, Single())
    tensors = device.adopt(*_with_seeds(world, table))
    arrays = device.export(tensors)
    copies = {name: tensor.clone() for name, tensor in arrays.items()}
    device.train(tensors, plan_of(world, table, np.arange(32).reshape(2, 2, 8) % 30))
    assert_same(arrays, copies)
    assert all(t.device.type == "cpu" and t.is_contiguous() for t in arrays.values())
    assert len({t.untyped_storage().data_ptr() for t in arrays.values()}) == len(arrays)


def test_precision_is_a_setting_of_the_device() -> None:
    found = {}
    for dtype in ("float32", "float64"):
        played = play(
            cast_of(
                program(pictures(), train=TRAIN),
                script(step(0, "germinate", "behind", blueprint="norm")),
                dtype,
            )
        )
        found[dtype] = {
            t.dtype for name, t in played.tensors.items() if "steps" not in name and "num_batches" not in name
        }
    assert found == {"float32": {torch.float32}, "float64": {torch.float64}}


def test_a_strategy_names_what_its_results_depend_on_and_gives_the_threads_back() -> None:
    threads = torch.get_num_threads()
    device = single.build(program(spirals()), Single(threads=2))
    assert torch.get_num_threads() == 2
    assert device.fingerprint["threads"] == 2
    assert {"strategy", "dtype", "place", "threads", "torch"} <= set(device.fingerprint)
    device.close()
    assert torch.get_num_threads() == threads
