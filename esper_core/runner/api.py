"""The Python API: what the command line does, as functions.

Role: resolves configuration and plugins, makes or opens the run folder, and starts the loop.
Neighbours: `esper_core` re-exports these lazily; `cli` is a skin over them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from esper_core.errors import ConfigError
from esper_core.runner import checkpoint, display, folder
from esper_core.runner.compare import Arm
from esper_core.runner.config import Source, catalogue_for, load, origins
from esper_core.runner.display import Mode
from esper_core.runner.display.protocol import Display
from esper_core.runner.display.screen import Droppable
from esper_core.runner.files import read_json
from esper_core.runner.inspect import Inspection, inspect_run, inspect_task
from esper_core.runner.loop import Loop
from esper_core.runner.setup import assemble


@attrs.frozen(kw_only=True)
class Result:
    """What a run came to.

    Attributes:
        folder: everything about it.
        arms: `static`, `everywhere`, `grown` and `twin`, on the report split.
        modes: the grown networks of each reward mode; empty where one mode paid all of them.
        score: name of the score.
    """

    folder: Path
    arms: Mapping[str, Arm]
    modes: Mapping[str, Arm]
    score: str


def run(
    source: Source,
    *,
    sets: Sequence[str] = (),
    out: str | Path | None = None,
    seed: int | None = None,
    rounds: int | None = None,
    envs: int | None = None,
    policy: str | Path | None = None,
    display: Mode = "quiet",
    no_plugins: bool = False,
) -> Result:
    """Grow networks and compare them with static ones.

    Args:
        source: name of a task, path of a TOML file, or the content of one.
        sets: overrides, for example "train.epochs=8".
        out: the run folder; None makes one under `runs/`.
        seed: root of all randomness.
        rounds: of episodes.
        envs: hosts that train side by side.
        policy: name of a controller, or path of a TOML file with a script for one. This and the three before
            it win over `sets`; None leaves them to it.
        display: what is shown meanwhile.
        no_plugins: load Esper's own plugins only.

    Raises:
        EsperError: one of its kinds, with a message that says what to do; see `esper_core.errors`.
    """
    script = None if policy is None else str(policy)
    flags = {"run.seed": seed, "run.rounds": rounds, "run.envs": envs, "policy": script}
    catalogue = catalogue_for(source, sets=sets, no_plugins=no_plugins)
    config = load(source, sets=sets, flags=flags, catalogue=catalogue)
    folder.refuse_existing(out)
    try:
        setup = assemble(config, catalogue)
    except ConfigError as error:
        found = origins(source, sets=sets, flags=flags, catalogue=catalogue)
        raise ConfigError(_with_origin(str(error), found)) from error
    about = folder.describe(config, catalogue, setup.cast.device.fingerprint)
    where = folder.create(out, config, about)
    with where.held():
        result = Loop(setup, where, _display(display)).run(None)
    return Result(
        folder=where.path,
        arms=result.arms,
        modes=result.modes,
        score=setup.cast.program.problem.score_name,
    )


def resume(path: str | Path, *, display: Mode = "quiet") -> Result:
    """Go on with a run from its last whole checkpoint.

    Args:
        path: the run folder.
        display: what is shown meanwhile.

    Raises:
        EsperError: one of its kinds; `ConfigError` if the run is finished or the folder is not one.
    """
    where = folder.open_existing(path)
    with where.held():
        if where.status() == "finished":
            raise ConfigError(f"{path}: the run is finished; look at it with: esper inspect {path}")
        catalogue = catalogue_for(str(where.config))
        config = load(str(where.config), catalogue=catalogue, preset=False)
        start, complaints = checkpoint.last(where.checkpoints)
        setup = assemble(config, catalogue)
        _check_fingerprint(where, setup.cast.device.fingerprint)
        where.mark("running", passed_over=complaints)
        result = Loop(setup, where, _display(display)).run(start)
    return Result(
        folder=where.path,
        arms=result.arms,
        modes=result.modes,
        score=setup.cast.program.problem.score_name,
    )


def inspect(target: str | Path, *, sets: Sequence[str] = (), no_plugins: bool = False) -> Inspection:
    """Look at a task (host, parameters, slots) or at a run (what grew where and when).

    Args:
        target: name of a task, path of a TOML file, or a run folder.
        sets: overrides, for a task.
        no_plugins: load Esper's own plugins only.
    """
    is_folder = Path(target).is_dir()
    if is_folder and folder.RunFolder(Path(target)).manifest.exists():
        return inspect_run(folder.open_existing(target))
    catalogue = catalogue_for(str(target), sets=sets, no_plugins=no_plugins)
    if is_folder and str(target) not in {
        word for e in catalogue.entries("task") for word in (e.name, e.bare)
    }:
        return inspect_run(folder.open_existing(target))
    return inspect_task(load(str(target), sets=sets, catalogue=catalogue), catalogue)


def _display(mode: Mode) -> Display:
    return Droppable(display.display(mode))


def _with_origin(message: str, found: Mapping[str, str]) -> str:
    """What only the built things could tell, with who set the key that the message begins with."""
    keys = [key for key in found if re.match(rf"{re.escape(key)}\b", message)]
    return f"{found[max(keys, key=len)]}: {message}" if keys else message


def _check_fingerprint(where: folder.RunFolder, now: Mapping[str, Any]) -> None:
    """A run goes on only where its numbers go on."""
    written = read_json(where.manifest)["fingerprint"]
    changed = sorted(key for key in {*written, *now} if written.get(key) != now.get(key))
    if changed:
        lines = [f"  {key}: was {written.get(key)!r}, is {now.get(key)!r}" for key in changed]
        raise ConfigError(
            "\n".join(
                [
                    f"{where.path}: this machine computes other bits than the one that began the run:",
                    *lines,
                    "resume where it began, or start a new run with: esper run " + str(where.config),
                ]
            )
        )
