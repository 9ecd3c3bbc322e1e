"""Splitting data into fit, validation and report, by key and within every class."""

from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from esper_core.plugin import Floats, Ints, Purpose, Split, permutations

FIT, VALIDATION = 0.6, 0.2
"""Shares of the fit and the validation part; the rest is the report part."""


class Parts(TypedDict):
    """The three parts, as `Problem` takes them.

    Attributes:
        fit: to train on.
        validation: to decide on.
        report: to report on.
    """

    fit: Split
    validation: Split
    report: Split


def split(inputs: Floats, targets: Ints, key: int) -> Parts:
    """Three disjoint parts with the same mix of classes.

    Args:
        inputs: `[n, ...]`.
        targets: `[n]` classes.
        key: of the permutation; the same key gives the same parts on every machine.

    Returns:
        `fit`, `validation` and `report`.
    """
    parts: dict[str, list[NDArray[np.int64]]] = {"fit": [], "validation": [], "report": []}
    for label in np.unique(targets):
        rows = np.flatnonzero(targets == label)
        rows = rows[permutations(len(rows), key, Purpose.DATA, int(label))]
        ends = (round(FIT * len(rows)), round((FIT + VALIDATION) * len(rows)))
        for name, piece in zip(parts, np.split(rows, ends), strict=True):
            parts[name].append(piece)
    fit, validation, report = (
        _part(inputs, targets, np.sort(np.concatenate(rows))) for rows in parts.values()
    )
    return Parts(fit=fit, validation=validation, report=report)


def _part(inputs: Floats, targets: Ints, rows: Ints) -> Split:
    return Split(torch.from_numpy(inputs[rows]).float(), torch.from_numpy(targets[rows]))
