"""What only asks a question imports nothing heavy, and the core imports nothing that is only for a screen."""

import json
import os
import pkgutil
import subprocess
import sys
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

import esper_core

HEAVY = {"torch", "sklearn", "scipy"}
CALLED = """
import json, sys
from esper_core.cli import main
try:
    main(json.loads(sys.argv[1]), prog_name="esper")
finally:
    sys.stderr.write(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
GUARDED = """
import importlib, json, sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in forbidden:
            raise ImportError(f"{name} is not installed in a bare environment")

modules, forbidden = json.loads(sys.argv[1])
sys.meta_path.insert(0, Guard())
for name in modules:
    importlib.import_module(name)
"""
IMPORT_NAMES = {"scikit-learn": "sklearn", "tomli-w": "tomli_w"}


def python(code: str, argument: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, json.dumps(argument)]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "light"),
    [
        (["--help"], {"numpy", "cattrs", "rich"}),
        (["--version"], {"numpy", "cattrs", "rich"}),
        (["plugins"], {"numpy", "cattrs", "rich"}),
        (["plugins", "--json"], {"numpy", "cattrs", "rich"}),
        (["run", "--help"], {"numpy", "cattrs", "rich"}),
        (["config", "show", "digits"], {"numpy", "rich"}),
        (["config", "show", "spirals", "--origins"], {"numpy", "rich"}),
        (["config", "validate", "digits", "--set", "policy.name=random"], {"numpy", "rich"}),
        (["config", "validate", "digits", "--set", "train.epochs=0"], {"numpy", "rich"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_questions_are_cheap(arguments: list[str], light: set[str]) -> None:
    result = python(CALLED, arguments)
    imported = set(json.loads(result.stderr.splitlines()[-1]))
    assert result.returncode == (2 if "train.epochs=0" in arguments else 0), result.stderr
    assert "esper_core" in imported
    assert imported & (HEAVY | light) == set()


def test_the_api_and_the_plugin_surface_import_nothing_heavy() -> None:
    modules = ["esper_core", "esper_core.plugin", "esper_core.cli", "esper_plugins"]
    result = python(GUARDED, [modules, [*HEAVY, "numpy"]])
    assert result.returncode == 0, result.stderr


@pytest.mark.acceptance("X-22")
def test_the_core_imports_in_a_bare_environment() -> None:
    wanted = [Requirement(text) for text in requires("esper-morph") or ()]
    dependencies = {requirement.name for requirement in wanted if requirement.marker is None}
    bare = {"torch", "numpy", "attrs", "pluggy"}
    assert bare < dependencies
    forbidden = [IMPORT_NAMES.get(name, name) for name in sorted(dependencies - bare)]
    (folder,) = esper_core.__path__
    names = [
        info.name
        for package in ("state", "rules", "phases", "model", "plugin")
        for info in pkgutil.walk_packages([f"{folder}/{package}"], f"esper_core.{package}.")
    ]
    assert {"esper_core.state.slots", "esper_core.phases.collect", "esper_core.plugin.loader"} <= set(names)
    result = python(GUARDED, [names, forbidden])
    assert result.returncode == 0, result.stderr


def test_a_module_is_a_command_too() -> None:
    command = [sys.executable, "-m", "esper_core", "config", "validate", "digits"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "digits: valid\n")
