"""The run folder: everything about a run, in one place that is never overwritten.

    config.toml     the resolved configuration
    manifest.json   versions, plugins, seed, machine, fingerprint, status
    events.jsonl    what happened, if the sink `jsonl` is on
    checkpoints/    one folder per round
    policy/         the controller after the last round
    grown/          the best grown network
    report.json     the comparison
    run.lock        held by the process that runs it

Role: paths, creation, manifest.
Neighbours: `runner.loop` writes into it, `runner.inspect` reads it.
"""

import fcntl
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from esper_core.errors import ConfigError, RunError
from esper_core.plugin.catalogue import Catalogue
from esper_core.runner.config import Config, dumps
from esper_core.runner.files import read_json, write_json, write_text

FORMAT = 1
"""Version of the layout of a run folder."""
_MANIFEST: dict[str, type] = {"status": str, "seed": int, "fingerprint": dict}
"""What is read of a manifest."""


@attrs.frozen
class RunFolder:
    """Paths of a run.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.toml"

    @property
    def manifest(self) -> Path:
        """Versions, plugins, machine, status."""
        return self.path / "manifest.json"

    @property
    def events(self) -> Path:
        """What happened, if the sink `esper/jsonl` is on; written by it, and only read here."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder per round."""
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        """The controller."""
        return self.path / "policy"

    @property
    def grown(self) -> Path:
        """The best grown network."""
        return self.path / "grown"

    @property
    def report(self) -> Path:
        """The comparison."""
        return self.path / "report.json"

    @property
    def lock(self) -> Path:
        """Held by the process that runs it."""
        return self.path / "run.lock"

    def mark(self, status: str, **fields: Any) -> None:
        """Change the manifest's status, and other fields of it."""
        write_json(self.manifest, {**read_json(self.manifest), "status": status, **fields})

    def status(self) -> str:
        """Running, interrupted, failed or finished, as the manifest says; killed if nobody runs it."""
        status = str(read_json(self.manifest)["status"])
        return "killed" if status == "running" and not self._is_held() else status

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from running it; a process that is killed lets go.

        Raises:
            ConfigError: another one runs it, or the lock cannot be taken.
        """
        try:
            file = self.lock.open("a")
        except OSError as error:
            raise ConfigError(f"{self.lock}: cannot be locked: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"{self.path}: another process is running it; wait until it ends, or stop it. "
                    f"Look at it meanwhile with: esper inspect {self.path}"
                ) from error
            except OSError as error:
                raise ConfigError(f"{self.lock}: cannot be locked: {error.strerror}") from error
            yield

    def _is_held(self) -> bool:
        if not self.lock.exists():
            return False
        with self.lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def create(out: str | Path | None, config: Config, manifest: Mapping[str, Any]) -> RunFolder:
    """Make a new run folder.

    Args:
        out: the folder itself; None makes `runs/<time>-<task>-<id>`.
        config: resolved.
        manifest: what `describe` says.

    Raises:
        ConfigError: something is there already, or the folder cannot be made.
    """
    bare = config.task.name.split("/")[1]
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = Path(out) if out is not None else Path("runs") / f"{stamp}-{bare}-{secrets.token_hex(2)}"
    refuse_existing(path)
    folder, was_there, ours = RunFolder(path), path.exists(), False
    try:
        folder.checkpoints.mkdir(parents=True)
        ours = True
        write_text(folder.config, dumps(config))
        write_json(folder.manifest, {**manifest, "status": "running"})
    except OSError as error:
        if ours:
            shutil.rmtree(path, ignore_errors=True)
        if was_there:
            path.mkdir(exist_ok=True)
        raise ConfigError(f"{path}: the run folder cannot be made: {error.strerror}") from error
    return folder


def refuse_existing(out: str | Path | None) -> None:
    """Raise `ConfigError` if something is at `out`; None is always free."""
    path = None if out is None else Path(out)
    if path is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(
            f"{path}: exists and is not empty; a run is never overwritten. Choose another folder with --out, "
            f"or go on with it: esper resume {path}"
        )


def open_existing(path: str | Path) -> RunFolder:
    """A run folder that is there.

    Raises:
        ConfigError: it is not a run folder.
    """
    folder = RunFolder(Path(path))
    if not folder.manifest.is_file() or not folder.config.is_file():
        raise ConfigError(
            f"{path}: is not a run folder: it has no {folder.manifest.name} and {folder.config.name}; "
            "expected the folder that `esper run` printed"
        )
    try:
        found = read_json(folder.manifest)
    except RunError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(found, dict):
        raise ConfigError(f"{folder.manifest}: must be a JSON object, not {type(found).__name__}")
    if found.get("format") != FORMAT:
        raise ConfigError(
            f"{path}: was written in the format {found.get('format')}; this version reads the format {FORMAT}"
        )
    wrong = [key for key, kind in _MANIFEST.items() if not isinstance(found.get(key), kind)]
    if wrong:
        raise ConfigError(f"{folder.manifest}: is malformed: {', '.join(wrong)} missing or of a wrong type")
    return folder


def describe(config: Config, catalogue: Catalogue, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest records about a run: enough to repeat it, or to see why it cannot be."""
    chosen = {
        "task": [config.task.name],
        "policy": [config.policy.name],
        "reward": [config.reward.name],
        "device": [config.device.name],
        "blueprint": list(config.blueprint),
        "sink": list(config.sink),
    }
    entries = [(kind, catalogue.find(kind, name)) for kind, names in chosen.items() for name in names]
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": config.run.seed,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("esper-morph", "torch", "numpy")},
        },
        "plugins": [
            {
                "kind": kind,
                "name": e.name,
                "distribution": e.distribution,
                "version": e.version,
                "build": e.record.build,
            }
            for kind, e in entries
        ],
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
        "fingerprint": dict(fingerprint),
    }
