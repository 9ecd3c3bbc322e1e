"""Gradient statistics of an epoch, and the moving averages over epochs."""

import numpy as np
import pytest
from attrs import evolve
from hand_made import PLAIN, SEEDS, World, batches, spoiled, train_of
from worlds import EVERYTHING, cast_of, epochs, program, script, spirals, step

from esper_core.state.settings import GrowthSettings
from esper_core.state.slots import Stage


@pytest.mark.acceptance("GR-04")
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_explosion_in_any_batch_shows_in_the_record_of_the_epoch(at: int) -> None:
    problem = spoiled(spirals(), 6, 1e7)
    indices = batches(1, 3, offset=8)
    indices[0, at, 0] = 6
    _, seeds = SEEDS["mlp"]
    world = World(program(problem, train=train_of()), 1, *seeds)
    calm = world.train(batches(1, 3, offset=8), rate=0.0)
    found = world.train(indices, rate=0.0)
    assert calm.host.largest[0] < 100 < 1e4 < found.host.largest[0]
    assert calm.host.exploded[0] == 0.0 < found.host.exploded[0]
    assert found.host.health[0] < calm.host.health[0]
    assert found.host.root_mean_square[0] > 1e3
    assert found.host.nonfinite[0] == 0


@pytest.mark.acceptance("GR-04")
def test_the_order_of_batches_does_not_change_the_record() -> None:
    """At rate 0 nothing moves, so that batches can be exchanged."""
    problem = spoiled(spirals(), 3, 1e4)
    _, seeds = SEEDS["mlp"]
    indices = batches(2, 4)
    records = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        world = World(program(problem, train=train_of()), 2, *seeds)
        records.append(world.train(indices[:, order], rate=0.0))
    for kind in ("host", "seeds"):
        one, other = (getattr(counts, kind) for counts in records)
        for name in ("steps", "largest", "smallest", "nonfinite", "vanished", "exploded", "culprit"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_allclose(one.square, other.square, rtol=1e-12)


@pytest.mark.acceptance("GR-04")
def test_only_sampled_steps_count() -> None:
    _, seeds = SEEDS["mlp"]
    world = World(program(spirals(), train=train_of()), 1, *seeds)
    found = world.train(batches(1, 5), rate=0.0, sampled=np.asarray([True, False, False, True, False]))
    assert found.host.steps.tolist() == [2]
    assert found.seeds.steps.tolist() == [[2, 2]]
    alone = World(program(spirals(), train=train_of()), 1, *seeds).train(batches(1, 5)[:, [0, 3]], rate=0.0)
    np.testing.assert_array_equal(found.host.square, alone.host.square)


@pytest.mark.acceptance("GR-13", "GR-14")
@pytest.mark.parametrize(
    ("setting", "field"), [("ratio_memory", "gradient_ratio"), ("velocity_memory", "velocity")]
)
def test_a_moving_average_forgets_as_fast_as_its_setting_says(setting: str, field: str) -> None:
    """Played once to learn the measurements, which no memory changes; then the averages by hand."""
    steps = (
        step(0, "germinate", "block0", blueprint="linear", target=1.0, speed=0),
        step(1, "advance", "block0"),
    )
    fast = evolve(PLAIN, momentum=0.9)
    train = train_of(epochs=6, train_batches=8, host=fast, seed=fast)

    def curve(memory: float) -> list[float]:
        growth = GrowthSettings(**{**EVERYTHING, setting: memory})
        problem = spirals(samples=200, turns=0.5, width=8)
        world = cast_of(program(problem, train=train, growth=growth, root=2), script(*steps))
        return [float(getattr(episode.evidence, field)[0, 0]) for episode, _ in epochs(world)]

    raw, half, slow = curve(0.0), curve(0.5), curve(0.9)
    for memory, averaged in ((0.5, half), (0.9, slow)):
        expected = float("nan")
        for new, found in zip(raw, averaged, strict=True):
            expected = new if np.isnan(expected) else memory * expected + (1 - memory) * new
            np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert half[-1] != slow[-1]
    assert np.isfinite(half[-1])


def test_a_seed_that_does_not_train_has_no_gradient_statistics() -> None:
    """Nothing was measured, and unknown is neither healthy nor zero."""
    make, _ = SEEDS["mlp"]
    fossils = (0, "linear", Stage.FOSSILIZED, 1.0), (1, "lowrank", Stage.FOSSILIZED, 1.0)
    world = World(program(make(), train=train_of()), 1, *fossils)
    found = world.train(batches(1, 2), training=np.asarray([[False, True]]))
    assert found.seeds.steps.tolist() == [[0, 2]]
    assert np.isnan(found.seeds.health[0, 0])
    assert np.isnan(found.seeds.root_mean_square[0, 0])
    assert found.seeds.health[0, 1] > 0
