"""Snapshots and restoration: rows come back bit for bit, and nobody else notices."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import World, batches, train_of
from torch import Tensor
from worlds import assert_same, pictures, program, spirals

from esper_core.rules import lifecycle
from esper_core.state.settings import OptimizerSettings
from esper_core.state.slots import SlotTable, Stage
from esper_plugins.devices.snapshots import Snapshot

ENVS = 4
OPTIMIZERS = {
    "sgd": OptimizerSettings(lr=0.05, momentum=0.9),
    "adamw": OptimizerSettings(name="adamw", lr=0.01, weight_decay=0.1),
}
SEEDS: dict[str, Any] = {
    "mlp": (spirals, (0, "linear", Stage.HOLDING, 0.5), (1, "lowrank", Stage.TRAINING, 1.0)),
    "conv": (pictures, (0, "norm", Stage.HOLDING, 0.5), (1, "depthwise", Stage.TRAINING, 1.0)),
}


class Rolled(World):
    """Four environments; the last one has no seed at the first site. Epochs are counted."""

    def __init__(self, name: str = "mlp", optimizer: str = "sgd") -> None:
        make, *seeds = SEEDS[name]
        update = OPTIMIZERS[optimizer]
        super().__init__(program(make(), train=train_of(host=update, seed=update)), ENVS, *seeds)
        self.epoch = 0
        self.remove(3, 0)

    def remove(self, env: int, site: int) -> None:
        self.become(without(self.table, (env, site)))

    def become(self, table: SlotTable) -> None:
        """Seeds that are gone from the table go."""
        self.tensors, _ = self.device.edit(self.tensors, lifecycle.edits(self.table, table))
        self.table = table

    def play(self, epochs: int = 1) -> None:
        for _ in range(epochs):
            self.train(batches(ENVS, 3, offset=7 * self.epoch), epoch=self.epoch)
            self.epoch += 1

    def snapshot(self, last: Snapshot | None, *envs: int) -> Snapshot:
        taken: Snapshot = self.device.snapshot(self.tensors, last, chosen(*envs))
        return taken

    def restore(self, snapshot: Snapshot, *envs: int) -> None:
        self.tensors = self.device.restore(self.tensors, snapshot, chosen(*envs))

    def poison(self, env: int) -> None:
        """NaN or infinite in everything of an environment that can be, and a count that is off."""
        for group in (self.tensors.hosts, *self.tensors.pools.values()):
            for number, (_, tensor) in enumerate(group.block.tensors()):
                if env in group.row:
                    bad = (float("nan"), float("inf"))[number % 2]
                    tensor[group.row[env]] = bad if tensor.is_floating_point() else -7

    def everybody(self) -> list[dict[str, Tensor]]:
        return [self.rows(env) for env in range(ENVS)]


def without(table: SlotTable, *where: tuple[Any, int]) -> SlotTable:
    """A table with some slots empty."""
    emptied = deepcopy(table)
    for env, site in where:
        for column in (emptied.blueprint, emptied.blend, emptied.seed):
            column[env, site] = -1
        emptied.stage[env, site] = Stage.DORMANT
    return emptied


def chosen(*envs: int) -> Any:
    return np.isin(np.arange(ENVS), envs)


EVERYONE = tuple(range(ENVS))


@pytest.fixture(params=[(n, o) for n in SEEDS for o in OPTIMIZERS], ids="-".join)
def world(request: pytest.FixtureRequest) -> Rolled:
    return Rolled(*request.param)


def assert_everybody(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert_same(mine, theirs)


def test_a_poisoned_environment_comes_back_and_nobody_else_notices(world: Rolled) -> None:
    """Environments are blessed at epochs of their own; all of a row is compared, in every environment."""
    world.play()
    first = world.everybody()
    snapshot = world.snapshot(None, *EVERYONE)
    world.play()
    second = world.everybody()
    snapshot = world.snapshot(snapshot, 1, 3)
    world.play()
    world.poison(0)
    before = world.everybody()
    world.restore(snapshot, 0)
    assert_everybody(world.everybody(), [first[0], *before[1:]])
    world.restore(snapshot, *EVERYONE)
    assert_everybody(world.everybody(), [first[0], second[1], first[2], second[3]])
    kinds = {name.split("/")[-2] for name in first[0] if not name.endswith("steps")}
    assert kinds >= {"parameters"} | (
        {"momentum"} if "host/momentum" in str(first[0]) else {"first", "second"}
    )
    moved = {name for name, t in first[0].items() if not torch.equal(t, second[0][name])}
    assert len(moved) > len(first[0]) / 2
    assert any("buffers" in name for name in moved) == ("pictures" in str(world.program.problem.host.name))


def test_after_a_restoration_training_goes_on_as_if_there_had_been_nothing_else(world: Rolled) -> None:
    """Modules are still bound to the rows: epochs 1 and 2 come out the same the second time."""
    world.play()
    snapshot = world.snapshot(None, *EVERYONE)
    world.play(2)
    straight = world.everybody()
    modules = [world.tensors.host(env) for env in range(ENVS)]
    world.poison(0)
    world.poison(2)
    world.restore(snapshot, *EVERYONE)
    world.epoch = 1
    world.play(2)
    assert_everybody(world.everybody(), straight)
    assert [world.tensors.host(env) for env in range(ENVS)] == modules
    world.restore(snapshot, *EVERYONE)
    world.epoch = 1
    world.play(2)
    assert_everybody(world.everybody(), straight)


@pytest.mark.parametrize("env", [0, 3])
def test_seeds_that_were_removed_stay_away(world: Rolled, env: int) -> None:
    """A pool with other rows than the snapshot's, in another order: every row finds its own."""
    world.play()
    first = world.everybody()
    snapshot = world.snapshot(None, *EVERYONE)
    world.play()
    world.remove(env, 1)
    world.poison(env)
    before = world.everybody()
    world.restore(snapshot, env, 2)
    after = world.everybody()
    assert not any(name.startswith("pool/1.") for name in after[env])
    assert_same(after[env], {name: first[env][name] for name in after[env]})
    assert_same(after[2], first[2])
    assert_same(after[1], before[1])
    world.play()


def test_a_pool_that_is_gone_is_no_harm(world: Rolled) -> None:
    world.play()
    first = world.everybody()
    snapshot = world.snapshot(None, *EVERYONE)
    for env in EVERYONE:
        world.remove(env, 1)
    world.restore(snapshot, *EVERYONE)
    assert_everybody(
        world.everybody(), [{n: t for n, t in rows.items() if not n.startswith("pool/1.")} for rows in first]
    )


def test_a_seed_that_the_snapshot_does_not_know_stays_as_it_is(world: Rolled) -> None:
    """Of another environment's snapshot, and of a pool of which the snapshot has nothing."""
    grown = world.table
    bare = without(grown, (0, 0), (slice(None), 1))
    world.become(bare)
    world.play()
    first = world.everybody()
    snapshot = world.snapshot(None, *EVERYONE)
    world.become(grown)
    world.play()
    before = world.everybody()
    world.restore(snapshot, 0)
    after = world.everybody()
    seeds = {name: t for name, t in before[0].items() if name.startswith("pool/")}
    assert len(seeds) > 4
    assert_same(after[0], {**first[0], **seeds})
    assert_everybody(after[1:], before[1:])


def test_a_snapshot_forgets_seeds_that_are_gone_when_their_environment_is_copied_again(world: Rolled) -> None:
    """And keeps those of environments that are not, although their pool may be gone from the tensors."""
    world.play()
    snapshot = world.snapshot(None, *EVERYONE)
    seeds = [world.everybody()[env] for env in (1, 2)]
    table = world.table
    for env in EVERYONE:
        world.remove(env, 1)
    snapshot = world.snapshot(snapshot, 0, 1)
    sites = {key.site: rows.envs.tolist() for key, rows in snapshot.rows.items() if key is not None}
    assert sites == {0: [0, 1, 2], 1: [2, 3]}
    world.become(table)
    before = world.everybody()
    world.restore(snapshot, 1, 2)
    after = world.everybody()
    born = {name: t for name, t in before[1].items() if name.startswith("pool/1.")}
    assert_same(after[1], {**seeds[0], **born})
    assert_same(after[2], seeds[1])
    for env in EVERYONE:
        world.remove(env, 1)
    snapshot = world.snapshot(snapshot, 2, 3)
    assert [key.site for key in snapshot.rows if key is not None] == [0]


def test_all_environments_at_once_need_nothing_of_the_last_snapshot(world: Rolled) -> None:
    world.play()
    old = world.snapshot(None, *EVERYONE)
    world.play()
    new = world.everybody()
    snapshot = world.snapshot(old, *EVERYONE)
    world.play()
    world.restore(snapshot, *EVERYONE)
    assert_everybody(world.everybody(), new)


def storages(blocks: Any) -> Iterator[int]:
    for block in blocks:
        for tensor in (block.values, *block.state.values(), block.steps, *block.buffers.values()):
            yield tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("again", [None, (1, 2), EVERYONE])
def test_a_snapshot_shares_no_memory_with_the_tensors(world: Rolled, again: Any) -> None:
    """Neither when it is taken nor when it is put back; later epochs leave it as it is."""
    snapshot = world.snapshot(None, *EVERYONE)
    if again:
        snapshot = world.snapshot(snapshot, *again)
    world.restore(snapshot, 0, 1)
    mine = set(storages(rows.block for rows in snapshot.rows.values()))
    theirs = set(storages(g.block for g in (world.tensors.hosts, *world.tensors.pools.values())))
    assert len(mine) == len(theirs)
    assert not mine & theirs
    before = world.everybody()
    world.play()
    world.restore(snapshot, *EVERYONE)
    assert_everybody(world.everybody(), before)


def test_taking_a_snapshot_changes_nothing(world: Rolled) -> None:
    world.play()
    before = world.everybody()
    snapshot = world.snapshot(None, *EVERYONE)
    world.snapshot(snapshot, 2)
    assert_everybody(world.everybody(), before)
    world.restore(world.snapshot(None, *EVERYONE))
    assert_everybody(world.everybody(), before)
