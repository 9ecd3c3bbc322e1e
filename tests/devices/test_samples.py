"""How many samples are seen, and that every one counts the same."""

from typing import Any

import numpy as np
import pytest
import torch
from hand_made import World, batches, train_of
from torch import nn
from worlds import cast_of, digits, epochs, play, program, spirals

from esper_core.state.settings import TrainSettings
from esper_plugins.policies import static


def count_loss(world: World, indices: Any) -> tuple[float, float]:
    """Loss and score of a host that stands still, summed sample by sample."""
    problem, host = world.program.problem, world.tensors.host(0).eval()
    losses, scores = [], []
    for index in indices.reshape(-1):
        rows = slice(int(index), int(index) + 1)
        with torch.no_grad():
            output = host.segments[2](host.segments[1](host.segments[0](problem.fit.inputs[rows].double())))
            losses.append(float(problem.loss(output, problem.fit.targets[rows])))
            scores.append(float(problem.score(output, problem.fit.targets[rows])))
    return sum(losses), sum(scores)


@pytest.mark.acceptance("ME-04", "X-08")
def test_the_training_loss_is_a_sum_over_samples() -> None:
    world = World(program(digits(blocks=1), train=train_of()), 1)
    indices = batches(1, 3, samples=1000)
    counts = world.train(indices, rate=0.0)
    loss, score = count_loss(world, indices)
    assert counts.samples == 24
    np.testing.assert_allclose(counts.loss_sum[0], loss, rtol=1e-12)
    assert counts.score_sum[0] == score


@pytest.mark.acceptance("ME-03", "ME-04", "X-08")
@pytest.mark.parametrize(
    ("batch", "limit", "steps"),
    [(8, 1, 1), (8, 4, 4), (8, 5, 4), (8, 99, 4), (8, None, 4), (5, 3, 3), (36, None, 1)],
)
@pytest.mark.parametrize("validation", [None, 1, 2, 99])
def test_limits_of_training_and_validation_are_their_own(
    batch: int, limit: int | None, steps: int, validation: int | None
) -> None:
    """36 samples to fit, 12 to validate on; shorter, equal and longer limits, with uneven last chunks."""
    train = TrainSettings(epochs=1, batch_size=batch, train_batches=limit, validation_batches=validation)
    world = cast_of(program(spirals(samples=60), train=train), static.build)
    problem = world.program.problem
    assert (len(problem.fit), len(problem.validation)) == (36, 12)
    seen: list[Any] = []
    evaluate = world.device.evaluate
    world.device.evaluate = lambda tensors, plan: seen.append(evaluate(tensors, plan)) or seen[-1]
    ((episode, report),) = epochs(world)
    assert report.counts.samples == steps * batch
    looked_at = 12 if validation is None else min(12, validation * batch)
    assert seen[0].samples == looked_at
    host = episode.tensors.host(0).eval()
    x, y = problem.validation.inputs.double()[:looked_at], problem.validation.targets[:looked_at]
    with torch.no_grad():
        for segment in host.segments:
            x = segment(x)
    np.testing.assert_allclose(episode.signals.loss[0], float(nn.functional.cross_entropy(x, y)), rtol=1e-12)
    np.testing.assert_allclose(
        episode.signals.score[0], float((x.argmax(1) == y).double().mean()), rtol=1e-12
    )


@pytest.mark.acceptance("ME-04", "X-08")
def test_every_environment_draws_its_own_full_batches_and_the_remainder_rotates() -> None:
    """Sampled without replacement within an epoch; over epochs every sample gets its turn."""
    world = cast_of(program(spirals(samples=60), train=train_of(epochs=8, batch_size=10)), static.build)
    plans: list[Any] = []
    train = world.device.train
    world.device.train = lambda tensors, plan: (plans.append(plan), train(tensors, plan))[1]
    play(world, (0, 1))
    for plan in plans:
        assert plan.indices.shape == (2, 3, 10)
        for env in range(2):
            assert len(np.unique(plan.indices[env])) == 30
        assert not np.array_equal(plan.indices[0], plan.indices[1])
    assert not np.array_equal(plans[0].indices, plans[1].indices)
    assert len(np.unique(np.concatenate([plan.indices[0].ravel() for plan in plans]))) == 36
