"""The sink `jsonl`: every event as a line of JSON in the run folder's `events.jsonl`. Nothing is dropped."""

import json
from collections.abc import Mapping
from typing import Any

from esper_core.plugin import SinkContext


def build(context: SinkContext) -> "JsonLines":
    """The sink for a run folder."""
    return JsonLines(context)


class JsonLines:
    """Appends to a file and flushes every event, so that a killed run leaves whole lines."""

    def __init__(self, context: SinkContext) -> None:
        """Open the file; a resumed run goes on where its checkpoint was."""
        path = context.folder / "events.jsonl"
        self._file = path.open("a" if context.resumed else "x", encoding="utf-8")

    def write(self, event: Mapping[str, Any]) -> None:
        """One line."""
        self._file.write(json.dumps(event, separators=(",", ":"), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
