"""Optimizers over blocks of rows: equal to torch.optim; a row that is left out stays as it is."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper_core.state.settings import OptimizerSettings
from esper_plugins.devices.blocks import Block, Layout
from esper_plugins.devices.optimizers import STATE, step

SETTINGS = {
    "sgd": OptimizerSettings(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.02),
    "plain-sgd": OptimizerSettings(name="sgd", lr=0.1, momentum=0.0, weight_decay=0.0),
    "adamw": OptimizerSettings(name="adamw", lr=0.01, weight_decay=0.3),
    "adamw-other-betas": OptimizerSettings(
        name="adamw", lr=0.05, beta1=0.5, beta2=0.7, eps=1e-3, weight_decay=0.0
    ),
}
RATES = (1.0, 0.3, 0.7, 0.0, 0.1)
ROWS = 3


def block_of(settings: OptimizerSettings, dtype: torch.dtype = torch.float64, rows: int = ROWS) -> Block:
    modules = []
    for row in range(rows):
        module = nn.Linear(3, 2)
        with torch.no_grad():
            for index, parameter in enumerate(module.parameters()):
                parameter.copy_(noise(parameter.shape, 10 * row + index))
        modules.append(module)
    return Block.of(modules, Layout.of(modules[0]), STATE[settings.name], torch.empty(0, dtype=dtype))


def noise(shape: Any, key: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(key), dtype=torch.float64).to(dtype)


def torch_optimizer(settings: OptimizerSettings, parameter: nn.Parameter) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return torch.optim.SGD(
            [parameter], lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(
        [parameter],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


@pytest.mark.parametrize("settings_", SETTINGS.values(), ids=SETTINGS)
def test_updates_equal_those_of_torch(settings_: OptimizerSettings) -> None:
    """Several rows with gradients, rates and step counts of their own, over several steps."""
    block = block_of(settings_)
    parameters = [nn.Parameter(row.clone()) for row in block.values]
    optimizers = [torch_optimizer(settings_, p) for p in parameters]
    for t, rate in enumerate(RATES):
        gradient = noise(block.values.shape, 100 + t)
        takes = torch.tensor([True, t != 1, t >= 2])
        step(block, gradient, settings_, rate, takes)
        for row in range(ROWS):
            if takes[row]:
                parameters[row].grad = gradient[row].clone()
                optimizers[row].param_groups[0]["lr"] = rate * settings_.lr
                optimizers[row].step()
        torch.testing.assert_close(
            block.values, torch.stack([p.detach() for p in parameters]), rtol=0, atol=1e-12
        )
    assert block.steps.tolist() == [5, 4, 3]


@pytest.mark.parametrize("bad", [0.0, 1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings_", SETTINGS.values(), ids=SETTINGS)
def test_a_row_that_is_left_out_stays_bit_for_bit(
    settings_: OptimizerSettings, dtype: torch.dtype, bad: float
) -> None:
    """Whatever its gradient is: the update is selected, not multiplied by 0."""
    block = block_of(settings_, dtype)
    everyone = torch.ones(ROWS, dtype=torch.bool)
    step(block, noise(block.values.shape, 0, dtype), settings_, 1.0, everyone)
    before = {name: tensor.clone() for name, tensor in block.tensors()}
    gradient = noise(block.values.shape, 1, dtype)
    gradient[1] = bad
    step(block, gradient, settings_, 1.0, torch.tensor([True, False, True]))
    for name, tensor in block.tensors():
        assert torch.equal(tensor[1], before[name][1]), name
        assert bool(torch.isfinite(tensor).all()), name
    assert not torch.equal(block.values[0], before["parameters/weight"][0].flatten())
    assert block.steps.tolist() == [2, 1, 2]


@pytest.mark.property
@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(SETTINGS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    rows=st.integers(1, 6),
    takes=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4),
)
def test_rows_do_not_feel_each_other(
    name: str, dtype: torch.dtype, rows: int, takes: list[list[bool]]
) -> None:
    """Bit for bit, a row is what it is in a block of its own."""
    settings_ = SETTINGS[name]
    together = block_of(settings_, dtype, rows)
    alone = [block_of(settings_, dtype, rows).take([row]) for row in range(rows)]
    for t, mask in enumerate(takes):
        gradient = noise(together.values.shape, t, dtype)
        step(together, gradient, settings_, 0.5, torch.tensor(mask[:rows]))
        for row, block in enumerate(alone):
            step(block, gradient[row : row + 1], settings_, 0.5, torch.tensor(mask[row : row + 1]))
    for row, block in enumerate(alone):
        for (label, one), (_, other) in zip(together.tensors(), block.tensors(), strict=True):
            assert torch.equal(one[row], other[0]), label
