"""Settings of the policies; imports without torch."""

from typing import Literal

from attrs import field, frozen
from attrs.validators import deep_iterable, ge

OpName = Literal["germinate", "advance", "set-alpha-target", "fossilize", "prune"]


@frozen(kw_only=True)
class ScriptStep:
    """One step of a script. Choices that are left out are the first of the growth settings' lists."""

    epoch: int = field(validator=ge(0))
    """Epoch of the step, from 0; a step behind the end of the episode is never reached."""
    op: OpName
    """What to do."""
    slot: str
    """Where."""
    blueprint: str | None = None
    """What to germinate."""
    blend: str | None = None
    """How it enters the host."""
    curve: str | None = None
    """Shape of its ramp."""
    target: float | None = None
    """Influence that the ramp aims at."""
    speed: int | None = None
    """Length of the ramp in epochs."""
    wait: bool = False
    """From `epoch` on, wait until the step is possible; otherwise it is tried once, in that epoch."""
    envs: tuple[int, ...] = field(default=(), validator=deep_iterable(ge(0)))
    """Environments that follow the step; empty means all."""


@frozen(kw_only=True)
class Scripted:
    """Settings of `esper/scripted`."""

    steps: tuple[ScriptStep, ...] = ()
    """In order; an environment carries out at most one in an epoch."""
