"""`esper run`: train, and say where the result is.

Role: passes its arguments on; a flag that was not given overrides nothing.
Neighbours: `cli.options` has the shared options, `runner.api` the work.
"""

from pathlib import Path

import click

from esper_core.cli import options


@click.command()
@click.argument("source", metavar="TASK|CONFIG.toml")
@options.sets
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the run, a new one.")
@click.option("--seed", type=int, help="Root of all randomness.")
@click.option("--rounds", type=int, help="Rounds of episodes.")
@click.option("--envs", type=int, help="Hosts that train side by side.")
@click.option("--policy", metavar="NAME|PATH", help="The controller, or a TOML file with a script for one.")
@options.displays
@click.option("--no-plugins", is_flag=True, help="Load no plugin but Esper's own.")
def run(
    source: str,
    sets: tuple[str, ...],
    out: Path | None,
    seed: int | None,
    rounds: int | None,
    envs: int | None,
    policy: str | None,
    no_plugins: bool,
) -> None:
    """Grow networks on a task, or as a configuration file says."""
    import esper_core

    esper_core.run(
        source,
        sets=sets,
        out=out,
        seed=seed,
        rounds=rounds,
        envs=envs,
        policy=policy,
        display=options.display(),
        no_plugins=no_plugins,
    )
