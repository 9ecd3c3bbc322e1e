"""Losses and gradients that are not finite: what is skipped, what is pruned, who does not notice."""

from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hand_made import SEEDS, World, batches, spoiled, train_of
from torch import Tensor, nn
from worlds import assert_same, cast_of, digits, play, program, script, step, table_of

from esper_core.model.hosts import Site
from esper_core.model.parts import Part
from esper_core.rules import lifecycle
from esper_core.rules.lifecycle import Edits
from esper_core.state.settings import OptimizerSettings
from esper_core.state.slots import SlotTable, Stage
from esper_plugins.policies import static


@pytest.mark.parametrize("scope", ["group", "joint"])
@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_loss_that_is_not_finite_skips_the_step_and_stays_at_home(
    name: str, optimizer: Any, scope: Any
) -> None:
    """Environment 0 meets a poisoned batch: that step never happened, and environment 1 notices nothing."""
    make, seeds = SEEDS[name]
    settings = OptimizerSettings(name=optimizer, lr=0.05, weight_decay=0.1)
    train = train_of(host=settings, seed=settings, clip_scope=scope)
    problem = spoiled(make(), 29, float("nan"))
    clean = batches(2, 3, samples=29)
    poisoned = clean.copy()
    poisoned[0, 1, 2] = 29
    hit, spared, skipped = (World(program(problem, train=train), 2, *seeds) for _ in range(3))
    counts, calm = hit.train(poisoned), spared.train(clean)
    skipped.train(clean[:, [0, 2]])
    assert counts.bad_losses.tolist() == [1, 0]
    assert calm.bad_losses.tolist() == [0, 0]
    assert np.isnan(counts.loss_sum[0])
    np.testing.assert_array_equal(counts.loss_sum[1], calm.loss_sum[1])
    assert_same(hit.rows(1), spared.rows(1))
    assert_same(hit.rows(0), skipped.rows(0))
    assert counts.host.nonfinite.tolist() == [1, 0]
    assert counts.host.culprit[0] >= 0


def test_a_loss_that_is_not_finite_skips_the_step_even_if_its_gradient_is() -> None:
    """An infinite constant in the loss of some samples: gradients are finite, and no step is taken."""
    make, seeds = SEEDS["mlp"]
    problem = make()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return problem.loss(outputs, targets) + torch.where(targets == 1, torch.inf, 0.0)

    world = World(program(evolve(problem, loss=loss), train=train_of()), 2, *seeds)
    indices = batches(2, 1)
    indices[1] = np.flatnonzero(problem.fit.targets.numpy() == 0)[:8]
    before = [world.rows(env) for env in range(2)]
    counts = world.train(indices)
    assert counts.bad_losses.tolist() == [1, 0]
    assert not counts.host.nonfinite.any()
    assert_same(world.rows(0), before[0])
    weight = "host/parameters/segments.0.0.weight"
    assert not torch.equal(world.rows(1)[weight], before[1][weight])


class Fragile(nn.Module):
    """A branch whose gradient is infinite where its input is 0, though its change is finite everywhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x == 0, self.weight * 0 + self.weight.abs().sqrt(), self.weight * x)


def fragile(site: Site) -> nn.Module:
    return Fragile(site.width)


@pytest.mark.parametrize("scope", ["group", "joint"])
@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.HOLDING])
def test_a_seed_with_a_broken_gradient_does_not_step_and_does_not_touch_its_host(
    stage: Stage, scope: Any
) -> None:
    """Its own gradient is not finite, while loss and host are fine; dead units make zeros."""
    part = Part(name="test/fragile", build="", call=fragile)
    problem = digits(narrow_width=4)
    world = World(program(problem, train=train_of(clip_scope=scope), parts=[part]), 1)
    world.table = table_of(world.program, 1, (0, "fragile", stage, 1.0))
    world.tensors, built = world.device.edit(world.tensors, germinated(world.table))
    assert built[0, 0]
    before = world.rows(0)
    counts = world.train(batches(1, 2, samples=1000))
    assert counts.bad_losses.tolist() == [0]
    assert counts.host.nonfinite.tolist() == [0]
    assert counts.seeds.nonfinite[0, 0] == 2
    assert counts.seeds.culprit[0, 0] == 0
    after = world.rows(0)
    assert all(bool(torch.isfinite(t).all()) for t in after.values())
    for name, tensor in after.items():
        if name.startswith("pool"):
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(
        after["host/parameters/segments.0.0.weight"], before["host/parameters/segments.0.0.weight"]
    )
    if stage == Stage.TRAINING:
        alone = World(program(problem, train=train_of(clip_scope=scope), parts=[part]), 1)
        alone.train(batches(1, 2, samples=1000))
        assert_same(alone.rows(0), {n: t for n, t in after.items() if n.startswith("host")})


def germinated(table: SlotTable) -> Edits:
    return lifecycle.edits(SlotTable.empty(*table.shape), table)


def test_a_training_seed_that_diverges_is_pruned_on_its_own() -> None:
    """Its host trains on, bit for bit as if the seed had never been there, and the slot is free again."""
    part = Part(name="test/fragile", build="", call=fragile)
    train = train_of(epochs=6, train_batches=2)
    steps = (step(1, "germinate", "block0", blueprint="fragile", target=1.0),)
    growing = play(cast_of(program(digits(), train=train, parts=[part]), script(*steps)), (0, 1))
    alone = play(cast_of(program(digits(), train=train, parts=[part]), static.build), (0, 1))
    assert [report.after.stage[0, 0] for report in growing.reports] == [
        Stage.DORMANT, Stage.TRAINING, Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING, Stage.DORMANT
    ]  # fmt: skip
    for row in range(2):
        assert_same(growing.alone(row), alone.alone(row))
