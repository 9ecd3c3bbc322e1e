"""Does the controller learn, and is growing worth it? Whole runs of `digits`, one per seed.

    python benchmarks/learning.py [--seeds 5] [--out runs/learning] [--set KEY=VALUE ...]

First table: the mean return of the learned policy in its first and its last rounds, beside what rules get on
the hosts of the last round. Second table: the comparison that ends every run, as means over seeds with 95 %
intervals (t distribution), and the paired difference to the static host. A seed whose run is finished is not
run again, so that several processes may share the seeds.
"""

import json
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
from scipy import stats

import esper_core
from esper_core.phases import collect
from esper_core.runner import compare
from esper_core.runner.config import catalogue_for, load
from esper_core.runner.folder import open_existing
from esper_core.runner.setup import assemble

RULES = ("static", "random", "heuristic", "plant-lowest-rank", "probe-and-switch", "oracle")
LAST = 3
"""Rounds over which the first and the last returns are averaged."""


@click.command(help=__doc__)
@click.option("--seeds", default=5, help="How many seeds, from 0.")
@click.option("--only", type=int, default=None, help="Run this seed and print nothing.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/learning"))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
def main(seeds: int, only: int | None, out: Path, sets: tuple[str, ...]) -> None:
    """Run what is missing, then print both tables."""
    if only is not None:
        _row(out, only, sets)
        return
    rows = [_row(out, seed, sets) for seed in range(seeds)]
    print(f"\nmean return over hosts; 'first' and 'last' are {LAST} rounds of the learned policy\n")
    print(f"{'seed':>6} {'first':>8} {'last':>8} " + " ".join(f"{name:>17}" for name in RULES))
    for seed, row in enumerate(rows):
        rules = " ".join(f"{row['rules'][name]:>17.4f}" for name in RULES)
        print(f"{seed:>6} {row['first']:>8.4f} {row['last']:>8.4f} {rules}")
    for key in ("score", "mean"):
        what = "the selected network" if key == "score" else "all networks"
        print(
            f"\nreport split, {what}: mean over {seeds} seeds, 95 % interval, and the difference to static\n"
        )
        for name in compare.ARMS:
            values = np.asarray([row["arms"][name][key] for row in rows])
            apart = values - np.asarray([row["arms"]["static"][key] for row in rows])
            size = np.mean([row["arms"][name]["parameters"] for row in rows])
            print(f"{name:>12} {_interval(values)}   {_interval(apart)}   {size:>8.0f} parameters")


def _row(out: Path, seed: int, sets: tuple[str, ...]) -> dict[str, Any]:
    """A finished run's numbers; played if it is not there yet."""
    folder = out / f"seed-{seed}"
    if not (folder / "report.json").exists():
        esper_core.run("digits", seed=seed, out=folder, sets=sets, display="plain")
    cached = folder / "rules.json"
    if not cached.exists():
        cached.write_text(json.dumps(_rules(folder)))
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    returns = [float(np.mean(e["returns"])) for e in events if e["kind"] == "round"]
    _, arms = compare.read(folder / "report.json")
    return {
        "first": float(np.mean(returns[:LAST])),
        "last": float(np.mean(returns[-LAST:])),
        "rules": json.loads(cached.read_text()),
        "arms": {name: attrs.asdict(arm) for name, arm in arms.items()},
    }


def _rules(folder: Path) -> dict[str, float]:
    """Mean return of every rule on the hosts of the last round, at the rent of the last round."""
    config_file = str(open_existing(folder).config)
    catalogue = catalogue_for(config_file)
    found = {}
    for name in RULES:
        config = load(config_file, flags={"policy": name}, catalogue=catalogue, preset=False)
        setup = assemble(config, catalogue)
        episode = collect.begin(setup.cast, np.arange(config.run.envs), config.run.rounds - 1)
        for _ in range(config.train.epochs):
            episode, _ = collect.advance(setup.cast, episode)
        setup.cast.device.close()
        found[name] = float(episode.rollout.reward.sum(axis=0).mean())
    return found


def _interval(values: Any) -> str:
    """Mean and half the width of the 95 % interval of a mean over seeds."""
    if len(values) < 2:
        return f"{values.mean():.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.4f} +/- {half:.4f}"


if __name__ == "__main__":
    main()
