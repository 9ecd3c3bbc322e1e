"""Names find records, or a message that says what was meant, and who is in the way."""

import re
from pathlib import Path

import pytest
from distributions import blueprint, fake_esper, plugin

from esper_core.errors import ConfigError, EsperError, PluginError
from esper_core.plugin.catalogue import Catalogue
from esper_core.plugin.loader import load


@pytest.fixture(autouse=True)
def _esper(site: Path) -> None:
    fake_esper(site)


def refusal(catalogue: Catalogue, kind: str, name: str, where: str | None = None) -> EsperError:
    with pytest.raises(EsperError) as caught:
        catalogue.find(kind, name, where=where)
    return caught.value


def test_full_and_bare_names_find_the_same_entry() -> None:
    catalogue = load()
    entry = catalogue.find("blueprint", "lowrank")
    assert entry == catalogue.find("blueprint", "esper/lowrank")
    assert (entry.name, entry.bare, entry.kind, entry.source) == (
        "esper/lowrank",
        "lowrank",
        "blueprint",
        "esper-morph 9.9",
    )
    assert entry.label == "blueprint 'esper/lowrank' of esper-morph 9.9"
    assert entry.settings().__name__ == "LowRank"  # type: ignore[union-attr]
    assert catalogue.find("blueprint", "linear").settings() is None


def test_kinds_are_apart() -> None:
    catalogue = load()
    assert catalogue.names("policy") == ("esper/random", "esper/scripted", "esper/static")
    assert catalogue.names("command") == ()
    with pytest.raises(ConfigError):
        catalogue.find("policy", "lowrank")
    with pytest.raises(
        ValueError, match="no such kind of record: 'blueprints'; the kinds are blueprint, term, reward"
    ):
        catalogue.names("blueprints")


@pytest.mark.acceptance("HE-01")
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lowrnk", "'lowrank'"),
        ("esper/lowrnk", "'esper/lowrank'"),
        ("espr/linear", "'esper/linear'"),
        ("Linear", "'linear'"),
    ],
)
def test_an_unknown_name_raises_with_the_nearest_and_the_valid_list(name: str, hint: str) -> None:
    error = refusal(load(), "blueprint", name, "growth.blueprints")
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"growth.blueprints: there is no blueprint {name!r}; did you mean {hint}? "
        "(blueprints that are installed: esper/linear, esper/lowrank)"
    )


@pytest.mark.acceptance("HE-01")
def test_a_name_like_no_other_raises_without_a_hint() -> None:
    assert str(refusal(load(), "sink", "quux")) == (
        "there is no sink 'quux' (sinks that are installed: esper/columns, esper/jsonl)"
    )


def test_a_bare_name_in_two_namespaces_is_ambiguous_and_a_full_one_is_not(site: Path) -> None:
    plugin(site, "acme-esper", blueprint("acme/linear"))
    catalogue = load()
    error = refusal(catalogue, "blueprint", "linear", "growth.blueprints")
    assert isinstance(error, ConfigError)
    assert str(error) == (
        "growth.blueprints: 'linear' is ambiguous: write one of acme/linear, esper/linear in full"
    )
    assert catalogue.find("blueprint", "acme/linear").distribution == "acme-esper"


def test_a_conflict_names_both_and_neither_wins(site: Path) -> None:
    plugin(site, "one-esper", blueprint("acme/a"), "1.1")
    plugin(site, "two-esper", blueprint("acme/a"), "2.2")
    catalogue = load()
    assert "acme/a" not in catalogue.names("blueprint")
    assert [e.source for e in catalogue.conflicts("blueprint")["acme/a"]] == [
        "one-esper 1.1",
        "two-esper 2.2",
    ]
    for name in ("acme/a", "a"):
        error = refusal(catalogue, "blueprint", name)
        assert isinstance(error, PluginError)
        assert "blueprint 'acme/a' is offered by one-esper 1.1 and two-esper 2.2, and neither wins" in str(
            error
        )
        assert "plugins.block = ['two-esper']" in str(error)
    assert catalogue.find("blueprint", "linear").name == "esper/linear"


def test_a_built_in_name_that_a_plugin_claims_is_never_left_out_in_silence(site: Path) -> None:
    assert [e.name for e in load().built_in("blueprint")] == ["esper/linear", "esper/lowrank"]
    plugin(site, "acme-esper", blueprint("esper/linear"))
    with pytest.raises(PluginError, match=r"offered by acme-esper 1\.0 and esper-morph 9\.9"):
        load().built_in("blueprint")


def test_a_plugin_that_failed_may_be_the_one_that_was_meant(site: Path) -> None:
    plugin(site, "acme-esper", "raise RuntimeError('no licence')", "0.3")
    error = refusal(load(), "blueprint", "acme/ghost")
    assert isinstance(error, PluginError)
    assert "there is no blueprint 'acme/ghost'" in str(error)
    assert (
        "It may belong to a plugin that failed: acme-esper 0.3 (RuntimeError: no licence). "
        "Next: `esper plugins --failed`"
    ) in str(error)


def test_a_plugin_that_was_not_admitted_may_be_the_one_that_was_meant(site: Path) -> None:
    plugin(site, "acme-esper", blueprint("acme/ghost"))
    error = refusal(load(no_plugins=True), "blueprint", "acme/ghost")
    assert isinstance(error, ConfigError)
    assert "Not loaded, and so not searched: acme-esper 1.0 (--no-plugins)" in str(error)


def test_a_settings_class_must_be_one(site: Path) -> None:
    body = blueprint("acme/a").replace("summary=", "settings='acme_esper:NotAClass', summary=")
    plugin(site, "acme-esper", body + "\nNotAClass = 3\n")
    message = re.escape(
        "blueprint 'acme/a' of acme-esper 1.0: settings 'acme_esper:NotAClass' must be an attrs class"
    )
    with pytest.raises(PluginError, match=message):
        load().find("blueprint", "acme/a").settings()
