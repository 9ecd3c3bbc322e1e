"""The command line: a skin over the Python API.

Role: the group `main`. Commands are thin, one file each, and import what is heavy only when they run.
Neighbours: `cli.shell` finds plugins' commands and turns errors into exit codes.
"""

try:
    import click

    from esper_core.cli.config import config
    from esper_core.cli.inspect import inspect
    from esper_core.cli.plugins import plugins
    from esper_core.cli.resume import resume
    from esper_core.cli.run import run
    from esper_core.cli.shell import Shell
except KeyboardInterrupt:
    # The program is being loaded, and nothing has begun that there would be something to say about.
    raise SystemExit(130) from None


@click.group(cls=Shell, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="esper-morph", prog_name="esper")
def main() -> None:
    """Train neural networks that grow.

    Begin with `esper run digits`.
    """


for command in (run, resume, inspect, config, plugins):
    main.add_command(command)
