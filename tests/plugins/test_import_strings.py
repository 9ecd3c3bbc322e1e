"""Import strings resolve only from plugins' distributions, and say what failed."""

from pathlib import Path

import pytest
from distributions import install

from esper_core.errors import PluginError
from esper_core.plugin.imports import read_text, resolve, resolve_own


@pytest.fixture
def acme(site: Path) -> None:
    """A distribution with a registration module, a package beside it, and things that break."""
    install(
        site,
        "acme-esper",
        entry_points={"acme": "acme_esper"},
        files={
            "acme_esper/__init__.py": "",
            "acme_esper/ghost.py": "def build(site): return site",
            "acme_esper/broken.py": "raise RuntimeError('no licence')",
            "acme_esper/notes.txt": "hello",
            "acme_extra.py": "answer = 42",
        },
    )
    (site / "stranger.py").write_text("def build(): ...")


@pytest.mark.usefixtures("acme")
def test_resolves_from_a_plugin_and_from_what_its_distribution_brings_along() -> None:
    assert resolve("acme_esper.ghost:build", owner="x")(3) == 3  # type: ignore[operator]
    assert resolve("acme_extra:answer", owner="x") == 42
    assert read_text("acme_esper:notes.txt", owner="x") == "hello"


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    "text", ["os:system", "stranger:build", "torch:load", "esper_core.errors:EsperError"]
)
def test_refuses_packages_that_no_plugin_brings(text: str) -> None:
    with pytest.raises(PluginError) as caught:
        resolve(text, owner="blueprint 'acme/ghost' of acme-esper 1.0")
    message = str(caught.value)
    assert message.startswith("blueprint 'acme/ghost' of acme-esper 1.0: ")
    assert text in message
    assert f"provides the package {text.split(':')[0].split('.')[0]!r}" in message
    assert "acme_esper" in message
    assert "`esper plugins`" in message


@pytest.mark.usefixtures("acme")
def test_an_untrusted_file_is_refused_too() -> None:
    with pytest.raises(PluginError, match=r"'stranger:notes.txt' is not loaded"):
        read_text("stranger:notes.txt", owner="x")


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("acme_esper.absent:build", "ModuleNotFoundError: No module named 'acme_esper.absent'"),
        ("acme_esper.ghost:bulid", "AttributeError: module 'acme_esper.ghost' has no attribute 'bulid'"),
        ("acme_esper.broken:build", "RuntimeError: no licence"),
    ],
)
def test_a_failing_import_names_string_cause_and_next_command(text: str, cause: str) -> None:
    with pytest.raises(PluginError) as caught:
        resolve(text, owner="task 'acme/t'")
    message = str(caught.value)
    assert f"task 'acme/t': cannot load {text!r}: {cause}" in message
    assert f"`python -c 'import {text.split(':')[0]}'`" in message


@pytest.mark.parametrize("text", ["acme_esper", "acme_esper:", ":build", "acme_esper:a.b"])
def test_malformed_strings_are_refused(text: str) -> None:
    with pytest.raises(PluginError, match=r"is not an import string of the form 'package.module:attribute'"):
        resolve(text, owner="x")


@pytest.mark.usefixtures("acme")
def test_an_interrupt_during_the_import_goes_through(site: Path) -> None:
    (site / "acme_esper" / "slow.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        resolve("acme_esper.slow:build", owner="x")


@pytest.mark.usefixtures("acme")
def test_a_missing_file_is_named() -> None:
    with pytest.raises(PluginError, match=r"cannot load 'acme_esper:gone\.toml': FileNotFoundError"):
        read_text("acme_esper:gone.toml", owner="x")


def test_the_core_is_no_plugins_code_even_where_one_distribution_has_both(site: Path) -> None:
    """As in a wheel of Esper itself, whose list of files has the core and the plugin."""
    core = {"esper_core/errors.py": "", "acme_esper/__init__.py": ""}
    install(site, "acme-esper", entry_points={"acme": "acme_esper"}, files={"acme_esper/__init__.py": ""})
    (site / "acme_esper-1.0.dist-info" / "RECORD").write_text("".join(f"{file},,\n" for file in core))
    with pytest.raises(PluginError, match="provides the package 'esper_core'"):
        resolve("esper_core.errors:EsperError", owner="x")


def test_what_a_plugin_only_imported_is_not_its_own(site: Path) -> None:
    source = (
        "from os import system\nfrom subprocess import Popen\nimport os\ndef build(): ...\nclass Record: ..."
    )
    install(site, "acme-esper", entry_points={"acme": "acme_esper"}, files={"acme_esper/__init__.py": source})
    for name in ("build", "Record"):
        assert resolve_own(f"acme_esper:{name}", owner="x")
    for name, home in (("system", "posix"), ("Popen", "subprocess"), ("os", "nowhere")):
        assert resolve(f"acme_esper:{name}", owner="x")
        with pytest.raises(PluginError, match=rf"x: 'acme_esper:{name} \(defined in {home}\)' is not loaded"):
            resolve_own(f"acme_esper:{name}", owner="x")
