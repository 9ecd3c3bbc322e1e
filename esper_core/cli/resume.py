"""`esper resume`: go on with a run from its last whole checkpoint.

Role: passes its arguments on.
Neighbours: `cli.options` has the shared options, `runner.api` the work.
"""

from pathlib import Path

import click

from esper_core.cli import options


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@options.displays
def resume(folder: Path) -> None:
    """Go on with a run that was stopped."""
    import esper_core

    esper_core.resume(folder, display=options.display())
