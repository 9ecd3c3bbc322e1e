"""The scripted run against an independent plain PyTorch loop, in float64, at 1e-12.

Whatever grows here goes through `phases.collect`, the one loop that every policy runs through; so this is
also the proof that no policy trains its hosts in another way.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_loop import History, PlainConvolution, PlainLowRank, PlainMLP, PlainRun, Sprout
from torch import nn
from worlds import OPEN, Played, cast_of, digits, pictures, play, program, script, spirals, step

from esper_core.model.program import Program
from esper_core.phases import collect
from esper_core.plugin.protocols import Choice, PolicyContext, Rule, View
from esper_core.rules.randomness import Purpose, permutations
from esper_core.state.actions import HEADS, Decision, name_of
from esper_core.state.arrays import Floats
from esper_core.state.settings import GrowthSettings, OptimizerSettings, TrainSettings
from esper_plugins.policies import heuristic as heuristic_policy
from esper_plugins.policies import lstm, random
from esper_plugins.policies.settings import Heuristic, Lstm, ScriptStep

EXACT = {"rtol": 0.0, "atol": 1e-12}
CURVES = ("linear", "cosine", "sigmoid-gentle", "sigmoid", "sigmoid-sharp")
SGD = OptimizerSettings(name="sgd", lr=0.3, momentum=0.9, weight_decay=1e-3, clip=0.5)
ADAMW = OptimizerSettings(name="adamw", lr=0.02, weight_decay=0.1, clip=0.5)
ENVS = (0, 3)
HOST = {"width": 12, "narrow_width": 10}


def settings(host: OptimizerSettings = SGD, seed: OptimizerSettings = SGD, **changes: Any) -> TrainSettings:
    return TrainSettings(
        **{"epochs": 10, "batch_size": 16, "train_batches": 5, "host": host, "seed": seed, **changes}
    )


def growth(**changes: Any) -> GrowthSettings:
    blends = ("add", "multiply", "gate")
    return GrowthSettings(
        **{**OPEN, "blends": blends, "curves": CURVES, "speeds": (0, 1, 3, 4), "max_live": 2, **changes}
    )


def whole_life(curve: str, **seed: Any) -> tuple[ScriptStep, ...]:
    """Germinate, incubate for two epochs, ramp for four, hold for one, commit."""
    choices = {"blueprint": "lowrank", "target": 1.0, "speed": 4, "curve": curve, **seed}
    return (
        step(1, "germinate", "block0", **choices),
        step(3, "advance", "block0"),
        step(8, "fossilize", "block0"),
    )


RETARGET = (
    step(0, "germinate", "block1", blueprint="linear", target=0.5, speed=1),
    step(2, "advance", "block1"),
    step(4, "set-alpha-target", "block1", target=1.0, speed=3, curve="cosine"),
    step(8, "fossilize", "block1"),
)
WITHDRAWN = (
    step(0, "germinate", "block0", blueprint="lowrank", target=1.0, speed=1),
    step(2, "advance", "block0"),
    step(4, "prune", "block0", speed=3, curve="sigmoid"),
)
REPLACED = (
    step(0, "germinate", "block0", blueprint="linear", target=1.0, speed=0),
    step(1, "advance", "block0"),
    step(3, "prune", "block0", speed=0),
    step(7, "germinate", "block0", blueprint="lowrank", target=0.5, speed=0),
    step(8, "advance", "block0"),
)
TOGETHER = (
    step(0, "germinate", "block0", blueprint="lowrank", blend="multiply", target=1.0, speed=3),
    step(1, "germinate", "block1", blueprint="linear", blend="gate", target=0.5, speed=1),
    step(2, "advance", "block0"),
    step(4, "advance", "block1"),
    step(5, "fossilize", "block0"),
    step(7, "fossilize", "block1"),
)
PICTURES = (
    step(0, "germinate", "behind", blueprint="conv_light", target=1.0, speed=3),
    step(1, "germinate", "across", blueprint="conv_light", blend="gate", target=1.0, speed=0),
    step(2, "advance", "behind"),
    step(4, "advance", "across"),
    step(6, "fossilize", "behind"),
    step(7, "prune", "across", speed=3),
)


def newborn(program: Program, env: int) -> Callable[[int, str, str, int], Sprout]:
    """Plain seeds with the weights that the program gives them."""

    def build(site: int, blueprint: str, blend: str, number: int) -> Sprout:
        width = program.sites[site].width
        branch = {
            "linear": lambda: nn.Linear(width, width),
            "lowrank": lambda: PlainLowRank(width, 4),
            "conv_light": lambda: PlainConvolution(width, 2),
        }[blueprint]()
        chosen = [name.split("/")[1] for name in program.space.blueprints].index(blueprint)
        blended = [name_of(b) for b in program.space.blends].index(blend)
        sprout = Sprout(branch, blend, width)
        sprout.load_state_dict(program.seed(site, chosen, blended, (0, env, number)).state_dict())
        return sprout.double()

    return build


def plain(program: Program, env: int, steps: tuple[ScriptStep, ...]) -> PlainRun:
    """The reference for one environment, played."""
    problem, train = program.problem, program.train
    host: nn.Module = program.host(0, env)
    if problem.host.name == "esper/mlp":
        shape = problem.host.settings
        host = PlainMLP(shape.inputs, shape.width, shape.blocks, shape.classes)
        host.load_state_dict(program.host(0, env).state_dict())

    def batches(epoch: int) -> Any:
        order = permutations(len(problem.fit), program.root, Purpose.BATCHES, 0, env, epoch)
        size = min(len(order) // train.batch_size, train.train_batches or len(order)) * train.batch_size
        return order[:size].reshape(-1, train.batch_size)

    run = PlainRun(
        segments=list(host.double().segments),
        sites=[(site.name, site.after, site.across) for site in program.sites],
        fit=(problem.fit.inputs.double(), problem.fit.targets),
        validation=(problem.validation.inputs.double(), problem.validation.targets),
        newborn=newborn(program, env),
        batches=batches,
        train=train,
        growth=program.growth,
    )
    run.play(steps)
    run.host = host
    return run


def assert_equal(played: Played, row: int, run: PlainRun) -> None:
    """Curves, host, seeds and buffers of one environment."""
    episode, reports, history = played.episode, played.reports, run.history
    losses = [report.counts.loss_sum[row] / report.counts.samples for report in reports]
    np.testing.assert_allclose(losses, history.train_loss, **EXACT)
    np.testing.assert_allclose([r.attribution.loss[row] for r in reports], history.loss, **EXACT)
    np.testing.assert_allclose(episode.rollout.score[:, row], history.score, **EXACT)
    np.testing.assert_allclose(episode.rollout.committed[:, row], history.committed, **EXACT)
    np.testing.assert_allclose([r.attribution.bare[row] for r in reports], history.bare, **EXACT)
    tensors = played.tensors
    for name, value in run.host.state_dict().items():
        kind = "parameters" if f"host/parameters/{name}" in tensors else "buffers"
        np.testing.assert_allclose(tensors[f"host/{kind}/{name}"][row], value, **EXACT)
    slots = episode.slots
    grown = np.flatnonzero(slots.blueprint[row] >= 0).tolist()
    assert grown == sorted(run.sprouts)
    for site in grown:
        pool = f"pool/{site}.{slots.blueprint[row, site]}.{slots.blend[row, site]}"
        for name, value in run.sprouts[site].state_dict().items():
            np.testing.assert_allclose(tensors[f"{pool}/parameters/{name}"][row], value, **EXACT)


def compare(program: Program, steps: tuple[ScriptStep, ...]) -> list[History]:
    """Play both, for every environment; returns the reference's histories."""
    played = play(cast_of(program, script(*steps)), ENVS)
    assert not played.episode.rollout.refused.any()
    runs = [plain(program, env, steps) for env in ENVS]
    for row, run in enumerate(runs):
        assert_equal(played, row, run)
    return [run.history for run in runs]


@pytest.mark.acceptance("TR-07", "X-23", "HE-05", "HE-06")
@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_whole_life_equals_the_plain_loop(optimizer: OptimizerSettings, curve: str) -> None:
    histories = compare(
        program(digits(**HOST), train=settings(optimizer, optimizer), growth=growth()), whole_life(curve)
    )
    for history in histories:
        ramp = [alphas[0] for alphas in history.alphas if alphas]
        assert ramp[:2] == [0.0, 0.0]
        assert 0.0 < ramp[2] < ramp[3] < ramp[4] < ramp[5] == ramp[6] == 1.0
        assert history.clipped > 0
        assert len(set(history.score)) > 3


@pytest.mark.acceptance("TR-07", "X-23", "HE-05", "HE-06")
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("steps", [RETARGET, WITHDRAWN, REPLACED], ids=["retarget", "ramp-down", "at-once"])
def test_other_lives_equal_the_plain_loop(
    optimizer: OptimizerSettings, steps: tuple[ScriptStep, ...]
) -> None:
    compare(program(digits(**HOST), train=settings(optimizer, optimizer), growth=growth()), steps)


@pytest.mark.acceptance("TR-07", "X-23", "X-10", "GR-06")
@pytest.mark.parametrize("frozen", [False, True], ids=["fossils-train", "fossils-freeze"])
@pytest.mark.parametrize("scope", ["group", "joint"])
def test_two_seeds_at_once_equal_the_plain_loop(frozen: bool, scope: Any) -> None:
    train = settings(SGD, SGD, clip_scope=scope, schedule="constant")
    compare(program(digits(**HOST), train=train, growth=growth(freeze_fossils=frozen)), TOGETHER)


@pytest.mark.acceptance("TR-07")
def test_host_and_seeds_may_be_trained_by_different_optimizers() -> None:
    compare(program(digits(**HOST), train=settings(SGD, ADAMW), growth=growth()), TOGETHER)


def test_a_tight_cap_and_a_partial_input_gain_equal_the_plain_loop() -> None:
    tight = growth(incubation_cap=0.02, input_gain=0.3)
    histories = compare(program(digits(**HOST), train=settings(), growth=tight), TOGETHER)
    assert all(history.capped > 0 for history in histories)


@pytest.mark.acceptance("TR-07")
def test_a_host_with_batch_normalisation_equals_the_plain_loop() -> None:
    histories = compare(program(pictures(), train=settings(train_batches=1), growth=growth()), PICTURES)
    assert all(len(set(history.score)) > 3 for history in histories)


class Replay(Rule):
    """A policy that repeats what another one decided."""

    def __init__(self, heads: Any) -> None:
        self.heads = heads

    def decide(self, view: View, memory: None, uniforms: Floats) -> Choice:
        choices = dict(zip(HEADS, self.heads[view.epoch].T, strict=True))
        return Choice(decision=Decision(**choices))


def learned(context: PolicyContext) -> lstm.LstmPolicy:
    return lstm.build(context, Lstm(hidden=8, slot_code=4))


def heuristic(context: PolicyContext) -> Any:
    return heuristic_policy.build(context, Heuristic())


@pytest.mark.acceptance("HE-04", "HE-05", "HE-06", "TR-07", "X-23")
@pytest.mark.parametrize(
    ("policy", "ops"), [(random.build, set(range(6))), (learned, set(range(6))), (heuristic, {0, 1, 2})]
)
def test_the_same_actions_give_the_same_run_whichever_policy_takes_them(policy: Any, ops: set[int]) -> None:
    problem = program(spirals(), train=TrainSettings(epochs=16, batch_size=8, train_batches=2))
    drawn = play(cast_of(problem, policy), range(8))
    heads = drawn.episode.rollout.heads
    assert {int(op) for op in heads[:, :, 0].ravel()} >= ops
    repeated = play(cast_of(problem, lambda context: Replay(heads)), range(8))
    assert drawn.tensors.keys() == repeated.tensors.keys()
    for name, tensor in drawn.tensors.items():
        assert torch.equal(tensor, repeated.tensors[name]), name
    np.testing.assert_array_equal(drawn.episode.rollout.reward, repeated.episode.rollout.reward)


@pytest.mark.acceptance("HE-05")
def test_there_is_one_training_step() -> None:
    """Who differentiates, steps an optimizer, asks a device to train; the policy has its own update."""
    root = Path(collect.__file__).parents[2]
    callers: dict[str, set[str]] = {"grad": set(), "step": set(), "train": set(), "backward": set()}
    sources = [p for top in ("esper_core", "esper_plugins") for p in (root / top).rglob("*.py")]
    for path in (p for p in sources if p.parent.name != "testing"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                name = called.rpartition(".")[2]
                if name in callers and (name != "train" or called.endswith("device.train")):
                    callers[name].add(f"{path.parent.name}/{path.name}")
    assert callers == {
        "grad": {"devices/loop.py", "devices/sites.py", "devices/stacked.py"},
        "step": {"devices/epoch.py", "phases/update.py"},
        "train": {"phases/collect.py"},
        "backward": {"phases/update.py"},
    }
