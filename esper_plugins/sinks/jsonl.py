"""The sink `jsonl`: every event as a line of JSON in the run folder's `events.jsonl`. Nothing is dropped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from esper_core.plugin import RunError, SinkContext


def build(context: SinkContext) -> "JsonLines":
    """The sink for a run folder."""
    return JsonLines(context)


class JsonLines:
    """Appends to a file and flushes every event, so that a killed run leaves whole lines."""

    def __init__(self, context: SinkContext) -> None:
        """Open the file; what stands behind the checkpoint of a resumed run is dropped.

        Raises:
            RunError: the file cannot be opened, or is shorter than it was at the checkpoint.
        """
        path = context.folder / "events.jsonl"
        try:
            self._file = path.open("xb") if context.resume_at is None else _reopened(path, context.resume_at)
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}") from error

    def write(self, event: Mapping[str, Any]) -> None:
        """One line."""
        line = json.dumps(event, separators=(",", ":"), allow_nan=False) + "\n"
        self._file.write(line.encode())
        self._file.flush()

    def position(self) -> int:
        """Length of the file in bytes."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _reopened(path: Path, length: int) -> BinaryIO:
    """The file, cut to the length that it had."""
    found = path.stat().st_size
    if found < length:
        raise RunError(
            f"{path}: has {found} bytes, and had {length} at the checkpoint: events are missing. "
            "Next: put the whole file back, or take the sink out of config.toml to go on without events"
        )
    file = path.open("r+b")
    file.truncate(length)
    file.seek(length)
    return file
