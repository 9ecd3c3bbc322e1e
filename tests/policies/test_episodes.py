"""The rules in the one loop: whole episodes of real networks."""

from typing import Any

import attrs
import numpy as np
import pytest
from worlds import cast_of, digits, epochs, program

from esper_core.model.program import Program
from esper_core.plugin.protocols import PolicyContext
from esper_core.state.actions import HEADS, Op
from esper_core.state.settings import GrowthSettings, TrainSettings
from esper_core.state.slots import Stage
from esper_plugins.policies import heuristic, lowest_rank, oracle, probe
from esper_plugins.policies.settings import Heuristic, LowestRank, Oracle, Probe

ENVS = (0, 1, 2)
TRAIN = TrainSettings(epochs=8, batch_size=32, train_batches=6)
GROWTH = GrowthSettings(training_dwell=0.1, embargo=0.1, speeds=(0, 2), contact_bound=10.0)


def world() -> Program:
    """Hosts whose narrow blocks differ."""
    return program(digits(blocks=3, narrow="random"), train=TRAIN, growth=GROWTH)


def bottlenecks(played: Program, envs: Any) -> Any:
    names = [played.problem.bottleneck(played.host(0, int(env))) for env in envs]  # type: ignore[misc]
    return np.asarray([played.space.slots.index(name) for name in names])


def told(context: PolicyContext) -> Any:
    """The oracle of `world`."""
    informed = attrs.evolve(context, oracle=lambda envs, round_index: bottlenecks(world(), envs))
    return oracle.build(informed, Oracle())


BUILDERS: dict[str, Any] = {
    "heuristic": lambda context: heuristic.build(context, Heuristic(patience=0, hold_patience=1)),
    "plant-lowest-rank": lambda context: lowest_rank.build(context, LowestRank()),
    "probe-and-switch": lambda context: probe.build(context, Probe(threshold=0.2)),
    "oracle": told,
}


def played(name: str, envs: tuple[int, ...]) -> tuple[Any, Any]:
    """Decisions `[T, N, 7]` of an episode, and its last state; nothing was refused."""
    heads, last = [], None
    for last, report in epochs(cast_of(world(), BUILDERS[name]), envs):  # noqa: B007 - only the last may be used
        assert not report.refused.any()
        heads.append(np.stack([getattr(report.decision, head) for head in HEADS], axis=1))
    return np.stack(heads), last


@pytest.mark.acceptance("HE-04", "HE-05")
@pytest.mark.parametrize("name", BUILDERS)
def test_every_rule_plays_in_the_one_loop_and_alone_as_in_company(name):
    """Plants something, has nothing refused, and does in each environment what it does there alone."""
    heads, _ = played(name, ENVS)
    assert (heads[:, :, 0] == Op.GERMINATE).any(axis=0).all()
    assert np.array_equal(played(name, ENVS[1:2])[0], heads[:, 1:2])


def test_ranks_are_known_after_the_first_epoch_and_the_lowest_is_helped():
    heads, _ = played("plant-lowest-rank", ENVS)
    planted = heads[:, :, 0] == Op.GERMINATE
    assert np.argmax(planted, axis=0).tolist() == [1, 1, 1]
    after_one, _ = next(epochs(cast_of(world(), BUILDERS["plant-lowest-rank"]), ENVS))
    assert heads[1, :, 1].tolist() == after_one.evidence.rank.argmin(axis=1).tolist()


def test_the_oracle_helps_every_host_where_its_block_is_narrow():
    heads, last = played("oracle", ENVS)
    needed = bottlenecks(world(), ENVS)
    assert len(set(needed.tolist())) > 1
    assert heads[0, :, :2].tolist() == [[Op.GERMINATE, slot] for slot in needed]
    committed = last.slots.stage == Stage.FOSSILIZED
    assert committed.sum(axis=1).max() == 1
    assert committed[np.arange(len(ENVS)), needed].any()
