"""A stranger's blueprint: installed by pip, chosen by configuration, grown, exported and loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import SMALL

SOURCE = Path(__file__).parents[1] / "external" / "acme-esper"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which pip has installed the distribution."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(SOURCE)]
    subprocess.run(command, check=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_it_is_grown_and_comes_back_without_a_run(tmp_path: Path, installed: dict[str, str]) -> None:
    steps = [
        {"epoch": 0, "op": "germinate", "slot": "block0", "blueprint": "acme/ghost", "speed": 0},
        {"epoch": 1, "op": "advance", "slot": "block0", "wait": True},
        {"epoch": 2, "op": "fossilize", "slot": "block0", "wait": True},
    ]
    script = tmp_path / "script.toml"
    script.write_text(
        "".join("[[steps]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in s.items()) for s in steps)
    )
    sets = [*SMALL, 'growth.blueprints=["acme/ghost"]', "growth.min_contribution=-1.0"]
    flags = [flag for s in sets for flag in ("--set", s)]
    command = [
        sys.executable,
        "-m",
        "esper_core",
        "run",
        "spirals",
        *flags,
        "--policy",
        str(script),
        "--json",
    ]
    found = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], env=installed, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    last = json.loads(found.stdout.splitlines()[-1])
    assert last["grown"]["parameters"] == last["static"]["parameters"] + 2 * 8
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    acme = [p for p in manifest["plugins"] if p["name"] == "acme/ghost"]
    assert [(p["distribution"], p["version"]) for p in acme] == [("acme-esper", "0.3")]
    load = f"esper_core.load_grown({str(tmp_path / 'run')!r})"
    loaded = [sys.executable, "-c", f"import esper_core; print(type({load}.seeds['block0'].branch))"]
    with_plugin = subprocess.run(loaded, env=installed, capture_output=True, text=True, check=True)
    assert "acme_esper.ghost" in with_plugin.stdout
    without = subprocess.run(loaded, capture_output=True, text=True, check=False)
    assert without.returncode != 0
    assert "acme_esper" in without.stderr
