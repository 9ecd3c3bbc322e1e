"""`docs/rewards.md` says of every family, mode and term what the code has."""

import re
import tomllib

import attrs
from pages import code, page, words_of_code
from settings_cells import default_of, values_of
from worlds import catalogue

from esper_core.plugin.imports import read_text
from esper_core.plugin.rewards import Term

PAGE = page("docs/rewards.md")


def test_every_family_has_its_modes() -> None:
    listed = {code(row[0]): re.findall(r"`([^`]+)`", row[1]) for row in PAGE.table("Families").rows}
    files = {
        e.name: tomllib.loads(read_text(e.record.build, owner="")) for e in catalogue().entries("reward")
    }
    assert listed == {name: list(table) for name, table in files.items()}
    old = [code(row[0]) for row in PAGE.table("Coming from the predecessor").rows]
    assert sorted(old) == sorted([*files["esper/contribution"], *files["esper/loss"]])


def test_every_term_is_there_with_what_it_declares() -> None:
    rows = {code(row[0]): row[1:] for row in PAGE.table("Terms").rows}
    assert list(rows) == [entry.name for entry in catalogue().entries("term")]
    for entry in catalogue().entries("term"):
        kind, units, bounds, needs, amount = rows[entry.name]
        settings = entry.settings()
        term: Term = entry.build()(*([settings()] if settings else []))  # type: ignore[operator]
        assert (kind, units) == (type(term).__name__, term.units), entry.name
        assert bounds == f"[{term.low:g}, {term.high:g}]", entry.name
        assert words_of_code(needs) == set(term.needs), entry.name
        assert entry.record.summary.endswith(amount), entry.name


def test_every_setting_of_a_term_is_there() -> None:
    tables = {table.heading: table for table in PAGE.tables if table.columns[0] == "key"}
    with_settings = [entry for entry in catalogue().entries("term") if entry.settings()]
    assert list(tables) == [f"`{entry.name}`" for entry in with_settings]
    for entry in with_settings:
        written = {code(row[0]): row[1:3] for row in tables[f"`{entry.name}`"].rows}
        fields = attrs.fields(attrs.resolve_types(entry.settings()))
        assert written == {f.name: (default_of(f), values_of(f)) for f in fields}, entry.name


def test_every_defect_is_answered() -> None:
    assert [code(row[0]) for row in PAGE.table("Its defects").rows] == [f"B{n}" for n in range(1, 27)]
