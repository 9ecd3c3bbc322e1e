"""Modules on rows: forms that equal their modules; what cannot be stacked is refused before a run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from torch.func import functional_call
from worlds import digits, pictures, program, spirals

from esper_core.errors import ConfigError
from esper_core.model.hosts import Site
from esper_core.model.parts import Part
from esper_core.model.program import Program
from esper_plugins.blueprints.vector import MirroredBottleneck
from esper_plugins.devices import forms, single
from esper_plugins.devices.blocks import Block as Storage
from esper_plugins.devices.blocks import Layout
from esper_plugins.devices.forms import FORMS
from esper_plugins.devices.rowwise import Rowwise
from esper_plugins.devices.settings import Single
from esper_plugins.tasks.hosts import Block

WIDTH, ROWS, SAMPLES = 6, 5, 7
LIKE = torch.empty(0, dtype=torch.float64)
MAKE: dict[type[nn.Module], Callable[[], nn.Module]] = {
    nn.Linear: lambda: nn.Linear(WIDTH, 4),
    **{
        kind: lambda kind=kind: nn.Sequential(nn.Linear(WIDTH, 4), kind())  # type: ignore[misc]
        for kind in (nn.ReLU, nn.GELU, nn.Tanh, nn.Identity)
    },
    Block: lambda: Block(WIDTH, 4, 3),
    MirroredBottleneck: lambda: MirroredBottleneck(WIDTH, 4),
}


def noise(*shape: int, key: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(key), dtype=torch.float64)


def block_of(make: Callable[[], nn.Module], rows: int = ROWS) -> tuple[nn.Module, Storage]:
    """A module, and a block of rows far from birth."""
    modules = [make().double() for _ in range(rows)]
    block = Storage.of(modules, Layout.of(modules[0]), (), LIKE)
    block.values.copy_(noise(*block.values.shape, key=1))
    return modules[0], block


def one_by_one(module: nn.Module, block: Storage, x: Tensor) -> Tensor:
    """What `torch.func` makes of every row."""
    rows = [{name: t[row] for name, t in block.named().items()} for row in range(block.rows)]
    return torch.stack([functional_call(module, row, (x[r],)) for r, row in enumerate(rows)])


# ------------------------------------------------------------------ forms


@pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("rows", [1, ROWS])
def test_a_form_equals_its_module_in_values_and_gradients(kind: type[nn.Module], rows: int) -> None:
    module, block = block_of(MAKE[kind], rows)
    x = noise(rows, SAMPLES, WIDTH).requires_grad_()
    leaves = {name: tensor.detach() for name, tensor in block.named().items()}
    wanted = [x, *(leaves[name].requires_grad_() for name in block.layout.names)]
    found = Rowwise(module)(leaves, x)
    alone = torch.stack(
        [
            functional_call(module, {name: t[row] for name, t in leaves.items()}, (x[row],))
            for row in range(rows)
        ]
    )
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)
    weights = noise(*found.shape, key=2)
    pairs = [torch.autograd.grad((y * weights).sum(), wanted) for y in (found, alone)]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(Rowwise(module)(block.named(), x), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(WIDTH, 4, bias=False),
        lambda: nn.Sequential(
            nn.Linear(WIDTH, 4), nn.Sequential(nn.ReLU(), nn.LayerNorm(4)), nn.Linear(4, 2)
        ),
        lambda: nn.Sequential(nn.LayerNorm(WIDTH), nn.Tanh()),
    ],
)
@pytest.mark.parametrize("shape", [(SAMPLES,), (SAMPLES, 3)])
def test_sequences_of_modules_and_of_positions(make: Any, shape: tuple[int, ...]) -> None:
    module, block = block_of(make)
    x = noise(ROWS, *shape, WIDTH)
    found = Rowwise(module)(block.named(), x)
    torch.testing.assert_close(found, one_by_one(module, block, x), rtol=0, atol=1e-12)


class Quiet(nn.Linear):
    """A linear layer that is no plain one: a form is looked up by the exact type."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


def test_a_subclass_is_not_taken_for_its_base() -> None:
    module, block = block_of(lambda: nn.Sequential(Quiet(WIDTH, 4)))
    x = noise(ROWS, SAMPLES, WIDTH)
    torch.testing.assert_close(Rowwise(module)(block.named(), x), one_by_one(module, block, x))


def test_what_is_in_a_row_stays_there() -> None:
    for make in (*MAKE.values(), lambda: nn.Sequential(nn.LayerNorm(WIDTH))):
        module, block = block_of(make)
        x = noise(ROWS, SAMPLES, WIDTH)
        calm = Rowwise(module)(block.named(), x)
        x[2] = float("nan")
        broken = Rowwise(module)(block.named(), x)
        others = [row for row in range(ROWS) if row != 2]
        assert torch.equal(broken[others], calm[others])
        assert bool(torch.isnan(broken[2]).any())


# ------------------------------------------------------------------ refusals

ELSEWHERE = torch.ones(1, dtype=torch.float64)


class Branching(nn.Module):
    """Control flow that depends on data."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x) if self.training else x


class Hidden(nn.Module):
    """A parameter that no list of parameters knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weights = [torch.randn(width, dtype=torch.float64)]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weights[0]


class Counting(nn.BatchNorm1d):
    """Batch statistics as an average over all batches, which reads a counter."""

    def __init__(self, width: int) -> None:
        super().__init__(width, momentum=None)


def hosting(module: Callable[[], nn.Module]) -> Program:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.segments = nn.ModuleList([nn.Linear(2, 4), module(), nn.Linear(4, 2)])
            self.sites = (Site(name="here", after=0, kind="vector", width=4),)

    return program(evolve(spirals(), host=Part(name="test/strange", build="", call=Strange)))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dropout": (lambda: nn.Dropout(0.5), "it draws random numbers"),
    "noise": (Drawing, "it draws random numbers"),
    "branches": (Branching, r"RuntimeError: .*\.item\(\)"),
    "hidden": (lambda: Hidden(4), "its outputs as one of several rows are not those of the module itself"),
    "counter": (lambda: Counting(4), "RuntimeError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_host_that_cannot_be_stacked_is_refused(name: str) -> None:
    make, reason = REFUSED[name]
    world = hosting(make)
    with pytest.raises(
        ConfigError,
        match=rf"^device\.executor = 'stacked': host test/strange cannot be stacked: {reason}.*; "
        r"use device\.executor = 'loop'$",
    ):
        single.build(world, Single(executor="stacked"))
    single.build(world, Single(dtype="float64"))


@pytest.mark.parametrize("name", REFUSED)
def test_a_blueprint_that_cannot_be_stacked_is_refused(name: str) -> None:
    make, reason = REFUSED[name]
    part = Part(name="test/strange", build="", call=lambda site: nn.Sequential(make(), nn.Linear(4, 4)))
    world = program(evolve(spirals(), host=Part(name="test/plain", build="", call=Plain)), parts=[part])
    with pytest.raises(ConfigError, match=rf"blueprint test/strange \(add\) cannot be stacked: {reason}"):
        single.build(world, Single(executor="stacked"))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.segments = nn.ModuleList([nn.Linear(2, 4), nn.Linear(4, 2)])
        self.sites = (Site(name="here", after=0, kind="vector", width=4),)


def test_a_form_that_is_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FORMS[MirroredBottleneck]
    monkeypatch.setitem(forms.FORMS, MirroredBottleneck, lambda *given: right(*given) * (1 + 1e-6))
    with pytest.raises(ConfigError, match=r"blueprint esper/lowrank \(add\) cannot be stacked: its outputs"):
        single.build(program(digits()), Single(executor="stacked"))


def test_statistics_that_are_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are right, and what a batch leaves behind is not."""

    def forgetful(module: Any, tensors: Any, path: str, x: Tensor) -> Tensor:
        mean, var = x.mean(dim=(1, 3, 4), keepdim=True), x.var(dim=(1, 3, 4), keepdim=True, correction=0)
        if not module.training:
            mean, var = (tensors[f"{path}running_{s}"][:, None, :, None, None] for s in ("mean", "var"))
        weight, bias = (tensors[f"{path}{s}"][:, None, :, None, None] for s in ("weight", "bias"))
        return (x - mean) / (var + module.eps).sqrt() * weight + bias

    monkeypatch.setitem(forms.FORMS, nn.BatchNorm2d, forgetful)
    with pytest.raises(ConfigError, match=r"host test/pictures .*: segments\.0\.1\.running_mean as one of"):
        single.build(program(pictures()), Single(executor="stacked"))


def test_a_trial_leaves_no_trace() -> None:
    """Neither in torch's generator nor in its number of threads, whether it refuses or not."""
    threads = torch.get_num_threads()
    for world in (program(pictures()), hosting(Drawing)):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        try:
            single.build(world, Single(executor="stacked", threads=threads)).close()
        except ConfigError:
            refused = True
        assert torch.equal(before, torch.get_rng_state())
        assert torch.get_num_threads() == threads
    assert refused


def test_a_trial_does_not_mind_data_that_are_not_finite_or_few() -> None:
    problem = spirals()
    for samples in (3, 20):
        inputs = problem.fit.inputs[:samples].clone()
        inputs[1] = float("nan")
        fit = evolve(problem.fit, inputs=inputs, targets=problem.fit.targets[:samples])
        single.build(program(evolve(problem, fit=fit)), Single(executor="stacked"))
    assert np.isnan(fit.inputs.numpy()).any()
