"""One clipped step for everybody: groups on their own, or jointly without incubating seeds."""

from typing import Any

import pytest
import torch
from attrs import evolve
from hand_made import PLAIN, SEEDS, World, batches, train_of
from torch import Tensor, nn
from worlds import assert_same, program

from esper_core.model.parts import Part
from esper_core.model.problem import Problem
from esper_core.state.slots import Stage


@pytest.mark.acceptance("GR-05")
@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.parametrize("scope", ["group", "joint"])
def test_a_huge_gradient_moves_nothing_far(name: str, scope: Any) -> None:
    """Every group moves by at most rate x clip in a step, whoever decided what grows: there is one step."""
    make, seeds = SEEDS[name]
    problem = make()
    loud = evolve(problem, loss=lambda outputs, targets: 1e9 * problem.loss(outputs, targets))
    world = World(program(loud, train=train_of(clip_scope=scope)), 2, *seeds)
    before = [world.rows(env) for env in range(2)]
    assert world.train(batches(2, 1)).host.largest.min() > 1e6
    for env in range(2):
        moves: dict[str, float] = {}
        for path, tensor in world.rows(env).items():
            if "/parameters/" in path:
                group = path.split("/parameters/")[0]
                moves[group] = moves.get(group, 0.0) + float((tensor - before[env][path]).square().sum())
        assert len(moves) == 3
        assert all(0 < move**0.5 <= PLAIN.lr * PLAIN.clip * (1 + 1e-9) for move in moves.values())
        if scope == "group":
            assert all(move**0.5 == pytest.approx(PLAIN.lr * PLAIN.clip) for move in moves.values())


@pytest.mark.acceptance("GR-06")
def test_joint_clipping_leaves_incubating_seeds_out() -> None:
    """While all seeds incubate, both scopes are the same, bit for bit; once one blends, they differ."""
    make, _ = SEEDS["mlp"]
    tight = evolve(PLAIN, clip=0.05)

    def trained(scope: Any, stage: Stage) -> dict[str, Tensor]:
        train = train_of(clip_scope=scope, host=tight, seed=tight)
        world = World(program(make(), train=train), 1, (0, "linear", stage, 1.0))
        world.train(batches(1, 3))
        return world.rows(0)

    assert_same(trained("group", Stage.TRAINING), trained("joint", Stage.TRAINING))
    group, joint = trained("group", Stage.HOLDING), trained("joint", Stage.HOLDING)
    assert all(not torch.equal(group[name], joint[name]) for name in group if "/parameters/" in name)


class Loud(nn.Module):
    """A host with one parameter whose gradient is as large as one likes, and whose value is not."""

    def __init__(self, host: Any, scale: float) -> None:
        super().__init__()
        self.segments, self.sites = host.segments, host.sites
        self.segments[-1] = _Shifted(host.segments[-1], scale)

    @classmethod
    def problem(cls, problem: Problem, scale: float) -> Problem:
        part = problem.host
        return evolve(problem, host=Part(name="test/loud", build="", call=lambda: cls(part.make(), scale)))


class _Shifted(nn.Module):
    def __init__(self, layer: nn.Module, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.scale * self.shift


@pytest.mark.acceptance("GR-06")
def test_in_groups_a_seed_moves_as_far_whatever_the_gradient_of_the_host_is() -> None:
    """Make the host's gradient a million times larger: jointly clipped, the seed would stand still."""
    make, _ = SEEDS["mlp"]
    seed = (0, "linear", Stage.HOLDING, 1.0)

    def moved(scope: Any, scale: float) -> tuple[float, float]:
        world = World(program(Loud.problem(make(), scale), train=train_of(clip_scope=scope)), 1, seed)
        before = world.rows(0)
        norm = float(world.train(batches(1, 1)).host.largest[0])
        after = world.rows(0)
        pool = [name for name in before if name.startswith("pool") and "/parameters/" in name]
        return norm, float(torch.cat([(after[n] - before[n]).flatten() for n in pool]).norm())

    (small, calm), (large, loud) = moved("group", 1.0), moved("group", 1e6)
    assert large > 1e3 * small
    assert calm == pytest.approx(loud, rel=1e-9)
    (_, calm), (_, loud) = moved("joint", 1.0), moved("joint", 1e6)
    assert loud < 1e-2 * calm
