"""Annotations tell the truth: every default is of the type that its field states, and CI checks the rest."""

import tomllib
from typing import Any

import attrs
import pytest
from settings_classes import SETTINGS
from source_code import ROOT

from esper_core.runner import strict


def complete(record: type[Any]) -> Any:
    """An instance with its defaults; fields without one get a value of their own."""
    given = {"epoch": 0, "op": "prune", "slot": "block0"} if record.__name__ == "ScriptStep" else {}
    return record(**given)


@pytest.mark.acceptance("CF-09", "QU-04")
@pytest.mark.parametrize("record", SETTINGS, ids=lambda record: record.__name__)
def test_every_default_is_what_its_annotation_says(record: type[Any]) -> None:
    """The strict converter refuses a whole number for a text, a list for a record, None for a number."""
    made = complete(record)
    table = strict.without_none(strict.unstructure(made))
    assert strict.structure(table, record) == made
    hints = attrs.fields_dict(attrs.resolve_types(record))
    absent = {name for name, value in attrs.asdict(made, recurse=False).items() if value is None}
    assert all(type(None) in getattr(hints[name].type, "__args__", ()) for name in absent)


@pytest.mark.acceptance("CF-09", "QU-04", "QU-08")
def test_ci_runs_a_strict_type_check_on_both_packages() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True
    assert settings["packages"] == ["esper_core", "esper_plugins"]
    assert "make lint" in (ROOT / ".ci" / "run").read_text()
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert all(tool in lint for tool in ("ruff check", "ruff format --check", "mypy"))
