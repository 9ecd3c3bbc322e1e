"""Every plugin gets one try on its own: what fails is told and harms nobody else."""

import logging
import sys
from pathlib import Path

import pytest
from distributions import blueprint, fake_esper, install, plugin

from esper_core.errors import PluginError
from esper_core.plugin import loader
from esper_core.plugin.catalogue import Catalogue, Plugin
from esper_core.plugin.loader import load

SINK = """
@hookimpl
def esper_sinks():
    yield Sink(name='acme/s', build='a:b')
"""


@pytest.fixture(autouse=True)
def _esper(site: Path) -> None:
    fake_esper(site)


def of(catalogue: Catalogue, distribution: str) -> Plugin:
    (found,) = (p for p in catalogue.plugins if p.distribution == distribution)
    return found


def test_plugins_load_sorted_by_distribution_and_entry_point(site: Path) -> None:
    plugin(site, "zeta-esper", blueprint("zeta/a"))
    plugin(site, "Acme.Esper", blueprint("acme/a"))
    loaded = load()
    assert [p.distribution for p in loaded.plugins] == ["acme-esper", "esper-morph", "zeta-esper"]
    assert all(p.status == "loaded" for p in loaded.plugins)
    assert {"acme/a", "zeta/a", "esper/linear"} <= set(loaded.names("blueprint"))
    assert loaded.names("blueprint") == tuple(sorted(loaded.names("blueprint")))


def test_two_distributions_with_one_entry_point_name_both_load(site: Path) -> None:
    plugin(site, "one-esper", blueprint("one/a"), point="attn")
    plugin(site, "two-esper", blueprint("two/a"), point="attn")
    assert {"one/a", "two/a"} <= set(load().names("blueprint"))


def test_one_distribution_may_have_several_entry_points(site: Path) -> None:
    source = f"from esper_core.plugin import Sink, hookimpl\n{SINK}"
    install(
        site,
        "acme-esper",
        entry_points={"b": "acme_b", "a": "acme_a"},
        files={"acme_a.py": source, "acme_b.py": source.replace("acme/s", "acme/t")},
    )
    points = [p.entry_point for p in load().plugins if p.distribution == "acme-esper"]
    assert points == ["a", "b"]
    assert {"acme/s", "acme/t"} <= set(load().names("sink"))


BROKEN = {
    "raises": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "syntax": ("def (:", "SyntaxError: "),
    "missing": ("import acme_missing", "ModuleNotFoundError: No module named 'acme_missing'"),
    "misspelled hook": (
        "@hookimpl\ndef esper_blueprint():\n    yield 1",
        "PluginValidationError: unknown hook 'esper_blueprint'",
    ),
    "unknown argument": (
        "@hookimpl\ndef esper_sinks(config):\n    yield 1",
        "PluginValidationError: ",
    ),
    "hook raises": ("@hookimpl\ndef esper_sinks():\n    raise ValueError('oops')", "ValueError: oops"),
    "generator raises": (f"{SINK}    raise ValueError('late')", "ValueError: late"),
    "wrong record": (
        "@hookimpl\ndef esper_blueprints():\n    yield Sink(name='acme/s', build='a:b')",
        "hook esper_blueprints must yield Blueprint records, but yielded Sink(",
    ),
    "no iterable": (
        "@hookimpl\ndef esper_sinks():\n    return 3",
        "hook esper_sinks must yield records, but returned 3",
    ),
    "bad name": (
        "@hookimpl\ndef esper_sinks():\n    yield Sink(name='Ghost', build='a:b')",
        "ValueError: Sink name 'Ghost' must read 'namespace/name'",
    ),
    "bad import string": (
        "@hookimpl\ndef esper_sinks():\n    yield Sink(name='acme/s', build='a.b')",
        "build = 'a.b' must be an import string",
    ),
    "bad settings": (
        "@hookimpl\ndef esper_sinks():\n    yield Sink(name='acme/s', build='a:b', settings='x')",
        "settings = 'x' must be an import string",
    ),
    "bad preset": (
        "@hookimpl\ndef esper_tasks():\n    yield Task(name='acme/s', build='a:b', preset='acme.toml')",
        "preset = 'acme.toml' must have the form 'package:file.toml'",
    ),
    "bad kind": (
        "@hookimpl\ndef esper_blueprints():\n    yield Blueprint(name='acme/s', build='a:b', fits=['graph'])",
        "fits = ['graph'] must name at least one of ['map', 'sequence', 'vector']",
    ),
    "twice": (
        f"{SINK}    yield Sink(name='acme/s', build='c:d')",
        "hook esper_sinks yields acme/s more than once",
    ),
    "newer level": (
        "ESPER_API = 2",
        "needs plugin API level 2, and this Esper speaks 1. "
        "Next: upgrade esper-morph: `pip install --upgrade esper-morph`",
    ),
    "level zero": (
        "ESPER_API = 0",
        "needs plugin API level 0, and this Esper speaks 1. Next: upgrade bad-esper",
    ),
    "level of a wrong type": ("ESPER_API = '1'", "ESPER_API must be a whole number, not '1'"),
}


@pytest.mark.parametrize(("body", "error"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_told_and_harms_nobody(
    site: Path, body: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    plugin(site, "bad-esper", body, "0.3")
    plugin(site, "good-esper", blueprint("good/a"))
    with caplog.at_level(logging.WARNING):
        loaded = load()
    (failure,) = loaded.failures
    assert (failure.distribution, failure.version, failure.entry_point) == ("bad-esper", "0.3", "bad_esper")
    assert error in failure.error
    assert "Traceback" in failure.traceback
    assert of(loaded, "bad-esper").status == "failed"
    assert of(loaded, "bad-esper").records == ()
    assert loaded.find("blueprint", "good/a").distribution == "good-esper"
    assert loaded.find("blueprint", "linear").distribution == "esper-morph"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("plugin bad-esper 0.3 (entry point 'bad_esper') failed and is not used: ")
    assert "`esper plugins --failed`" in line


def test_an_interrupt_during_loading_goes_through(site: Path) -> None:
    plugin(site, "bad-esper", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load()


def test_the_level_before_the_present_one_is_accepted(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "API_LEVEL", 3)
    plugin(site, "two-esper", "ESPER_API = 2\n" + blueprint("two/a"))
    plugin(site, "three-esper", "ESPER_API = 3\n" + blueprint("three/a"))
    plugin(site, "old-esper", blueprint("old/a"))
    loaded = load()
    assert {"two/a", "three/a"} <= set(loaded.names("blueprint"))
    assert "needs plugin API level 1, and this Esper speaks 2 or 3" in of(loaded, "old-esper").note


def test_a_plugin_that_registers_nothing_gets_a_warning(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    plugin(site, "idle-esper", "")
    loaded = load()
    assert (of(loaded, "idle-esper").status, of(loaded, "idle-esper").note) == ("loaded", "registers nothing")
    assert "plugin idle-esper 1.0 (entry point 'idle_esper') registers nothing" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        ({}, {"acme-esper", "other-esper"}),
        ({"no_plugins": True}, set()),
        ({"block": ["acme-esper"]}, {"other-esper"}),
        ({"block": ["Acme_Esper"]}, {"other-esper"}),
        ({"allow": ["acme.esper"]}, {"acme-esper"}),
        ({"allow": ["acme-esper"], "no_plugins": True}, set()),
        ({"block": ["esper-morph"]}, {"acme-esper", "other-esper"}),
    ],
)
def test_what_is_not_admitted_is_never_imported(site: Path, arguments: dict, loaded: set[str]) -> None:
    for name in ("acme-esper", "other-esper"):
        plugin(site, name, blueprint(f"{name}/a"))
    catalogue = load(**arguments)
    strangers = {"acme-esper", "other-esper"}
    assert {p.distribution for p in catalogue.plugins if p.status == "loaded"} == loaded | {"esper-morph"}
    assert {p.distribution for p in catalogue.plugins if p.status == "skipped"} == strangers - loaded
    imported = {name for name in strangers if name.replace("-", "_") in sys.modules}
    assert imported == loaded


def test_what_was_skipped_says_why(site: Path) -> None:
    plugin(site, "acme-esper", blueprint("acme/a"))
    assert of(load(no_plugins=True), "acme-esper").note == "--no-plugins"
    assert of(load(block=["acme-esper"]), "acme-esper").note == "named in plugins.block"
    assert of(load(allow=["other"]), "acme-esper").note == "not named in plugins.allow"


def test_two_calls_share_nothing(site: Path) -> None:
    plugin(site, "acme-esper", blueprint("acme/a"))
    assert load() == load()
    assert load(no_plugins=True).names("blueprint") == ("esper/linear", "esper/lowrank")


def test_trace_shows_what_each_hook_yields(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plugin(site, "acme-esper", blueprint("acme/a"))
    with caplog.at_level(logging.WARNING):
        load()
        assert "acme/a" not in caplog.text
        monkeypatch.setenv("ESPER_TRACE_PLUGINS", "1")
        load()
    assert "acme-esper 1.0 (entry point 'acme_esper'): esper_blueprints -> acme/a" in caplog.text


def test_an_esper_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "entry_points", lambda group: [])
    loaded = load()
    (failure,) = loaded.failures
    assert (failure.distribution, failure.source) == ("esper-morph", "esper-morph")
    with pytest.raises(PluginError, match=r"there is no task 'digits'.*esper-morph \(not installed"):
        loaded.find("task", "digits")
