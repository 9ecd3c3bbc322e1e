"""`docs/events.md` against events of real runs, kind by kind and field by field, at every level."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from pages import code, page, words_of_code
from worlds import cast_of, epochs, program, script, spirals, step

import esper_core
from esper_core.plugin import MEASURES, Choice, Floats, Ints, Rule, View
from esper_core.runner.events import ESCALATION, LEVELS, Events, plain
from esper_core.state.actions import name_of
from esper_core.state.attribution import Attribution
from esper_core.state.evidence import Evidence
from esper_core.state.governor import Verdict
from esper_core.state.plans import GradientStatistics
from esper_core.state.signals import HostSignals

PAGE = page("docs/events.md")
SMALL = ("task.samples=60", "train.epochs=8", "train.batch_size=12", "run.envs=2")
BROKEN = (*SMALL, "train.host.lr=1e30", "train.host.clip=0.0", "policy.name=static")
"""The second step of every host is not finite any more."""
LEARNED = (*SMALL, "policy.name=lstm")
BY_NAME = {"arms", "components", "learning", "modes"}
"""Objects whose names depend on the run."""


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[dict[str, Any]]]:
    """Events of the same healthy run at every level, of broken runs, and of one that learns."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for level in LEVELS:
        for name, sets in ((level, SMALL), (f"broken {level}", BROKEN)):
            if name in (level, "broken lifecycle", "broken normal"):
                result = esper_core.run("spirals", sets=[*sets, f"run.level={level}"], out=folder / name)
                found[name] = events(result.folder)
    found["learned"] = events(esper_core.run("spirals", sets=LEARNED, out=folder / "learned").folder)
    return found


def levels() -> dict[str, tuple[str, ...]]:
    """The table of levels as the page has it."""
    table = PAGE.table("Levels")
    return {
        code(level): tuple(code(kind) for kind in kinds.split(", ") if kind) for level, kinds in table.rows
    }


def documented() -> dict[str, set[str]]:
    """Fields of every kind as the page has them, with those that every event has."""
    common = {code(row[0]) for row in PAGE.table("Fields").rows}
    tables = [table for table in PAGE.tables if len(table.headings) == 3 and table.headings[1] == "Fields"]
    return {code(table.heading): common | {code(row[0]) for row in table.rows} for table in tables}


def paths(value: Mapping[str, Any], prefix: str = "", anonymous: bool = False) -> Iterator[str]:
    """Every field of an event, dotted."""
    for key, item in value.items():
        path = f"{prefix}{'*' if anonymous else key}"
        if item == {} and key in BY_NAME:
            yield f"{path}.*"
        elif isinstance(item, dict):
            yield from paths(item, f"{path}.", key in BY_NAME)
        else:
            yield path


@pytest.mark.acceptance("TE-05", "TE-06")
def test_the_page_has_the_levels_of_the_code() -> None:
    assert levels() == LEVELS
    assert list(levels()) == list(LEVELS)
    assert set(documented()) == set(LEVELS["debug"])
    for lower, higher in zip(list(LEVELS)[:-1], list(LEVELS)[1:], strict=True):
        assert set(LEVELS[lower]) < set(LEVELS[higher])


@pytest.mark.acceptance("TE-05", "TE-06")
@pytest.mark.parametrize("level", LEVELS)
def test_a_level_writes_exactly_its_kinds(runs: Mapping[str, list[dict[str, Any]]], level: str) -> None:
    """All but `nonfinite` and `rollback`, which a healthy run does not have."""
    written = {event["kind"] for event in runs[level]}
    assert written == set(levels()[level]) - {"nonfinite", "rollback"}


@pytest.mark.acceptance("TE-05", "TE-06", "X-13")
@pytest.mark.parametrize("kind", LEVELS["debug"])
def test_a_kind_has_exactly_its_fields(runs: Mapping[str, list[dict[str, Any]]], kind: str) -> None:
    """In every event of the kind, at every level, healthy or broken."""
    found = [event for written in runs.values() for event in written if event["kind"] == kind]
    assert found
    for event in found:
        assert set(paths(event)) == documented()[kind]


@pytest.mark.acceptance("TE-06")
def test_what_is_not_finite_is_one_event_and_escalates(runs: Mapping[str, list[dict[str, Any]]]) -> None:
    assert {event["kind"] for event in runs["broken lifecycle"]} == set(LEVELS["lifecycle"]) - {"lifecycle"}
    written = runs["broken normal"]
    first = next(event for event in written if event["kind"] == "nonfinite")
    deep = [event["epoch"] for event in written if event["kind"] == "gradients"]
    assert deep == list(range(first["epoch"], 8)), "deep from the first bad epoch on"
    keys = [(e["what"], e["env"], e["slot"], e["epoch"]) for e in written if e["kind"] == "nonfinite"]
    assert len(keys) == len(set(keys))
    assert f"counts as `debug` for {ESCALATION} epochs, that one included" in " ".join(PAGE.text.split())


@pytest.mark.acceptance("TE-06")
@pytest.mark.parametrize(("level", "deep"), [("lifecycle", 0), ("normal", 1 + ESCALATION - 1), ("debug", 9)])
def test_an_escalation_ends(level: str, deep: int) -> None:
    """One bad epoch: it and the next four are deep at `normal`; another level is not touched by it."""
    world = program(spirals())
    cast = cast_of(world, script())
    *_, (episode, report) = epochs(cast)
    sink = Received()
    sent = Events(level, [sink], world)
    bad = attrs.evolve(report, counts=attrs.evolve(report.counts, bad_losses=np.asarray([1])))
    for number in range(9):
        sent.epoch(episode, bad if number == 0 else report)
    assert sum(event["kind"] == "gradients" for event in sink.events) == deep


@pytest.mark.acceptance("TE-06")
def test_rows_of_an_event_belong_together(runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """All columns of an event are equally long."""
    columnar = {"lifecycle", "rollback", "epoch", "decision", "seeds", "interactions"}
    seen = set()
    for event in (*runs["debug"], *runs["broken normal"]):
        if event["kind"] in columnar:
            seen.add(event["kind"])
            lengths = {len(value) for value in event.values() if isinstance(value, list)}
            assert len(lengths) == 1, event["kind"]
    assert seen == columnar


def test_what_the_learned_policy_tells_is_named(runs: Mapping[str, list[dict[str, Any]]]) -> None:
    (summary,) = (event for event in runs["learned"] if event["kind"] == "round")
    text = PAGE.text.partition("`esper/lstm` tells in `learning`: ")[2].partition("\n\n")[0]
    assert words_of_code(text) == set(summary["learning"])
    assert words_of_code(text)


@pytest.mark.acceptance("RL-02")
def test_rollbacks_of_a_round_are_counted_where_they_are_told(
    runs: Mapping[str, list[dict[str, Any]]],
) -> None:
    written = runs["broken normal"]
    told = [env for event in written if event["kind"] == "rollback" for env in event["env"]]
    (summary,) = (event for event in written if event["kind"] == "round")
    assert summary["rollbacks"] == [told.count(env) for env in summary["envs"]]
    assert min(summary["rollbacks"]) > 0


def test_the_operations_are_in_the_order_that_the_page_says(runs: Mapping[str, list[dict[str, Any]]]) -> None:
    (row,) = (row for row in PAGE.table("`round`").rows if row[0] == "`operations`")
    names = row[1].partition("carried out: ")[2].rstrip(".").split(", ")
    decided = [op for event in runs["normal"] if event["kind"] == "decision" for op in event["op"][:1]]
    (summary,) = (event for event in runs["normal"] if event["kind"] == "round")
    assert summary["operations"][0] == [decided.count(name) for name in names]


@pytest.mark.acceptance("X-13", "RL-08")
def test_everything_that_is_measured_reaches_an_event() -> None:
    """Signals are in `epoch`, evidence in `seeds`, statistics in `gradients`; nothing is left behind."""
    fields = documented()
    assert {field.name for field in attrs.fields(HostSignals)} <= fields["epoch"]
    assert {field.name for field in attrs.fields(Evidence)} <= fields["seeds"]
    for group in ("host", "seeds"):
        assert {f"{group}.{field.name}" for field in attrs.fields(GradientStatistics)} <= fields["gradients"]
    inner = {"bare", "players"}
    elsewhere = {"interaction": "value", "interaction_error": "error"}
    measured = {elsewhere.get(f.name, f.name) for f in attrs.fields(Attribution)} - inner
    assert measured <= fields["epoch"] | fields["seeds"] | fields["interactions"]


@pytest.mark.acceptance("X-13")
def test_an_epoch_event_has_what_the_next_decision_sees() -> None:
    """The numbers in the events of an epoch are those that the policy is shown before the next."""
    world = program(spirals())
    steps = (step(0, "germinate", "block0", blueprint="lowrank", speed=0), step(2, "advance", "block0"))
    watcher: list[View] = []
    cast = cast_of(world, lambda context: Watched(script(*steps)(context), watcher))
    sink = Received()
    sent = Events("normal", [sink], world)
    for episode, report in epochs(cast, envs=(3, 5)):
        sent.epoch(episode, report)
    by_kind = {kind: [e for e in sink.events if e["kind"] == kind] for kind in ("epoch", "seeds")}
    assert len(by_kind["epoch"]) == len(watcher) == world.train.epochs
    compared = 0
    for epoch, view in enumerate(watcher[1:]):
        told, seeds = by_kind["epoch"][epoch], by_kind["seeds"][epoch]
        assert told["env"] == [3, 5]
        for field in attrs.fields(HostSignals):
            assert told[field.name] == plain(getattr(view.signals, field.name))
        rows = [
            (told["env"].index(env), world.space.slots.index(s))
            for env, s in zip(seeds["env"], seeds["slot"], strict=True)
        ]
        for field in attrs.fields(Evidence):
            assert seeds[field.name] == [plain(getattr(view.evidence, field.name)[row]) for row in rows]
        compared += len(rows)
    assert compared > 0
    assert all(isinstance(value, float) for name in MEASURES for value in seeds[name])


def test_every_word_of_code_on_the_page_is_known() -> None:
    """Settings, kinds, levels, fields, values: nothing that the code does not have."""
    fields = {field for kind in documented().values() for field in kind}
    values = {"loss", "gradient", "dormant", "germinate", "diverged", "automatic", "null"}
    values |= {name_of(verdict) for verdict in Verdict}
    files = {"events.jsonl", "esper/jsonl", "esper/shipped", "run.level", "clock", "*", "host.*", "seeds.*"}
    parts = {"score", "shipped", "rent", "panic", '{"clock": {"time": ...}}'}
    about = PAGE.text.partition("`esper/lstm` tells in `learning`: ")
    learned = words_of_code("".join(about[1:2]) + about[2].partition("\n\n")[0])
    known = fields | values | files | parts | learned | set(LEVELS) | set(LEVELS["debug"])
    assert words_of_code(PAGE.text) <= known


class Received:
    """A sink that keeps what it gets, as JSON would."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def write(self, event: Mapping[str, Any]) -> None:
        self.events.append(json.loads(json.dumps(event)))

    def close(self) -> None:
        pass


class Watched(Rule):
    """A policy whose views are kept, and that asks for every measurement."""

    needs = MEASURES

    def __init__(self, policy: Any, views: list[View]) -> None:
        self._policy, self._views = policy, views

    def start(self, envs: Ints, round_index: int) -> Any:
        return self._policy.start(envs, round_index)

    def decide(self, view: View, memory: Any, uniforms: Floats) -> Choice:
        self._views.append(view)
        choice: Choice = self._policy.decide(view, memory, uniforms)
        return choice
