"""Array types that the records use, and how a record refuses a wrong one.

Role: one name per dtype, one shape check. Neighbours: every record in this package.
"""

from typing import Any, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Record = TypeVar("Record")


def expect_shape(record: object, field: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `array` has exactly `shape`; the message names the record and the field."""
    if array.shape != shape:
        raise ValueError(f"{type(record).__name__}.{field} has shape {array.shape}, expected {shape}")


def expect_table(record: Any, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless every array of an attrs record has exactly `shape`."""
    for attribute in attrs.fields(type(record)):
        expect_shape(record, attribute.name, getattr(record, attribute.name), shape)


def rows(chosen: Bools, one: Record, other: Record) -> Record:
    """A record with the rows of `one` where `chosen`, `[N]`, holds, and of `other` elsewhere."""
    table: Any = type(one)

    def pick(name: str) -> NDArray[Any]:
        first = getattr(one, name)
        chosen_rows: NDArray[Any] = np.where(
            chosen.reshape(-1, *[1] * (first.ndim - 1)), first, getattr(other, name)
        )
        return chosen_rows

    picked: Record = table(**{a.name: pick(a.name) for a in attrs.fields(table)})
    return picked


def take(record: Record, index: Ints) -> Record:
    """Some environments of a record, by their positions, in any order.

    Args:
        record: an attrs record whose arrays, at any depth, have environments on their first axis; what is
            no array is kept as it is.
        index: `[M]` positions.
    """

    def of(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value[index] if value.size else value
        if attrs.has(type(value)):
            return take(value, index)
        return value

    table: Any = type(record)
    taken: Record = table(**{a.name: of(getattr(record, a.name)) for a in attrs.fields(table)})
    return taken
