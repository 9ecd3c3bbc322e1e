"""What a display is told, and the display that says nothing.

Role: the interface between the loop and what a user sees. A display that is removed changes no result.
Neighbours: `runner.loop` calls it; `lines`, `live` and `objects` implement it.
"""

from typing import Protocol

from esper_core.model.problem import Problem
from esper_core.model.program import Program
from esper_core.phases.collect import Episode, EpochReport
from esper_core.runner.compare import Comparison
from esper_core.runner.config import Config
from esper_core.runner.folder import RunFolder
from esper_core.state.run import RoundSummary


class Display(Protocol):
    """What the loop tells."""

    def begin(self, config: Config, program: Program, folder: RunFolder, done: int) -> None:
        """The run starts, or goes on after `done` rounds."""
        ...

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """An epoch is over."""
        ...

    def round(self, summary: RoundSummary) -> None:
        """A round is over and saved."""
        ...

    def arm(self, name: str, episode: Episode) -> None:
        """An epoch of an arm of the comparison is over."""
        ...

    def finish(self, found: Comparison, problem: Problem, folder: RunFolder) -> None:
        """The run is over."""
        ...

    def close(self) -> None:
        """Give the terminal back, however the run ended."""
        ...


class Quiet:
    """Says nothing."""

    def begin(self, config: Config, program: Program, folder: RunFolder, done: int) -> None:
        """Nothing."""

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """Nothing."""

    def round(self, summary: RoundSummary) -> None:
        """Nothing."""

    def arm(self, name: str, episode: Episode) -> None:
        """Nothing."""

    def finish(self, found: Comparison, problem: Problem, folder: RunFolder) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
