"""Checkpoints: the state of a run between two rounds, as JSON and safetensors, with hashes. No pickle.

A checkpoint is a folder that is written aside and renamed; `hashes.json` covers every other file in it. A
checkpoint that is not whole is passed over for the one before it, and said so.

Role: one function writes, one reads; restoring is construction from what was read.
Neighbours: `runner.loop` calls both.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from esper_core.errors import RunError
from esper_core.plugin.protocols import Learned
from esper_core.runner.files import read_json, read_tensors, sha256, write_json, write_tensors
from esper_core.state.run import RoundSummary, RunState
from esper_core.state.slots import SlotTable

FORMAT = 1
"""Version of the layout of a checkpoint."""
FILES = {"state.json", "tensors.safetensors", "policy.safetensors"}
"""What a whole checkpoint has beside its hashes."""


@attrs.frozen(kw_only=True, eq=False)
class Checkpoint:
    """What is saved between two rounds.

    Attributes:
        state: rounds done and their history.
        slots: of the last round's environments after its last epoch; None before the first round.
        tensors: of the same, as the device strategy exports them; empty before the first round.
        policy: what the policy has learned.
        sinks: how far each sink has written, by name.
    """

    state: RunState
    slots: SlotTable | None
    tensors: Mapping[str, Tensor]
    policy: Learned
    sinks: Mapping[str, int]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint and remove all but the last `keep`.

    Args:
        folder: of all checkpoints.
        checkpoint: what to write.
        keep: how many stay.

    Returns:
        Path of the checkpoint.
    """
    final = folder / f"round-{checkpoint.state.rounds_done:06d}"
    aside = folder / f".{final.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    slots = None if checkpoint.slots is None else attrs.asdict(checkpoint.slots, recurse=False)
    write_json(
        aside / "state.json",
        {
            "format": FORMAT,
            "state": _without_nan(attrs.asdict(checkpoint.state)),
            "slots": None if slots is None else {name: array.tolist() for name, array in slots.items()},
            "policy": dict(checkpoint.policy.values),
            "sinks": dict(checkpoint.sinks),
        },
    )
    write_tensors(aside / "tensors.safetensors", checkpoint.tensors)
    write_tensors(aside / "policy.safetensors", checkpoint.policy.tensors)
    write_json(aside / "hashes.json", {p.name: sha256(p) for p in sorted(aside.iterdir())})
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    for old in listed(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def listed(folder: Path) -> list[Path]:
    """Checkpoints in a folder, the oldest first."""
    return sorted(p for p in folder.glob("round-*") if p.is_dir())


def last(folder: Path) -> tuple[Checkpoint, list[str]]:
    """The last whole checkpoint.

    Returns:
        The checkpoint, and one line for every later one that is not whole.

    Raises:
        RunError: there is none.
    """
    complaints: list[str] = []
    for path in reversed(listed(folder)):
        try:
            return load(path), complaints
        except RunError as error:
            complaints.append(str(error))
    raise RunError(
        "\n".join([f"{folder}: has no whole checkpoint, so there is nothing to go on from", *complaints])
    )


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        RunError: a file is missing, changed or malformed; the message has its path.
    """
    hashes = read_json(path / "hashes.json")
    if not isinstance(hashes, dict) or hashes.keys() != FILES:
        raise RunError(f"{path / 'hashes.json'}: must have the hashes of {' and '.join(sorted(FILES))}")
    for name, expected in hashes.items():
        if not (path / name).is_file():
            raise RunError(f"{path / name}: is missing, so the checkpoint is not whole")
        if sha256(path / name) != expected:
            raise RunError(f"{path / name}: has changed since it was written, so the checkpoint is not whole")
    found = read_json(path / "state.json")
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise RunError(f"{path}: was written in the format {version}; this version reads {FORMAT}")
    tensors, learned = (read_tensors(path / f"{name}.safetensors") for name in ("tensors", "policy"))
    try:
        return _of(found, tensors, learned)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path / 'state.json'}: is malformed: {type(error).__name__}: {error}") from error


def _of(found: Mapping[str, Any], tensors: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> Checkpoint:
    history = tuple(RoundSummary(**_tuples(summary)) for summary in found["state"]["history"])
    return Checkpoint(
        state=RunState(rounds_done=found["state"]["rounds_done"], history=history),
        slots=None if found["slots"] is None else _slots(found["slots"]),
        tensors=tensors,
        policy=Learned(values=found["policy"], tensors=learned),
        sinks=found["sinks"],
    )


def _slots(columns: Mapping[str, Any]) -> SlotTable:
    kinds = {"withdrawing": np.bool_, "ramp_start": np.float64, "ramp_target": np.float64}
    return SlotTable(**{name: np.asarray(c, kinds.get(name, np.int64)) for name, c in columns.items()})


def _tuples(value: Any) -> Any:
    """Lists from JSON become tuples, and null becomes NaN."""
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return float("nan") if value is None else value


def _without_nan(value: Any) -> Any:
    """The reverse of `_tuples`."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
