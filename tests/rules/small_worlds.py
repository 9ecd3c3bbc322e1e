"""Small worlds for the tests of the rules: one call each for a space, a table, evidence, a decision."""

from collections.abc import Sequence
from typing import Any, TypeVar

import attrs
import numpy as np

from esper_core.rules.gates import GrowthRules
from esper_core.state.actions import HEADS, ActionSpace, Blend, Curve, Decision, Op
from esper_core.state.evidence import Evidence
from esper_core.state.settings import GrowthSettings
from esper_core.state.slots import PLANTED, SlotTable, Stage

Record = TypeVar("Record")

SMALL, WIDE = 0, 1
"""Indices of the two blueprints: SMALL costs 10 in every slot, WIDE 100 and does not fit the first slot."""


def space_of(slots: int = 2, **changes: Any) -> ActionSpace:
    """Slots without limits; changes replace whole fields."""
    cost = np.tile(np.asarray([[10], [100]]), (slots, 1, 1))
    cost[0, WIDE] = -1
    fields = {
        "slots": tuple(f"slot{i}" for i in range(slots)),
        "blueprints": ("test/small", "test/wide"),
        "blends": (Blend.ADD,),
        "curves": (Curve.LINEAR, Curve.COSINE),
        "targets": np.asarray([0.5, 1.0]),
        "speeds": np.asarray([0, 2, 4]),
        "enabled": np.ones(slots, np.bool_),
        "cost": cost,
    }
    return ActionSpace(**{**fields, **changes})


def rules_of(epochs: int = 20, **growth: Any) -> GrowthRules:
    return GrowthRules(GrowthSettings(**growth), epochs)


def table_of(*envs: Sequence[dict[str, Any]]) -> SlotTable:
    """A table from one list of slots per environment; a planted slot has sensible defaults."""
    table = SlotTable.empty(len(envs), len(envs[0]))
    for n, slots in enumerate(envs):
        for s, fields in enumerate(slots):
            planted = fields.get("stage", Stage.DORMANT) in PLANTED
            default = {"seed": s, "blueprint": SMALL, "blend": 0, "parameters": 10, "age": 9, "dwell": 9}
            for name, value in {**(default if planted else {}), **fields}.items():
                getattr(table, name)[n, s] = value
        table.born[n] = len(slots)
    return table


def evidence_of(envs: int, slots: int, **fields: Any) -> Evidence:
    """Evidence that opens every gate, save for the fields named; each broadcasts to `[N, S]`."""
    open_ = {"health": 1.0, "contact": 0.0, "contribution": 1.0, "contribution_error": 0.0, "measured": 0}
    unknown = Evidence.unknown(envs, slots)
    shaped = {
        name: np.broadcast_to(value, (envs, slots)).astype(getattr(unknown, name).dtype)
        for name, value in {**open_, **fields}.items()
    }
    return attrs.evolve(unknown, **shaped)


def say(op: Op | Sequence[Op], envs: int = 1, **heads: Any) -> Decision:
    """A decision; heads that are not named are 0."""
    values = {"op": op, **heads}
    return Decision(
        **{head: np.broadcast_to(np.asarray(values.get(head, 0), np.int64), (envs,)).copy() for head in HEADS}
    )


def take(record: Record, rows: Any) -> Record:
    """The environments `rows` (a list of indices, or a mask) of a record of arrays."""
    fields = attrs.fields(type(record))  # type: ignore[arg-type]
    return type(record)(**{a.name: getattr(record, a.name)[rows] for a in fields})


def differs(one: Record, other: Record) -> list[str]:
    """Names of the fields in which two records of arrays differ; NaN equals NaN."""
    names = [a.name for a in attrs.fields(type(one))]  # type: ignore[arg-type]

    def equal(x: Any, y: Any) -> bool:
        return np.array_equal(x, y, equal_nan=np.issubdtype(x.dtype, np.floating))

    return [name for name in names if not equal(getattr(one, name), getattr(other, name))]


def changed(one: SlotTable, other: SlotTable) -> Any:
    """`[N]`: some field of the environment differs between two tables."""
    fields = [a.name for a in attrs.fields(SlotTable)]
    envs = len(one.born)
    return np.any(
        [(getattr(one, f) != getattr(other, f)).reshape(envs, -1).any(axis=1) for f in fields], axis=0
    )
