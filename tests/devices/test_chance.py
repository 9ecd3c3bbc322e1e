"""What modules draw: keyed, restored, and nobody else moves it."""

from typing import Any

import numpy as np
import pytest
import torch
from hand_made import World, batches, train_of
from torch import nn
from worlds import assert_same, cast_of, pictures, play, program, script, step

from esper_core.model.hosts import Site
from esper_core.model.parts import Part
from esper_core.model.program import Program
from esper_core.state.slots import Stage
from esper_plugins.policies import static


def random_seed(site: Site) -> nn.Module:
    last = nn.Conv2d(site.width, site.width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Dropout(0.5), last)


DROPPING = Part(name="test/dropping", build="", call=random_seed)


def dropping(**changes: Any) -> Program:
    return program(pictures(dropout=0.5), train=train_of(train_batches=2, **changes), parts=[DROPPING])


@pytest.mark.acceptance("X-09")
def test_training_leaves_the_global_generator_alone_and_does_not_depend_on_it() -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(play(cast_of(dropping(), static.build), (0, 1)))
        assert torch.equal(before, torch.get_rng_state())
    assert_same(found[0].tensors, found[1].tensors)


@pytest.mark.acceptance("X-02", "X-09")
@pytest.mark.parametrize("envs", [(3,), (0, 3), (5, 4, 3, 2, 1)])
def test_what_a_host_draws_depends_on_its_number_alone(envs: tuple[int, ...]) -> None:
    alone = play(cast_of(dropping(), static.build), (3,))
    among = play(cast_of(dropping(), static.build), envs)
    assert_same(alone.alone(0), among.alone(envs.index(3)))


@pytest.mark.acceptance("GR-01")
def test_a_training_seed_that_draws_does_not_move_the_draws_of_its_host() -> None:
    """Dropout in the seed in front of dropout in the host: the host is still, bit for bit, the host alone."""
    steps = (step(0, "germinate", "behind", blueprint="dropping", target=1.0),)
    growing = play(cast_of(dropping(), script(*steps)), (0, 1))
    assert (growing.episode.slots.stage[:, 0] == Stage.TRAINING).all()
    alone = play(cast_of(dropping(), static.build), (0, 1))
    for row in range(2):
        host = {name: t for name, t in growing.alone(row).items() if name.startswith("host/")}
        assert_same(host, alone.alone(row))
        moved = growing.alone(row)["pool/0.0.0/parameters/branch.1.weight"]
        assert bool(moved.any()), "the seed trains"


def test_dropout_draws_anew_in_every_step() -> None:
    """The same batch twice at rate 0: the losses differ, so the masks did."""
    world = World(dropping(), 1)
    same = np.repeat(batches(1, 1), 2, axis=1)
    once = [float(world.train(same[:, :1], rate=0.0, epoch=epoch).loss_sum[0]) for epoch in (0, 0, 1)]
    assert once[0] == once[1] != once[2]
    assert float(world.train(same, rate=0.0).loss_sum[0]) != 2 * once[0]
