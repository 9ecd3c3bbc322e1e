"""A stranger's distribution, built and installed by pip, is found; its blueprint behaves at birth."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from distributions import first_on_path

SOURCE = Path(__file__).parents[1] / "external" / "acme-esper"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip installed the distribution into."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(SOURCE)], check=True
    )
    return folder


def esper(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "esper_core", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_esper_plugins_shows_it_beside_the_built_in_one(installed: Path) -> None:
    result = esper(installed, "plugins", "--json")
    plugins = {plugin["distribution"]: plugin for plugin in json.loads(result.stdout)["plugins"]}
    assert {"acme-esper", "esper-morph"} <= set(plugins)
    acme = plugins["acme-esper"]
    assert (acme["version"], acme["entry_point"], acme["status"]) == ("0.3", "acme", "loaded")
    assert acme["records"] == [
        {"kind": "blueprint", "name": "acme/ghost", "summary": "Scale and shift every channel"}
    ]
    assert result.stderr == ""


def test_a_configuration_may_choose_it_and_without_plugins_it_may_not(installed: Path) -> None:
    chosen = ["config", "validate", "digits", "--set", 'growth.blueprints=["ghost"]']
    assert esper(installed, *chosen).returncode == 0
    refused = esper(installed, *chosen, "--set", 'plugins.block=["acme-esper"]')
    assert refused.returncode == 2
    assert "Not loaded, and so not searched: acme-esper 0.3 (named in plugins.block)" in refused.stderr


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 4)])
def test_it_is_born_as_nothing_and_learns(installed: Path, shape: tuple[int, ...]) -> None:
    with first_on_path(installed):
        build = importlib.import_module("acme_esper.ghost").build
    seed = build(SimpleNamespace(width=3, kind="map" if len(shape) == 4 else "vector"))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seed(x), torch.zeros(shape))
    (seed(x) + x).square().sum().backward()
    for parameter in seed.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().min() > 0
