"""Asking costs nothing: what only answers a question starts without torch and without scikit-learn."""

import json
import subprocess
import sys

import pytest

BLOCKED = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "sklearn"):
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, Blocker())
arguments = json.loads(sys.argv[1])
if arguments is None:
    import esper_core, esper_core.plugin
    print(dir(esper_core), dir(esper_core.plugin))
else:
    from esper_core.cli import main
    main(arguments, prog_name="esper")
"""


def cold(arguments: list[str] | None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, json.dumps(arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.acceptance("X-22", "QU-03")
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (None, "load_grown"),
        (["--help"], "esper run digits"),
        (["plugins"], "esper/digits"),
        (["config", "show", "digits"], 'name = "esper/digits"'),
    ],
    ids=["import esper_core", "esper --help", "esper plugins", "esper config show digits"],
)
def test_a_question_needs_neither_torch_nor_scikit_learn(arguments: list[str] | None, shown: str) -> None:
    result = cold(arguments)
    assert result.returncode == 0, result.stderr
    assert shown in result.stdout


def test_the_blocker_blocks() -> None:
    result = cold(["inspect", "digits"])
    assert result.returncode != 0
    assert "torch was imported" in result.stderr
