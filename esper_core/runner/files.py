"""Files that are whole or not there: written aside, flushed, renamed; with hashes.

Role: the only module that writes JSON and safetensors.
Neighbours: `runner.folder`, `runner.checkpoint` and `runner.grown` use it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from esper_core.errors import RunError


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.part")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON; what is not finite is refused, because JSON has no name for it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        RunError: the file is missing or malformed; the message has its path.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path}: is not valid JSON: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors, whole or not at all; each gets storage of its own."""
    aside = path.with_name(f".{path.name}.part")
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors.

    Raises:
        RunError: the file is missing or malformed; the message has its path.
    """
    try:
        return load_file(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    except SafetensorError as error:
        raise RunError(f"{path}: is not a whole safetensors file: {error}") from error


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
