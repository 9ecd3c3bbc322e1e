"""`docs/configuration.md` says of every key its default and its values as the settings classes have them."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import attrs
import pytest
from pages import code, page
from settings_cells import default_of, values_of

from esper_core import errors
from esper_core.plugin.catalogue import Catalogue, Entry
from esper_core.plugin.loader import load
from esper_core.runner.config.contradictions import READ_BY
from esper_core.runner.config.records import CHOICES, SECTIONS, TABLES, Config
from esper_core.state.settings import OptimizerSettings

PAGE = page("docs/configuration.md")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load(no_plugins=True)


def classes(catalogue: Catalogue) -> Iterator[tuple[str, type[Any]]]:
    """Every settings class with the heading of its table."""
    yield from ((f"`[{name}]`", record) for name, record in SECTIONS.items())
    yield "`[train.host]` and `[train.seed]`", OptimizerSettings
    for kind in (*CHOICES, *TABLES):
        for entry in catalogue.entries(kind):
            record = entry.settings()
            if record is not None:
                yield heading_of(entry), record
                for field in attrs.fields(attrs.resolve_types(record)):
                    for inner in get_args(field.type):
                        if isinstance(inner, type) and attrs.has(inner):
                            yield f"`[[{kind}.{field.name}]]` of `{entry.name}`", inner


def heading_of(entry: Entry[Any]) -> str:
    return (
        f'`[{entry.kind}."{entry.name}"]`' if entry.kind in TABLES else f"`[{entry.kind}]` of `{entry.name}`"
    )


def test_every_settings_class_has_a_table_and_every_table_a_class(catalogue: Catalogue) -> None:
    tables = [table.heading for table in PAGE.tables if table.columns[:3] == ("key", "default", "values")]
    assert sorted(tables) == sorted(heading for heading, _ in classes(catalogue))


@pytest.mark.acceptance("QU-05", "CF-04")
def test_every_key_stands_there_with_its_default_and_its_values(catalogue: Catalogue) -> None:
    for heading, record in classes(catalogue):
        table = PAGE.table(heading)
        assert table.columns == ("key", "default", "values", "meaning")
        written = {code(key): (default, values) for key, default, values, _ in table.rows}
        expected = {
            field.name: (default_of(field), values_of(field))
            for field in attrs.fields(attrs.resolve_types(record))
        }
        assert list(written) == list(expected), heading
        for key, cells in expected.items():
            assert written[key] == cells, f"{heading} {key}"
        assert all(meaning.endswith(".") for *_, meaning in table.rows), heading


def test_every_section_of_the_configuration_has_a_heading() -> None:
    headings = re.findall(r"^## .*$", PAGE.text, re.MULTILINE)
    for field in attrs.fields(Config):
        assert any(f"[{field.name}" in heading for heading in headings), field.name


def test_the_choices_and_their_defaults_are_listed(catalogue: Catalogue) -> None:
    table = PAGE.table("What is chosen by name")
    listed = {code(row[0]): row[1:] for row in table.rows}
    assert set(listed) == {f"{kind}.name" for kind in CHOICES} | set(TABLES.values())
    for kind, default in CHOICES.items():
        expected = f"`{default}`" if default else "required"
        assert listed[f"{kind}.name"][0] == expected
        assert re.findall(r"`([^`]+)`", listed[f"{kind}.name"][1]) == list(catalogue.names(kind))
    for kind, key in TABLES.items():
        assert re.findall(r"`([^`]+)`", listed[key][1]) == list(catalogue.names(kind))


def test_the_keys_that_one_update_rule_reads_are_named() -> None:
    text = PAGE.prose
    for key, rule in READ_BY.items():
        assert re.search(rf"`{key}`[^.]*`{rule}`|`{rule}`[^.]*`{key}`", text), key


def test_the_exit_codes_are_those_of_the_errors() -> None:
    kinds = (errors.ConfigError, errors.PluginError, errors.RunError, errors.Interrupted)
    for name in ("docs/configuration.md", "docs/commands.md"):
        table = page(name).table("Exit codes")
        listed = {int(code(row[0])): row[1] for row in table.rows}
        assert set(listed) == {0, *(kind.exit_code for kind in kinds)}
        for kind in kinds:
            assert f"`{kind.__name__}`" in listed[kind.exit_code]


def test_the_check_itself_reads_validators() -> None:
    """The words for a field follow from its validators; another bound gives other words."""
    fields = attrs.fields_dict(attrs.resolve_types(SECTIONS["growth"]))
    assert values_of(fields["max_live"]) == "whole number, >= 1"
    assert (
        values_of(fields["targets"]) == "list of number, at least 1, no entry twice, each > 0.0, each <= 1.0"
    )
    assert values_of(fields["budget"]) == "whole number, >= 0"
    assert default_of(fields["budget"]) == "not set"
