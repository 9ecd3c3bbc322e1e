"""The display for programs: one JSON object a line; the last has the four arms and the folder.

Role: what is shown with `--json`.
Neighbours: `protocol` says what a display is told, `runner.events` has the columns.
"""

import json
from collections.abc import Mapping
from typing import Any, TextIO

import attrs

from esper_core.model.problem import Problem
from esper_core.model.program import Program
from esper_core.phases.collect import Episode, EpochReport
from esper_core.runner.compare import Arm, Comparison
from esper_core.runner.config import Config
from esper_core.runner.events import hosts, plain
from esper_core.runner.folder import RunFolder
from esper_core.state.run import RoundSummary


class Objects:
    """Columns over environments, as in the events."""

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream; every line is flushed."""
        self._stream = stream

    def begin(self, config: Config, program: Program, folder: RunFolder, done: int) -> None:
        """Where the run is."""
        self._line({"kind": "run", "task": config.task.name, "folder": str(folder.path)})

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """What `epoch` events have."""
        at = {"kind": "epoch", "round": episode.round_index, "epoch": episode.epoch - 1}
        self._line({**at, **hosts(episode, report)})

    def round(self, summary: RoundSummary) -> None:
        """The round's summary."""
        self._line({"kind": "round", **attrs.asdict(summary), "best": summary.best})

    def arm(self, name: str, episode: Episode) -> None:
        """Progress of the comparison."""
        self._line({"kind": "arm", "arm": name, "epoch": episode.epoch - 1, "score": episode.signals.score})

    def finish(self, found: Comparison, problem: Problem, folder: RunFolder) -> None:
        """The four arms and the folder."""

        def of(arms: Mapping[str, Arm]) -> dict[str, Any]:
            return {
                name: {problem.score_name: arm.score, "parameters": arm.parameters, "epochs": arm.epochs}
                for name, arm in arms.items()
            }

        modes = {"modes": of(found.modes)} if found.modes else {}
        self._line({"kind": "result", **of(found.arms), **modes, "folder": str(folder.path)})

    def close(self) -> None:
        """Nothing is open."""

    def _line(self, fields: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(plain(fields), allow_nan=False) + "\n")
        self._stream.flush()
