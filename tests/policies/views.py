"""What a policy sees, made by hand, and episodes without networks."""

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np

from esper_core.plugin import Choice, PolicyContext, View
from esper_core.rules import actions
from esper_core.rules.gates import GrowthRules
from esper_core.state.actions import ActionSpace, Blend, Curve, Op
from esper_core.state.evidence import Evidence
from esper_core.state.settings import GrowthSettings, LearnSettings
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable, Stage
from esper_core.testing.strategies import live
from esper_plugins.policies import heuristic, lowest_rank, oracle, probe, random, scripted, static
from esper_plugins.policies.settings import Heuristic, LowestRank, Oracle, Probe, Scripted, ScriptStep

SMALL, LARGE = 0, 1
"""Indices of the two blueprints: LARGE costs ten times as much, and does not fit the first slot."""
QUICK: dict[str, Any] = {"training_dwell": 0.05, "embargo": 0.05}
"""Growth settings of a fast life: with 20 epochs, one epoch alone, then a ramp of two, then held."""

Told = Callable[[int, SlotTable], dict[str, Any]]
"""`(epoch, slots) -> fields` of the evidence, each broadcastable to `[N, S]`."""

STEPS = (
    ScriptStep(epoch=1, op="germinate", slot="slot0", blueprint="blueprint0", wait=True),
    ScriptStep(epoch=2, op="advance", slot="slot0", wait=True, envs=(0, 2, 4)),
    ScriptStep(epoch=5, op="prune", slot="slot0", wait=True, envs=(1,)),
)
RULES: dict[str, Callable[[PolicyContext], Any]] = {
    "static": static.build,
    "random": random.build,
    "scripted": lambda context: scripted.build(context, Scripted(steps=STEPS)),
    "heuristic": lambda context: heuristic.build(context, Heuristic()),
    "eager": lambda context: heuristic.build(
        context, Heuristic(patience=0, min_epoch=0, min_contribution=-1.0, hold_patience=1)
    ),
    "plant-lowest-rank": lambda context: lowest_rank.build(context, LowestRank()),
    "plant-many": lambda context: lowest_rank.build(context, LowestRank(blueprint="blueprint0", seeds=3)),
    "probe-and-switch": lambda context: probe.build(context, Probe()),
    "probe-small": lambda context: probe.build(context, Probe(blueprint="blueprint0", threshold=0.0)),
    "oracle": lambda context: oracle.build(context, Oracle()),
}
"""Every policy that does not learn, some with other settings."""


def space_of(slots: int = 3, **changes: Any) -> ActionSpace:
    cost = np.tile(np.asarray([[10], [100]]), (slots, 1, 1))
    cost[0, LARGE] = -1
    fields = {
        "slots": tuple(f"slot{i}" for i in range(slots)),
        "blueprints": ("test/blueprint0", "test/blueprint1"),
        "blends": (Blend.ADD,),
        "curves": (Curve.LINEAR, Curve.COSINE),
        "targets": np.asarray([0.5, 1.0, 0.2]),
        "speeds": np.asarray([1, 2, 0]),
        "enabled": np.ones(slots, np.bool_),
        "cost": cost,
    }
    return ActionSpace(**{**fields, **changes})


def rules_of(epochs: int = 20, **growth: Any) -> GrowthRules:
    return GrowthRules(GrowthSettings(**{**QUICK, **growth}), epochs)


def context_of(space: ActionSpace, epochs: int = 20, **fields: Any) -> PolicyContext:
    """The oracle names another slot for every environment and every round."""
    fields = {"oracle": lambda envs, round_index: (envs + round_index) % len(space.slots), **fields}
    return PolicyContext(
        space=space, epochs=epochs, learn=LearnSettings(), root=0, host_parameters=100, **fields
    )


def evidence_of(shape: tuple[int, int], **fields: Any) -> Evidence:
    """Evidence of healthy seeds of unknown contribution, save for the fields named."""
    unknown = Evidence.unknown(*shape)
    told = {"health": 1.0, "contact": 0.0, **fields}
    return attrs.evolve(
        unknown,
        **{
            name: np.broadcast_to(value, shape).astype(getattr(unknown, name).dtype)
            for name, value in told.items()
        },
    )


def view_of(
    slots: SlotTable, evidence: Evidence, space: ActionSpace, rules: GrowthRules, **fields: Any
) -> View:
    """A view in the middle of an episode; `plateau` is `[N]` or a number."""
    envs = len(slots.born)
    plateau = np.broadcast_to(fields.pop("plateau", 9), (envs,)).astype(np.int64)
    usual = {"epoch": rules.epochs // 2, "begins": np.zeros(envs, np.bool_)}
    return View(
        **{**usual, **fields},
        epochs=rules.epochs,
        slots=slots,
        evidence=evidence,
        signals=attrs.evolve(HostSignals.unknown(envs), plateau=plateau),
        masks=actions.masks(slots, evidence, space, rules),
    )


def held(slots: SlotTable, contribution: Any) -> dict[str, Any]:
    """Contributions `[N, S]` of the seeds that are held; of the others nothing is known."""
    here = slots.stage == Stage.HOLDING
    return {"contribution": np.where(here, contribution, np.nan), "measured": np.where(here, 0, -1)}


def play(
    policy: Any,
    space: ActionSpace,
    rules: GrowthRules,
    told: Told,
    envs: Any = (0,),
    *,
    plateau: Any = 9,
    round_index: int = 0,
) -> Iterator[tuple[View, Choice]]:
    """An episode without networks; nothing that a policy asks for may be refused."""
    envs = np.asarray(envs)
    slots, memory = SlotTable.empty(len(envs), len(space.slots)), policy.start(envs, round_index)
    for epoch in range(rules.epochs):
        evidence = evidence_of(slots.shape, **told(epoch, slots))
        begins = np.full(len(envs), epoch == 0)
        view = view_of(slots, evidence, space, rules, epoch=epoch, begins=begins, plateau=plateau)
        choice = policy.decide(view, memory, np.full((len(envs), 7), 0.5))
        lived = live(slots, evidence, choice.decision, space, rules)
        assert not lived.refused.any(), lived.refused
        yield view, choice
        slots, memory = lived.after, choice.memory


def story(episode: Iterator[tuple[View, Choice]], env: int = 0) -> list[tuple[int, str, int]]:
    """What one environment did: (epoch, operation, slot), waiting left out."""
    return [
        (view.epoch, Op(choice.decision.op[env]).name, int(choice.decision.slot[env]))
        for view, choice in episode
        if choice.decision.op[env] != Op.WAIT
    ]
