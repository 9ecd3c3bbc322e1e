"""Esper's own plugin: found through its entry point, resolvable, and configured without heavy imports."""

import tomllib

import attrs
import pytest

from esper_core.plugin.catalogue import PLURALS, Catalogue
from esper_core.plugin.imports import read_text
from esper_core.plugin.loader import load
from esper_core.runner import config
from esper_core.runner.config.records import CHOICES, RunSettings


@pytest.fixture(scope="module")
def built_ins() -> Catalogue:
    return load(no_plugins=True)


def test_nothing_of_it_fails(built_ins: Catalogue) -> None:
    assert built_ins.failures == ()
    assert [plugin.distribution for plugin in built_ins.plugins if plugin.records] == ["esper-morph"]


def test_what_the_core_chooses_by_default_is_there(built_ins: Catalogue) -> None:
    for kind, name in CHOICES.items():
        if name is not None:
            assert built_ins.find(kind, name).name == name
    for name in RunSettings().sinks:
        assert built_ins.find("sink", name).name == name


@pytest.mark.parametrize("kind", PLURALS)
def test_every_import_string_leads_somewhere(kind: str, built_ins: Catalogue) -> None:
    for entry in built_ins.entries(kind):
        if kind == "reward":
            assert tomllib.loads(read_text(entry.record.build, owner=entry.label))
        else:
            assert callable(entry.build())
        settings = entry.settings()
        assert settings is None or attrs.has(settings)
        assert entry.record.summary


@pytest.mark.acceptance("CF-04")
def test_every_preset_is_valid_and_loads_back_equal(built_ins: Catalogue) -> None:
    for entry in built_ins.entries("task"):
        assert entry.record.preset is not None
        assert read_text(entry.record.preset, owner=entry.label)
        loaded = config.load(entry.name, catalogue=built_ins)
        table = config.dumps(loaded)
        assert config.load(tomllib.loads(table), catalogue=built_ins, preset=False) == loaded
