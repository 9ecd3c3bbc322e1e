"""The blocks of code on every page are run, top to bottom, in one folder per page.

* `python` runs; with a file name in a comment on its first line it is written there instead.
* `toml` must be valid: a configuration, a script for `--policy`, or a `pyproject.toml`; it is written, too.
* `console`: lines that begin with `$ ` are carried out. Runs get a tiny budget; what questions answer is
  compared with what the page shows, where `...` stands for any lines; `$ echo $?` asks for the exit code.

`pip install` of a folder installs what is there, without pip. `make` is only looked up: it takes minutes.
"""

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from distributions import install
from pages import NAMES, ROOT, Block, page

import esper_core
from esper_core.cli import main
from esper_core.plugin.loader import load as load_plugins
from esper_core.runner import api, config

TINY = ("run.envs=1", "run.rounds=1", "train.train_batches=1", "train.validation_batches=1")
LANGUAGES = {"python", "toml", "console", "text"}
"""`text` is for pictures and for output that nothing checks."""
COMPARED = ("inspect", "plugins", "config", "--help", "--version")
"""Commands whose answer does not depend on how long anything was trained."""


def _is_mode(value: object) -> bool:
    """A mode of a reward's family, in the file of a plugin; loading the plugin checks it."""
    return isinstance(value, dict) and all(
        isinstance(term, dict) and "component" in term for term in value.values()
    )


class Reader:
    """Somebody who types everything that is on a page."""

    def __init__(self, folder: Path, site: Path) -> None:
        self._folder = folder
        self._site = site
        self._names: dict[str, Any] = {"__name__": "page"}
        self._code = 0

    def read(self, block: Block) -> None:
        """Do what a block says."""
        named = re.match(r"# ([\w./-]+\.(?:py|toml))\n", block.text)
        if named:
            path = self._folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        if block.language == "toml":
            self._check_toml(tomllib.loads(block.text))
        elif block.language == "python":
            program = compile(block.text, f"block in line {block.line}", "exec")
            if not named:
                exec(program, self._names)
        elif block.language == "console":
            for command, output in _typed(block.text):
                self._type(command, output)

    def _check_toml(self, table: dict[str, Any]) -> None:
        if "project" in table or all(_is_mode(value) for value in table.values()):
            return
        if "steps" in table:
            table = {"policy": {"name": "scripted", **table}}
        complete = {"task": {"name": "digits"}, **table}
        config.load(complete, catalogue=load_plugins())

    def _type(self, command: str, output: list[str]) -> None:
        program, *arguments = shlex.split(command)
        if program == "echo":
            assert arguments == ["$?"]
            assert output == [str(self._code)], f"{command}: the exit code is {self._code}"
            return
        assert self._code in (0, 2), "a page goes on after a failure only to show its exit code"
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
            assert all("=" in argument for argument in arguments[1:]), command
        elif program == "pip":
            self._install(arguments)
        elif program == "cd":
            assert arguments == ["esper"]
        else:
            assert program == "esper", f"{command}: nobody can run this"
            self._esper(arguments, output)

    def _install(self, arguments: list[str]) -> None:
        assert arguments[0] == "install"
        for argument in arguments[1:]:
            if argument == "-e":
                continue
            wanted, _, extra = argument.partition("[")
            found = next((root / wanted for root in (self._folder, ROOT) if (root / wanted).exists()), None)
            if found is None or wanted == ".":
                project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
                pinned = [
                    line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()
                ]
                assert wanted in (".", "-c", project["name"]) or wanted.partition("==")[0] in pinned, argument
                assert not extra or extra.rstrip("]") in project["optional-dependencies"], argument
            elif found.is_dir():
                self._copy(found)

    def _copy(self, source: Path) -> None:
        """What pip would do with a folder of Python files."""
        project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
        install(
            self._site,
            project["name"],
            project["version"],
            entry_points=project["entry-points"]["esper.plugins"],
            files={
                str(path.relative_to(source)): path.read_text()
                for path in source.rglob("*.*")
                if path.suffix in (".py", ".toml") and path.name != "pyproject.toml"
            },
        )

    def _esper(self, arguments: list[str], output: list[str]) -> None:
        result = CliRunner().invoke(main, arguments, prog_name="esper")
        self._code = result.exit_code
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception
        about_a_run = any(Path(argument).is_dir() for argument in arguments)
        if output and any(word in arguments for word in COMPARED) and not about_a_run:
            _assert_in_order(output, result.output.splitlines())
        assert "Error: " in " ".join(output) or result.exit_code == 0, result.output


def _typed(text: str) -> Iterator[tuple[str, list[str]]]:
    """Commands of a console block, each with the output that the page shows."""
    command = ""
    output: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            if command:
                yield command, output
            command, output = line[2:], []
        else:
            output.append(line)
    yield command, output


def _assert_in_order(shown: list[str], real: list[str]) -> None:
    """Every shown line is there, in order; only `...` lets lines be left out."""
    rest = [line.rstrip() for line in real]
    skipping = False
    for line in shown:
        if line.strip() == "...":
            skipping = True
            continue
        assert line.rstrip() in rest, f"{line!r} is not in the output (or not there):\n" + "\n".join(real)
        at = rest.index(line.rstrip())
        assert skipping or at == 0, f"before {line!r} there is {rest[:at]}"
        rest, skipping = rest[at + 1 :], False
    assert skipping or rest == [], f"after the last shown line there is {rest}"


@pytest.fixture
def reader(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A reader in an empty folder, whose runs are tiny, beside a run that was stopped."""
    real = api.run

    def tiny(source: Any, *, sets: Any = (), **others: Any) -> Any:
        return real(source, sets=[*sets, *TINY], **others)

    monkeypatch.setattr(api, "run", tiny)
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path, site)


def _stopped(folder: Path) -> None:
    """A run that was stopped before its first round was over."""
    result = esper_core.run("spirals", sets=["train.epochs=2", "policy.name=static"], out=folder)
    shutil.rmtree(result.folder / "checkpoints" / "round-000001")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))


@pytest.mark.parametrize("name", [name for name in NAMES if page(name).blocks])
def test_what_the_page_shows_works(name: str, reader: Reader) -> None:
    if "runs/stopped" in page(name).text:
        _stopped(Path("runs/stopped"))
    for block in page(name).blocks:
        try:
            reader.read(block)
        except Exception as error:
            error.add_note(f"{name}, line {block.line}")
            raise


@pytest.mark.parametrize("name", NAMES)
def test_every_block_says_what_it_is(name: str) -> None:
    text = page(name).text
    assert {block.language for block in page(name).blocks} <= LANGUAGES
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(page(name).blocks)


def test_the_reader_notices_what_does_not_work(reader: Reader) -> None:
    """Mutants: a wrong answer, a wrong exit code, code that fails, a configuration with a slip."""
    wrong = (
        Block("console", "$ esper config validate digits\nspirals: valid\n", 1),
        Block("console", "$ esper config validate digits\n$ echo $?\n2\n", 1),
        Block("console", "$ esper config validate digts\n", 1),
        Block("console", "$ make coffee\n", 1),
        Block("console", "$ pip install esper\n", 1),
        Block("python", "assert False\n", 1),
        Block("toml", "[train]\nepoch = 3\n", 1),
    )
    for block in wrong:
        with pytest.raises((AssertionError, esper_core.EsperError)):
            reader.read(block)
