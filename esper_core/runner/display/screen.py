"""Screens may drop: `esper run digits | head` ends the output, and not the run.

Role: the console that goes quiet when its pipe is broken, and a display that is dropped when it cannot write.
Neighbours: `protocol` says what a display is told, `runner.api` puts a `Droppable` around the display.
"""

from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

from esper_core.model.problem import Problem
from esper_core.model.program import Program
from esper_core.phases.collect import Episode, EpochReport
from esper_core.runner.compare import Comparison
from esper_core.runner.config import Config
from esper_core.runner.display.protocol import Display, Quiet
from esper_core.runner.folder import RunFolder
from esper_core.state.run import RoundSummary


class Screen(Console):
    """A console whose broken pipe does not end the program, as rich would have it."""

    def on_broken_pipe(self) -> None:
        """Write no more."""
        self.quiet = True


class Droppable:
    """A display that is told nothing more once it could not write."""

    def __init__(self, display: Display) -> None:
        """Tell a display."""
        self._display = display

    def begin(self, config: Config, program: Program, folder: RunFolder, done: int) -> None:
        """The run starts, or goes on."""
        self._tell(lambda display: display.begin(config, program, folder, done))

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """An epoch is over."""
        self._tell(lambda display: display.epoch(episode, report))

    def round(self, summary: RoundSummary) -> None:
        """A round is over."""
        self._tell(lambda display: display.round(summary))

    def arm(self, name: str, episode: Episode) -> None:
        """An epoch of an arm is over."""
        self._tell(lambda display: display.arm(name, episode))

    def finish(self, found: Comparison, problem: Problem, folder: RunFolder) -> None:
        """The run is over."""
        self._tell(lambda display: display.finish(found, problem, folder))

    def close(self) -> None:
        """Give the terminal back."""
        self._tell(lambda display: display.close())

    def _tell(self, what: Callable[[Display], None]) -> None:
        try:
            what(self._display)
        except OSError:
            broken, self._display = self._display, Quiet()
            with suppress(OSError):
                broken.close()
