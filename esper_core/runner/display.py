"""What a run shows while it goes on: nothing, lines, or JSON; and the table at its end.

Role: presentation only; a display that is removed changes no result.
Neighbours: `runner.loop` calls it after every epoch, round and arm.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import attrs
import numpy as np
from rich.console import Console
from rich.table import Table

from esper_core.model.problem import Problem
from esper_core.model.program import Program
from esper_core.phases.collect import Episode, EpochReport
from esper_core.runner.compare import Arm
from esper_core.runner.config import Config
from esper_core.runner.events import hosts, plain, transitions
from esper_core.runner.folder import RunFolder
from esper_core.state.run import RoundSummary
from esper_core.state.slots import Stage

Mode = Literal["auto", "quiet", "plain", "json"]

TITLES = {
    "static": "static host",
    "everywhere": "smallest seeds everywhere",
    "grown": "grown",
    "twin": "its twin from scratch",
}
"""Names of the arms in the table."""


class Display(Protocol):
    """What the loop tells."""

    def begin(self, config: Config, program: Program, folder: RunFolder) -> None:
        """The run starts or goes on."""
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

    def finish(self, arms: Mapping[str, Arm], problem: Problem, folder: RunFolder) -> None:
        """The run is over."""
        ...


def display(mode: Mode) -> Display:
    """The display of a mode; `auto` writes lines, with colour on a terminal."""
    if mode == "quiet":
        return Quiet()
    if mode == "json":
        return Json(Console(soft_wrap=True, highlight=False, markup=False))
    return Lines(Console(soft_wrap=True, highlight=False, no_color=True if mode == "plain" else None))


class Quiet:
    """Says nothing."""

    def begin(self, config: Config, program: Program, folder: RunFolder) -> None:
        """Nothing."""

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """Nothing."""

    def round(self, summary: RoundSummary) -> None:
        """Nothing."""

    def arm(self, name: str, episode: Episode) -> None:
        """Nothing."""

    def finish(self, arms: Mapping[str, Arm], problem: Problem, folder: RunFolder) -> None:
        """Nothing."""


class Json:
    """One JSON object a line; the last has the four arms and the folder."""

    def __init__(self, console: Console) -> None:
        """Write to a console's file, unformatted."""
        self._console = console

    def begin(self, config: Config, program: Program, folder: RunFolder) -> None:
        """Where the run is."""
        self._line({"kind": "run", "task": config.task.name, "folder": str(folder.path)})

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """Columns over environments."""
        at = {"kind": "epoch", "round": episode.round_index, "epoch": episode.epoch - 1}
        self._line({**at, **hosts(episode, report)})

    def round(self, summary: RoundSummary) -> None:
        """The round's summary."""
        self._line({"kind": "round", **attrs.asdict(summary), "best": summary.best})

    def arm(self, name: str, episode: Episode) -> None:
        """Progress of the comparison."""
        self._line({"kind": "arm", "arm": name, "epoch": episode.epoch - 1, "score": episode.signals.score})

    def finish(self, arms: Mapping[str, Arm], problem: Problem, folder: RunFolder) -> None:
        """The four arms and the folder."""
        table = {
            name: {problem.score_name: arm.score, "parameters": arm.parameters, "epochs": arm.epochs}
            for name, arm in arms.items()
        }
        self._line({"kind": "result", **table, "folder": str(folder.path)})

    def _line(self, fields: Mapping[str, Any]) -> None:
        self._console.file.write(json.dumps(plain(fields), allow_nan=False) + "\n")
        self._console.file.flush()


GLYPHS = {
    Stage.DORMANT: (".", "dim"),
    Stage.GERMINATED: ("g", "green"),
    Stage.TRAINING: ("t", "green"),
    Stage.BLENDING: ("b", "yellow"),
    Stage.HOLDING: ("h", "cyan"),
    Stage.FOSSILIZED: ("F", "bold magenta"),
    Stage.PRUNED: ("x", "red"),
    Stage.EMBARGOED: ("x", "dim red"),
    Stage.RESETTING: ("x", "dim red"),
}
"""How a slot is drawn, by stage: a letter and its style."""

LEGEND = ". empty   t trains alone   b blends in   h held   F committed   x pruned, resting"
SHOWN = 8
"""Environments that are drawn."""


class Lines:
    """A line per epoch, a line per thing that happened, and a table at the end."""

    def __init__(self, console: Console) -> None:
        """Write to a console."""
        self._console = console
        self._program: Program | None = None
        self._rounds = 1

    def begin(self, config: Config, program: Program, folder: RunFolder) -> None:
        """What is run, where, and how to read the lines."""
        self._program = program
        self._rounds = config.run.rounds
        slots = ", ".join(program.space.slots)
        self._console.print(
            f"[bold]{config.task.name}[/]  {config.run.envs} hosts x {config.train.epochs} epochs, "
            f"policy {config.policy.name}, seed {config.run.seed}"
        )
        self._console.print(
            f"slots of every host: {slots}; a group of {len(program.space.slots)} is one host"
        )
        self._console.print(LEGEND, style="dim")

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """One line: where it stands, how good it is, and every slot of the first hosts."""
        signals = episode.signals
        groups = [_cells(row) for row in report.after.stage[:SHOWN]]
        more = len(report.after.stage) - SHOWN
        at = f"round {episode.round_index + 1}/{self._rounds} " if self._rounds > 1 else ""
        total = len(episode.rollout.reward)
        self._console.print(
            f"{at}epoch {episode.epoch:>{len(str(total))}}/{total}",
            f"loss {np.mean(signals.train_loss):6.3f} ",
            f"{self._name} {np.mean(_shown(signals.score, self._problem)):.3f}",
            f"best {_shown(np.max(signals.score), self._problem):.3f} ",
            " ".join(groups) + (f" +{more}" if more > 0 else ""),
        )
        self._happened(episode, report)

    def round(self, summary: RoundSummary) -> None:
        """What the round came to."""
        if self._rounds > 1:
            self._console.print(
                f"round {summary.round_index + 1}/{self._rounds} ",
                f"mean return {np.mean(summary.returns):.4f} ",
                f"best shipped {self._name} {_shown(np.max(summary.committed), self._problem):.3f}",
            )

    def arm(self, name: str, episode: Episode) -> None:
        """A line when an arm is over."""
        if episode.epoch == len(episode.rollout.reward):
            mean = np.mean(_shown(episode.signals.score, self._problem))
            self._console.print(f"compared with: {TITLES[name]}, {self._name} {mean:.3f}", style="dim")

    def finish(self, arms: Mapping[str, Arm], problem: Problem, folder: RunFolder) -> None:
        """The table, where things are, and what to type next."""
        tries = next(iter(arms.values())).tries
        table = Table(
            title=f"Report split: best of {tries} tries each, selected by validation", title_justify="left"
        )
        for heading in ("network", problem.score_name, "+/-", "parameters", "epochs"):
            table.add_column(heading, justify="left" if heading == "network" else "right")
        for name, arm in arms.items():
            style = "bold magenta" if name == "grown" else None
            cells = (
                TITLES[name],
                f"{arm.score:.4f}",
                f"{arm.error:.4f}",
                f"{arm.parameters:,}",
                str(arm.epochs),
            )
            table.add_row(*cells, style=style)
        self._console.print()
        self._console.print(table)
        self._console.print(f"everything about the run: {folder.path}")
        self._console.print(f"the grown network:        {folder.grown}")
        self._console.print("what grew where and when: ", f"esper inspect {folder.path}")
        self._console.print(
            "use it in Python:         ", f'esper_core.load_grown("{folder.path}")', markup=False
        )

    @property
    def _needed(self) -> Program:
        if self._program is None:
            raise RuntimeError("a display was used before the run began")
        return self._program

    @property
    def _problem(self) -> Problem:
        return self._needed.problem

    @property
    def _name(self) -> str:
        return self._problem.score_name

    def _happened(self, episode: Episode, report: EpochReport) -> None:
        """What moved, counted over environments: one line per kind of event."""
        moved = transitions(episode, report, self._needed)
        counted: dict[str, int] = {}
        for slot, blueprint, there, cause in zip(
            moved["slot"], moved["blueprint"], moved["to"], moved["cause"], strict=True
        ):
            if cause != "automatic":
                what = f"{cause} {slot}" + (f" with {blueprint}" if cause == "germinate" else f" -> {there}")
                counted[what] = counted.get(what, 0) + 1
        for what, hosts_moved in counted.items():
            self._console.print(f"    {what} in {hosts_moved} host{'s' if hosts_moved > 1 else ''}")


def _cells(stages: Any) -> str:
    """The slots of one host."""
    marks = (GLYPHS[Stage(stage)] for stage in stages.tolist())
    return "".join(f"[{style}]{letter}[/]" for letter, style in marks)


def _shown(score: Any, problem: Problem) -> Any:
    """A score in the task's own direction."""
    return score if problem.higher_is_better else -score
