"""The policy `scripted`: a schedule of actions, for demonstrations, oracles and tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen

from esper_core.plugin import (
    HEADS,
    HEADS_OF,
    ActionSpace,
    Bools,
    Choice,
    ConfigError,
    Decision,
    Floats,
    Ints,
    Op,
    PolicyContext,
    Rule,
    View,
    name_of,
)
from esper_plugins.policies.names import full_name, index_of
from esper_plugins.policies.settings import Scripted, ScriptStep


def build(context: PolicyContext, settings: Scripted) -> "Script":
    """The policy for a vocabulary of actions.

    Raises:
        ConfigError: a step names something that the run does not have.
    """
    return Script(context, settings)


@frozen(kw_only=True, eq=False)
class Progress:
    """How far N environments are.

    Attributes:
        envs: `[N]` their numbers.
        tried: `[N, steps]`, the step was carried out or tried since the segment began.
    """

    envs: Ints
    tried: Bools


class Script(Rule):
    """Steps in order; an environment carries out at most one in an epoch."""

    def __init__(self, context: PolicyContext, settings: Scripted) -> None:
        """Translate names into indices."""
        self._steps = settings.steps
        self._heads = [_translate(number, step, context) for number, step in enumerate(settings.steps)]

    def start(self, envs: Ints, round_index: int) -> Progress:
        """Nothing was tried."""
        return Progress(envs=envs, tried=np.zeros((len(envs), len(self._steps)), np.bool_))

    def decide(self, view: View, memory: Progress, uniforms: Floats) -> Choice:
        """The first step of every environment that is due."""
        envs = len(memory.envs)
        heads: dict[str, Ints] = {head: np.zeros(envs, np.int64) for head in HEADS}
        tried = memory.tried & ~view.begins[:, None]
        idle = np.ones(envs, np.bool_)
        for number, (step, wanted) in enumerate(zip(self._steps, self._heads, strict=True)):
            now = idle & ~tried[:, number] & _follows(step, memory.envs)
            if step.wait:
                now &= (view.epoch >= step.epoch) & _possible(view, wanted)
            else:
                now &= view.epoch == step.epoch
            for head in HEADS:
                heads[head][now] = wanted[head]
            tried[now, number] = True
            idle &= ~now
        return Choice(decision=Decision(**heads), memory=evolve(memory, tried=tried))


def _follows(step: ScriptStep, envs: Ints) -> Bools:
    return np.isin(envs, step.envs) if step.envs else np.ones(len(envs), np.bool_)


def _possible(view: View, wanted: Mapping[str, int]) -> Bools:
    """`[N]`: the action would succeed."""
    op, slot = wanted["op"], wanted["slot"]
    possible: Bools = view.masks.slot[:, op, slot].copy()
    if op == Op.GERMINATE:
        possible &= view.masks.blend[:, slot, wanted["blueprint"], wanted["blend"]]
    if op == Op.SET_ALPHA_TARGET:
        possible &= view.masks.target[:, slot, wanted["target"]]
    return possible


def _translate(number: int, step: ScriptStep, context: PolicyContext) -> dict[str, int]:
    space = context.space
    where = f"policy.steps[{number}]"
    if step.op == "germinate" and step.blueprint is None:
        raise ConfigError(
            f"{where}: op = 'germinate' needs a blueprint; one of {', '.join(space.blueprints)}"
        )
    op = Op[step.op.upper().replace("-", "_")]
    heads = {"op": int(op)}
    choices: dict[str, tuple[Any, Sequence[Any]]] = {
        "slot": (step.slot, space.slots),
        "blueprint": (full_name(step.blueprint, space), space.blueprints),
        "blend": (step.blend, [name_of(b) for b in space.blends]),
        "curve": (step.curve, [name_of(c) for c in space.curves]),
        "target": (step.target, space.targets.tolist()),
        "speed": (step.speed, space.speeds.tolist()),
    }
    unused = [head for head, (value, _) in choices.items() if value is not None and head not in HEADS_OF[op]]
    if unused:
        raise ConfigError(
            f"{where}: op = {step.op!r} does not use {', '.join(unused)}; "
            f"it uses {', '.join(HEADS_OF[op][1:])}"
        )
    for head, (value, valid) in choices.items():
        heads[head] = 0 if value is None else index_of(f"{where}.{head}", value, valid)
    _refuse_misfit(where, step, heads, space)
    return heads


def _refuse_misfit(where: str, step: ScriptStep, heads: Mapping[str, int], space: ActionSpace) -> None:
    if step.op == "germinate" and not space.fits[heads["slot"], heads["blueprint"], heads["blend"]]:
        raise ConfigError(f"{where}: blueprint {step.blueprint!r} does not fit the slot {step.slot!r}")
    if not space.enabled[heads["slot"]]:
        raise ConfigError(f"{where}: slot {step.slot!r} is not among growth.slots")
