"""The display for logs: a line per round, a line per epoch of the last one, a table at the end.

Role: what is shown where there is no terminal, and, with `--plain`, on one.
Neighbours: `protocol` says what a display is told, `picture` draws the pieces, `live` shares head and table.
"""

from collections.abc import Iterable
from statistics import mean

import numpy as np
from rich.console import Console
from rich.text import Text

from esper_core.model.problem import Problem
from esper_core.model.program import Program
from esper_core.phases.collect import Episode, EpochReport
from esper_core.runner.compare import Comparison
from esper_core.runner.config import Config
from esper_core.runner.display.picture import LEGEND, TITLES, by_mode, cells, comparison, in_units
from esper_core.runner.events import transitions
from esper_core.runner.folder import RunFolder
from esper_core.state.actions import Op, name_of
from esper_core.state.governor import Verdict
from esper_core.state.run import RoundSummary

SHOWN = 8
"""Environments that are drawn in a line."""


class Lines:
    """Plain lines."""

    def __init__(self, console: Console) -> None:
        """Write to a console."""
        self._console = console
        self._program: Program | None = None
        self._rounds = 1

    def begin(self, config: Config, program: Program, folder: RunFolder, done: int) -> None:
        """What is run, where, and how to read the lines."""
        self._program = program
        self._rounds = config.run.rounds
        print_head(self._console, config, program)

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """One line: where it stands, how good it is, and every slot of the first hosts."""
        if self._program is None or episode.round_index < self._rounds - 1:
            return
        signals, problem = episode.signals, self._program.problem
        total = len(episode.rollout.reward)
        line = Text(f"round {episode.round_index + 1}/{self._rounds} " if self._rounds > 1 else "")
        line.append(f"epoch {episode.epoch:>{len(str(total))}}/{total}  ")
        line.append(f"loss {mean(known(signals.train_loss)):6.3f}  ")
        line.append(f"{problem.score_name} {in_units(mean(known(signals.score)), problem):.3f} ")
        line.append(f"best {in_units(max(known(signals.score)), problem):.3f}  ")
        for row in report.after.stage[:SHOWN].tolist():
            line.append_text(cells(row)).append(" ")
        more = len(report.after.stage) - SHOWN
        self._console.print(line.append(f"+{more}") if more > 0 else line)
        for what in happened(episode, report, self._program):
            self._console.print(Text(f"    {what}"))

    def round(self, summary: RoundSummary) -> None:
        """What the round came to."""
        if self._rounds > 1 and self._program is not None:
            where = f"round {summary.round_index + 1:>{len(str(self._rounds))}}/{self._rounds}"
            for line in told_by_mode(summary, self._program.problem):
                self._console.print(Text(f"{where}  {line}"))

    def arm(self, name: str, episode: Episode) -> None:
        """A line when an arm is over."""
        if episode.epoch == len(episode.rollout.reward) and self._program is not None:
            problem = self._program.problem
            mean = in_units(np.mean(episode.signals.score), problem)
            self._console.print(Text(f"compared with: {TITLES[name]}, mean {problem.score_name} {mean:.3f}"))

    def finish(self, found: Comparison, problem: Problem, folder: RunFolder) -> None:
        """The table, where things are, and what to type next."""
        print_result(self._console, found, problem, folder)

    def close(self) -> None:
        """Nothing is open."""


def print_head(console: Console, config: Config, program: Program) -> None:
    """What is run, and how to read the letters."""
    slots = ", ".join(program.space.slots)
    head = (
        f"{config.task.name}: {config.run.envs} hosts x {config.train.epochs} epochs, "
        f"policy {config.policy.name}, seed {config.run.seed}"
    )
    # A `Text` is shown as it is; of plain strings rich would take "[/b]" and ":x:" for orders.
    console.print(Text(head))
    console.print(Text(f"a group of {len(program.space.slots)} letters is one host; its slots are {slots}"))
    console.print(LEGEND, style="dim")


def print_result(console: Console, found: Comparison, problem: Problem, folder: RunFolder) -> None:
    """The table, where things are, and what to type next."""
    console.print()
    console.print(comparison(problem.score_name, found.arms))
    if found.modes:
        console.print(by_mode(problem.score_name, found.modes))
    for line in (
        f"everything about the run:  {folder.path}",
        f"the grown network:         {folder.grown}",
        f"what grew where and when:  esper inspect {folder.path}",
        f'use it in Python:          esper_core.load_grown("{folder.path}")',
    ):
        console.print(Text(line), soft_wrap=True)


def known(numbers: Iterable[float]) -> list[float]:
    """Those that are numbers; NaN alone if none is."""
    return [number for number in numbers if not np.isnan(number)] or [np.nan]


def told_by_mode(summary: RoundSummary, problem: Problem) -> list[str]:
    """What a round came to: one line, or one for every reward mode, because returns are in its own units."""
    modes = list(dict.fromkeys(summary.modes))
    if len(modes) == 1:
        return [told(summary, problem)]
    width = max(map(len, modes))
    return [f"{mode:<{width}}  {told(summary.of_mode(mode), problem)}" for mode in modes]


def told(summary: RoundSummary, problem: Problem) -> str:
    """What a round came to, as means over hosts: return, what would ship, and what the controller did."""
    scores = known(summary.committed)
    average, best = (in_units(of(scores), problem) for of in (mean, max))
    done = np.mean(summary.operations, axis=0).tolist()
    acts = [f"{name_of(op)} {done[op]:.1f}" for op in Op if op != Op.WAIT and done[op] > 0]
    rolled = sum(summary.rollbacks)
    line = (
        f"return {np.mean(summary.returns):7.4f}  shipped {problem.score_name} {average:.3f} "
        f"best {best:.3f}  +{np.mean(summary.parameters):.0f} parameters  {'  '.join(acts)}"
    )
    return line + (f"  {rolled} rolled back" if rolled else "")


def happened(episode: Episode, report: EpochReport, program: Program) -> list[str]:
    """What a decision, or a divergence, moved in an epoch, counted over environments."""
    moved = transitions(episode, report, program)
    rows = zip(moved["slot"], moved["blueprint"], moved["to"], moved["cause"], strict=True)
    counted: dict[str, int] = {}
    for slot, blueprint, there, cause in rows:
        if cause != "automatic":
            what = f"{cause} {slot}" + (f" with {blueprint}" if cause == "germinate" else f" -> {there}")
            counted[what] = counted.get(what, 0) + 1
    for verdict in report.verdict[report.verdict != Verdict.NONE].tolist():
        what = f"rolled back ({name_of(Verdict(verdict))})"
        counted[what] = counted.get(what, 0) + 1
    return [f"{what} in {count} host{'s' if count > 1 else ''}" for what, count in counted.items()]
