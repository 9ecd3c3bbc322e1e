"""Events: what happened, as columns over environments, by level.

Role: turns an epoch's report into JSON-ready dictionaries. `LEVELS` says which kinds a level writes;
`docs/events.md` says what is in them, and a test holds the two together. Everything that depends on the clock
is under "clock", so that two runs of one seed are equal without it.
Neighbours: `phases.collect` reports, sinks receive. Nothing here is read by training.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
import numpy as np

from esper_core.model.program import Program, SeedKey
from esper_core.phases.collect import Episode, EpochReport
from esper_core.plugin.protocols import Sink
from esper_core.rules import ramps
from esper_core.rules.lifecycle import Refusal
from esper_core.state.actions import HEADS_OF, Op, name_of
from esper_core.state.evidence import Evidence
from esper_core.state.governor import Verdict
from esper_core.state.plans import GradientStatistics
from esper_core.state.slots import PLANTED, Stage

_LIFECYCLE = ("run", "lifecycle", "nonfinite", "rollback", "round", "result")
_NORMAL = (*_LIFECYCLE, "epoch", "decision", "seeds")
LEVELS: dict[str, tuple[str, ...]] = {
    "off": (),
    "lifecycle": _LIFECYCLE,
    "normal": _NORMAL,
    "debug": (*_NORMAL, "gradients", "reward", "interactions"),
}
"""Kinds of events by level; every level writes what the one before it writes."""

ESCALATION = 5
"""Epochs for which the level is debug after something was not finite."""

Event = dict[str, Any]


class Events:
    """Sends the events of a run to its sinks."""

    def __init__(self, level: str, sinks: Iterable[Sink], program: Program) -> None:
        """Start at a level; sinks live as long as the run."""
        self._level = level
        self._sinks = list(sinks)
        self._program = program
        self._escalated = 0
        self._names: dict[Any, tuple[str, ...]] = {}

    def send(self, kind: str, **fields: Any) -> None:
        """Send one event if the level writes its kind."""
        level = "debug" if self._escalated and self._level == "normal" else self._level
        if kind not in LEVELS[level]:
            return
        clock = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields.pop("clock", {})}
        event = {"kind": kind, **plain(fields), "clock": plain(clock)}
        for sink in self._sinks:
            sink.write(event)

    def epoch(self, episode: Episode, report: EpochReport) -> None:
        """Send everything about an epoch; `episode` is the one after it."""
        at = {"round": episode.round_index, "epoch": episode.epoch - 1}
        if episode.epoch == 1:
            # A resumed run begins with a round, and must write what the whole run would.
            self._escalated = 0
        bad = list(nonfinite(episode, report, self._program, self._parameters))
        self._escalated = ESCALATION if bad else max(0, self._escalated - 1)
        for fields in bad:
            self.send("nonfinite", **at, **fields)
        moved = transitions(episode, report, self._program)
        if len(moved["env"]):
            self.send("lifecycle", **at, **moved)
        if report.verdict.any():
            self.send("rollback", **at, **rollbacks(episode, report))
        self.send("decision", **at, **decisions(episode, report, self._program))
        self.send("epoch", **at, **hosts(episode, report), clock=_clock(report))
        self.send("seeds", **at, **seeds(episode, report, self._program))
        self.send("gradients", **at, host=_columns(report.counts.host), seeds=_columns(report.counts.seeds))
        self.send("reward", **at, total=report.payment.total, components=dict(report.payment.components))
        pairs = {"value": report.attribution.interaction, "error": report.attribution.interaction_error}
        self.send("interactions", **at, env=episode.envs, **pairs)

    def _parameters(self, key: SeedKey | None) -> tuple[str, ...]:
        """Names of parameters, looked up once: a storm of failures costs no more than the first."""
        if key not in self._names:
            self._names[key] = self._program.parameter_names(key)
        return self._names[key]

    def close(self) -> None:
        """Close every sink."""
        for sink in self._sinks:
            sink.close()


def transitions(episode: Episode, report: EpochReport, program: Program) -> Event:
    """Every change of stage in an epoch, as columns; a seed that could not be built is one, too.

    What a rollback changed comes last: it happened after the epoch was trained.
    """
    failed = (report.tried.stage == Stage.GERMINATED) & ~report.built
    moved = np.argwhere((report.before.stage != report.after.stage) | failed)
    undone = np.argwhere((report.after.stage != episode.slots.stage) & (report.verdict != 0)[:, None])
    planted = report.tried.within(PLANTED)
    changes = [
        (env, slot, report.before, report.tried if planted[env, slot] else report.before, report.after)
        for env, slot in moved.tolist()
    ]
    causes = [_cause(report, env, slot) for env, slot in moved.tolist()] + ["rollback"] * len(undone)
    changes += [(env, slot, report.after, report.after, episode.slots) for env, slot in undone.tolist()]
    return {
        "env": [int(episode.envs[env]) for env, *_ in changes],
        "slot": [program.space.slots[slot] for _, slot, *_ in changes],
        "seed": [int(table.seed[env, slot]) for env, slot, _, table, _ in changes],
        "blueprint": [
            _named(program.space.blueprints, table.blueprint[env, slot]) for env, slot, _, table, _ in changes
        ],
        "from": [name_of(Stage(was.stage[env, slot])) for env, slot, was, _, _ in changes],
        "to": [name_of(Stage(now.stage[env, slot])) for env, slot, _, _, now in changes],
        "cause": causes,
        "influence": [ramps.influence(now)[env, slot] for env, slot, _, _, now in changes],
        "parameters": [now.parameters[env, slot] for env, slot, _, _, now in changes],
    }


def rollbacks(episode: Episode, report: EpochReport) -> Event:
    """The environments that the governor rolled back, why, and to which epoch; as columns."""
    env = np.flatnonzero(report.verdict)
    return {
        "env": episode.envs[env],
        "verdict": [name_of(Verdict(v)) for v in report.verdict[env].tolist()],
        "loss": report.attribution.loss[env],
        "score": report.attribution.score[env],
        "restored": report.restored[env],
        "reward": report.payment.total[env],
    }


def nonfinite(
    episode: Episode,
    report: EpochReport,
    program: Program,
    parameters: Callable[[SeedKey | None], tuple[str, ...]],
) -> Iterable[Event]:
    """One event for a loss that was not finite, else one for every gradient that was not.

    A lost loss makes every gradient behind it NaN, so it is told once, with the first seed that has such a
    gradient; if none has, with the host's first parameter.

    Args:
        episode: after the epoch.
        report: of the epoch.
        program: names the slots.
        parameters: `Program.parameter_names`, or a cache of it.
    """
    counts, names = report.counts, program.space.slots
    lost = counts.bad_losses > 0
    groups: list[tuple[int, int | None]] = [
        (int(env), None) for env in np.flatnonzero(lost | (counts.host.nonfinite > 0))
    ]
    groups += [(int(env), int(site)) for env, site in np.argwhere(counts.seeds.nonfinite > 0)]
    told: set[int] = set()
    for env, site in sorted(groups, key=lambda group: (group[0], group[1] is None)):
        if env in told:
            continue
        if lost[env]:
            told.add(env)
        slots = report.after
        key = None if site is None else (site, int(slots.blueprint[env, site]), int(slots.blend[env, site]))
        at = counts.host if site is None else counts.seeds
        row = env if site is None else (env, site)
        yield {
            "what": "loss" if lost[env] else "gradient",
            "env": int(episode.envs[env]),
            "slot": None if site is None else names[site],
            "parameter": _named(parameters(key), at.culprit[row]),
            "steps": int(counts.bad_losses[env] if lost[env] else at.nonfinite[row]),
        }


def decisions(episode: Episode, report: EpochReport, program: Program) -> Event:
    """What was asked for, with names, and why it was refused if it was; null for heads that are not used."""
    space, decision = program.space, report.decision
    choices: dict[str, list[Any]] = {
        "slot": list(space.slots),
        "blueprint": list(space.blueprints),
        "blend": [name_of(b) for b in space.blends],
        "curve": [name_of(c) for c in space.curves],
        "target": space.targets.tolist(),
        "speed": space.speeds.tolist(),
    }
    ops = [Op(op) if op in set(Op) else None for op in decision.op.tolist()]
    columns: Event = {"env": episode.envs, "op": [name_of(op) if op is not None else None for op in ops]}
    for head, names in choices.items():
        chosen = getattr(decision, head).tolist()
        columns[head] = [
            _named(names, index) if op is not None and head in HEADS_OF[op] else None
            for op, index in zip(ops, chosen, strict=True)
        ]
    columns["refused"] = [name_of(Refusal(r)) if r else None for r in report.refused.tolist()]
    return columns


def hosts(episode: Episode, report: EpochReport) -> Event:
    """Losses, scores and rewards of every environment."""
    return {
        "env": episode.envs,
        "train_loss": episode.signals.train_loss,
        "loss": episode.signals.loss,
        "score": episode.signals.score,
        "score_error": report.attribution.score_error,
        "committed": episode.signals.committed,
        "committed_error": report.attribution.committed_error,
        "best": episode.signals.best,
        "plateau": episode.signals.plateau,
        "reward": report.payment.total,
        "gradient_norm": report.counts.host.root_mean_square,
        "parameters": report.after.parameters.sum(axis=1),
    }


def seeds(episode: Episode, report: EpochReport, program: Program) -> Event:
    """Where every seed stands and all evidence about it, a row per seed, with its Banzhaf value."""
    slots = report.after
    env, slot = np.nonzero(slots.within(PLANTED))
    evidence = {a.name: getattr(episode.evidence, a.name)[env, slot] for a in attrs.fields(Evidence)}
    return {
        "env": episode.envs[env],
        "slot": [program.space.slots[s] for s in slot],
        "seed": slots.seed[env, slot],
        "blueprint": [program.space.blueprints[b] for b in slots.blueprint[env, slot]],
        "stage": [name_of(Stage(s)) for s in slots.stage[env, slot]],
        "influence": ramps.influence(slots)[env, slot],
        "parameters": slots.parameters[env, slot],
        "age": slots.age[env, slot],
        **evidence,
        "banzhaf": report.attribution.banzhaf[env, slot],
        "banzhaf_error": report.attribution.banzhaf_error[env, slot],
    }


def plain(value: Any) -> Any:
    """JSON values: arrays become lists, and what is not finite becomes null."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _cause(report: EpochReport, env: int, slot: int) -> str:
    """The operation that moved a slot, or what else did."""
    decision = report.decision
    if report.refused[env] == Refusal.NONE and decision.op[env] != Op.WAIT and decision.slot[env] == slot:
        return name_of(Op(decision.op[env]))
    gone = report.after.stage[env, slot] == Stage.PRUNED
    return "diverged" if gone and not report.before.withdrawing[env, slot] else "automatic"


def _named(names: Any, index: Any) -> Any:
    """An entry of a list, or None if there is none."""
    return names[int(index)] if 0 <= int(index) < len(names) else None


def _clock(report: EpochReport) -> Event:
    return {"wait_ms": report.wait_ms, "device_ms": report.device_ms, "host_ms": report.host_ms}


def _columns(statistics: GradientStatistics) -> Event:
    return {a.name: getattr(statistics, a.name) for a in attrs.fields(GradientStatistics)}
