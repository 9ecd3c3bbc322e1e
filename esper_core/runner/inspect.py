"""Inspection: a task before it is run, and a run during or after it.

Role: gathers facts and lays them out; no training.
Neighbours: `runner.api.inspect` calls it, `cli` prints it.
"""

import json
from collections.abc import Iterator
from statistics import mean
from typing import Any

import attrs
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from esper_core.errors import RunError
from esper_core.model.problem import SPLITS
from esper_core.model.program import count_parameters
from esper_core.plugin.catalogue import Catalogue
from esper_core.runner import checkpoint, compare, grown
from esper_core.runner.config import Config
from esper_core.runner.display.picture import LEGEND, by_mode, cells, comparison, trend
from esper_core.runner.events import plain
from esper_core.runner.files import read_json
from esper_core.runner.folder import RunFolder
from esper_core.runner.setup import program_of
from esper_core.state.slots import Stage

SHOWN = 32
"""Lanes that are drawn."""


@attrs.frozen
class Inspection:
    """Facts as JSON values, and the same for the eye.

    Attributes:
        facts: JSON values.
        picture: for a rich console.
    """

    facts: dict[str, Any]
    picture: RenderableType

    def __str__(self) -> str:
        """The picture as text."""
        console = Console(width=110, no_color=True)
        with console.capture() as captured:
            console.print(self.picture)
        return captured.get()


def inspect_task(config: Config, catalogue: Catalogue) -> Inspection:
    """Host, slots, and what each seed would add."""
    program, host = program_of(config, catalogue)
    problem, space = program.problem, program.space
    slots = [
        {
            **attrs.asdict(site),
            "enabled": bool(space.enabled[s]),
            "seeds": {
                name: int(space.cost[s, p, 0])
                for p, name in enumerate(space.blueprints)
                if space.cost[s, p, 0] >= 0
            },
        }
        for s, site in enumerate(program.sites)
    ]
    data = {name: len(problem.split(name)) for name in SPLITS}
    facts = {
        "task": config.task.name,
        "host": {"name": problem.host.name, "parameters": count_parameters(host)},
        "slots": slots,
        "data": data,
        "score": problem.score_name,
    }
    table = Table(
        title="slots, in execution order, and the parameters that a seed would add", title_justify="left"
    )
    for heading in ("slot", "kind", "width", *space.blueprints):
        table.add_column(Text(heading))
    for slot in slots:
        costs = [str(slot["seeds"].get(name, "-")) for name in space.blueprints]
        table.add_row(Text(slot["name"]), slot["kind"], str(slot["width"]), *costs)
    sizes = ", ".join(f"{size:,} to {name}" for name, size in data.items())
    head = Text(
        f"{config.task.name}: host {problem.host.name} with {count_parameters(host):,} parameters; "
        f"{problem.score_name} over {sizes}"
    )
    return Inspection(facts, Group(head, table))


def inspect_run(folder: RunFolder) -> Inspection:
    """Status, what grew where and when, and the comparison if there is one."""
    manifest, status = read_json(folder.manifest), folder.status()
    lives = list(_lifecycle(folder))
    about = next((e for e in _events(folder) if e["kind"] == "run"), {})
    rounds = [e for e in _events(folder) if e["kind"] == "round"]
    # returns of several reward modes have no common unit
    returns = [mean(e["returns"]) for e in rounds if len(set(e["modes"])) == 1]
    report = compare.read(folder.report) if folder.report.exists() else None
    seeds = grown.read(folder.grown).seeds if folder.grown.exists() else None
    facts: dict[str, Any] = {
        "folder": str(folder.path),
        "status": status,
        "checkpoint": _checkpoint(folder),
        "host": {"parameters": about.get("host_parameters")},
        "slots": about.get("slots"),
        "lifecycle": lives,
        "returns": returns,
        "grown": None if seeds is None else [attrs.asdict(seed) for seed in seeds],
        "report": None if report is None else plain({"score": report[0], **attrs.asdict(report[1])}),
    }
    parts: list[RenderableType] = [
        Text(f"{folder.path}: {status}, seed {manifest['seed']}, last checkpoint {facts['checkpoint']}")
    ]
    if len(returns) > 1:
        parts.append(
            Text(f"mean return by round, from {returns[0]:.3f} to {returns[-1]:.3f}:  {trend(returns)}")
        )
    if about:
        parts += _lanes(lives, about, max(0, len(rounds) - 1))
    else:
        parts.append(
            Text('no events were written (run.level = "off" or no jsonl sink), so there is no history')
        )
    for seed in seeds or ():
        what = f"{seed.blueprint.name} at {seed.site.name}, influence {seed.influence:g}"
        parts.append(Text(f"grown: {what}, {seed.parameters:,} parameters"))
    if report is not None:
        score, found = report
        parts.append(comparison(score, found.arms))
        parts += [by_mode(score, found.modes)] if found.modes else []
    return Inspection(facts, Group(*parts))


def _checkpoint(folder: RunFolder) -> str | None:
    saved = checkpoint.listed(folder.checkpoints)
    return str(saved[-1]) if saved else None


def _events(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Events of a run, whole lines only: the last line of a running run may be in the making."""
    if not folder.events.exists():
        return
    with folder.events.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise RunError(f"{folder.events}:{number}: is not valid JSON: {error}") from error


def _lifecycle(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """One row per change of stage."""
    for event in _events(folder):
        if event["kind"] == "lifecycle":
            columns = {k: v for k, v in event.items() if isinstance(v, list)}
            for row in zip(*columns.values(), strict=True):
                yield {
                    "round": event["round"],
                    "epoch": event["epoch"],
                    **dict(zip(columns, row, strict=True)),
                }


def _lanes(lives: list[dict[str, Any]], about: dict[str, Any], done: int) -> list[RenderableType]:
    """Every slot of every environment of the last round as a lane: a letter per epoch.

    Args:
        lives: changes of stage.
        about: the event `run`.
        done: number of the last round that is complete; one that is in play and has changes is shown instead.
    """
    last = max((row["round"] for row in lives), default=0)
    last = max(last, done)
    lanes: dict[tuple[int, str], list[Stage]] = {}
    for row in lives:
        if row["round"] == last:
            lane = lanes.setdefault((row["env"], row["slot"]), [Stage.DORMANT] * about["epochs"])
            stage = Stage[row["to"].upper()]
            lane[row["epoch"] :] = [stage] * (about["epochs"] - row["epoch"])
    head = f"round {last + 1} of {about['rounds']}: a letter per epoch; slots where nothing grew are left out"
    parts: list[RenderableType] = [Text(head), Text(LEGEND, style="dim")]
    for (env, slot), stages in sorted(lanes.items())[:SHOWN]:
        parts.append(Text(f"env {env:>3}  {slot:<12} ").append_text(cells(stages)))
    if len(lanes) > SHOWN:
        parts.append(Text(f"and {len(lanes) - SHOWN} more", style="dim"))
    return parts
