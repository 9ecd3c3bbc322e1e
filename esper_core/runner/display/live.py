"""The display for a terminal: where the run stands, and every slot of every host, redrawn in place.

Role: what is shown on a terminal unless another display is asked for.
Neighbours: `protocol` says what a display is told, `picture` draws the pieces, `lines` has head and table.
"""

import time

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from esper_core.model.problem import Problem
from esper_core.model.program import Program
from esper_core.phases.collect import Episode, EpochReport
from esper_core.runner.compare import ARMS, Comparison
from esper_core.runner.config import Config
from esper_core.runner.display.lines import happened, print_head, print_result, told_by_mode
from esper_core.runner.display.picture import TITLES, cells, in_units, trend
from esper_core.runner.folder import RunFolder
from esper_core.state.run import RoundSummary

SHOWN = 16
"""Hosts that are drawn."""
PER_SECOND = 8
"""How often the terminal is redrawn."""
NEWS = 3
"""Lines of what happened last."""


class Board:
    """A board that is redrawn: progress, speed, time left, hosts with their slots, and the last news."""

    def __init__(self, console: Console) -> None:
        """Write to a terminal."""
        self._console = console
        self._live = Live(console=console, refresh_per_second=PER_SECOND, transient=True)
        self._started = time.monotonic()
        self._played = self._total = self._envs = self._rounds = 0
        self._best = -np.inf
        self._program: Program | None = None
        self._lanes: dict[tuple[int, int], list[int]] = {}
        self._news: list[str] = []
        self._returns: list[float] = []
        self._last: list[str] = []

    def begin(self, config: Config, program: Program, folder: RunFolder, done: int) -> None:
        """What is run; the board appears."""
        print_head(self._console, config, program)
        self._program = program
        self._envs, self._rounds = config.run.envs, config.run.rounds
        self._total = config.train.epochs * (config.run.rounds - done + len(ARMS) - 1)
        self._started = time.monotonic()
        self._live.start()

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """Redraw the hosts."""
        if self._program is None:
            return
        if episode.epoch == 1:
            self._lanes.clear()
        for (env, slot), stage in np.ndenumerate(report.after.stage[:SHOWN]):
            self._lanes.setdefault((env, slot), []).append(int(stage))
        self._best = max(self._best, float(np.max(episode.signals.score)))
        news = [f"epoch {episode.epoch}: {what}" for what in happened(episode, report, self._program)]
        self._news = [*self._news, *news][-NEWS:]
        total = len(episode.rollout.reward)
        where = f"round {episode.round_index + 1}/{self._rounds}  epoch {episode.epoch}/{total}"
        self._redraw(where, self._hosts(episode, self._program))

    def round(self, summary: RoundSummary) -> None:
        """The next epoch shows it."""
        if self._program is not None:
            if len(set(summary.modes)) == 1:  # returns of several modes have no common unit
                self._returns.append(float(np.mean(summary.returns)))
            self._last = told_by_mode(summary, self._program.problem)

    def arm(self, name: str, episode: Episode) -> None:
        """Redraw the progress of the comparison."""
        total = len(episode.rollout.reward)
        self._redraw(f"against {TITLES[name]}  {episode.epoch}/{total}", None)

    def finish(self, found: Comparison, problem: Problem, folder: RunFolder) -> None:
        """The board makes room for the table."""
        self._live.stop()
        print_result(self._console, found, problem, folder)

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    def _redraw(self, where: str, body: RenderableType | None) -> None:
        self._played += 1
        elapsed = max(time.monotonic() - self._started, 1e-9)
        left = elapsed / self._played * (self._total - self._played)
        speed = self._played * self._envs / elapsed
        line = Table.grid(*(Column(no_wrap=True) for _ in range(5)), padding=(0, 2))
        best = "" if self._program is None else _best(self._best, self._program.problem)
        line.add_row(
            ProgressBar(total=self._total, completed=self._played, width=16),
            where,
            Text(best),
            f"{speed:.0f} host epochs/s",
            f"{int(left // 60)}:{int(left % 60):02d} left",
        )
        news = [Text(text, style="dim") for text in self._news]
        rounds = [Text(f"last round: {line}") for line in self._last]
        if self._returns:
            room = max(1, self._console.width - 24)
            rounds.append(Text(f"mean return by round  {trend(self._returns[-room:])}"))
        news = [*rounds, *news]
        self._live.update(Group(line, *([body] if body is not None else []), *news))

    def _hosts(self, episode: Episode, program: Program) -> Table:
        """A row per host: its score, and a lane of letters per slot, one letter an epoch."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("host", program.problem.score_name, *program.space.slots):
            table.add_column(Text(heading), no_wrap=True, header_style="dim")
        slots = len(program.space.slots)
        room = max(4, (self._console.width - 20) // slots - 2)
        for env, score in enumerate(episode.signals.score[:SHOWN].tolist()):
            lanes = [cells(self._lanes[env, slot][-room:]) for slot in range(slots)]
            table.add_row(str(episode.envs[env]), f"{in_units(score, program.problem):.3f}", *lanes)
        more = len(episode.envs) - SHOWN
        if more > 0:
            table.add_row("", f"and {more} more")
        return table


def _best(score: float, problem: Problem) -> str:
    return f"best {problem.score_name} {in_units(score, problem):.3f}" if np.isfinite(score) else ""
