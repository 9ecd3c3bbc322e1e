"""Small runs: spirals in a few epochs, so that a whole run takes about a second."""

import json
from pathlib import Path
from typing import Any

SMALL = ("task.samples=60", "train.epochs=8", "train.batch_size=12", "run.envs=2")
CLOCK = "clock"


def events(folder: Path) -> list[dict[str, Any]]:
    """Events of a run without their clocks."""
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != CLOCK} for line in lines]
