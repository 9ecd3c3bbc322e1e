"""Options that several commands share.

Role: one definition each, so that they mean the same everywhere.
Neighbours: the commands of this package.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from esper_core.runner.display import Mode

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
_DISPLAY = "esper.display"


def sets(command: Decorated) -> Decorated:
    """`--set KEY=VALUE`, any number of times; passed as `sets`."""
    text = "Override one key of the configuration, such as train.epochs=8; may be repeated, the last wins."
    return click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help=text)(command)


def _choose(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Remember which display was asked for; it survives the command's own context."""
    if not value:
        return
    earlier = ctx.meta.setdefault(_DISPLAY, param.name)
    if earlier != param.name:
        raise click.UsageError(f"--{earlier} and --{param.name} exclude each other", ctx)


def _display(name: str, text: str) -> Callable[[Decorated], Decorated]:
    return click.option(f"--{name}", is_flag=True, callback=_choose, expose_value=False, help=text)


json = _display("json", "One JSON object a line on stdout.")
"""`--json`; read it with `display` or `wants_json`."""


def displays(command: Decorated) -> Decorated:
    """`--quiet`, `--plain` and `--json`, of which one may be given; read it with `display`."""
    quiet = _display("quiet", "Show nothing but errors.")
    plain = _display("plain", "Plain lines, no live display.")
    return quiet(plain(json(command)))


def display() -> "Mode":
    """The display that was asked for: "auto", "quiet", "plain" or "json"."""
    chosen: Mode = click.get_current_context().meta.get(_DISPLAY, "auto")
    return chosen


def wants_json(ctx: click.Context) -> bool:
    """Whether `--json` was given to the command that is running."""
    return bool(ctx.meta.get(_DISPLAY) == "json")
