"""Settings of the policies; imports without torch."""

from typing import Literal

from attrs import field, frozen
from attrs.validators import deep_iterable, ge, le

from esper_core.plugin import finite

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


@frozen(kw_only=True)
class Heuristic:
    """Settings of `esper/heuristic`."""

    patience: int = field(default=2, validator=ge(0))
    """Epochs without a new best score after which a seed is planted."""
    min_epoch: int = field(default=2, validator=ge(0))
    """First epoch, from 0, in which a seed may be planted."""
    min_contribution: float = field(default=0.005, validator=finite)
    """Contribution (units of the score) at which a held seed is committed; at the end of the episode any
    contribution above 0 is enough."""
    hold_patience: int = field(default=3, validator=ge(1))
    """Epochs that a seed is held before it is pruned for want of contribution."""


@frozen(kw_only=True)
class LowestRank:
    """Settings of `esper/plant-lowest-rank`."""

    blueprint: str | None = None
    """What to germinate; absent means the blueprint with the fewest parameters that fits the slot."""
    seeds: int = field(default=1, validator=ge(1))
    """Seeds of an environment; one that was lost is replaced."""


@frozen(kw_only=True)
class Probe:
    """Settings of `esper/probe-and-switch`."""

    blueprint: str | None = None
    """What to germinate; absent means the blueprint with the fewest parameters that fits the slot."""
    threshold: float = field(default=0.02, validator=finite)
    """Contribution (units of the score) at which a held seed is committed; with less it is pruned and
    another slot is tried. In the last epoch any contribution above 0 is enough."""


@frozen(kw_only=True)
class Oracle:
    """Settings of `esper/oracle`."""

    blueprint: str | None = None
    """What to germinate; absent means the blueprint with the fewest parameters that fits the slot."""


@frozen(kw_only=True)
class Lstm:
    """Settings of `esper/lstm`."""

    hidden: int = field(default=64, validator=ge(1))
    """Units of the recurrent summary."""
    slot_code: int = field(default=32, validator=ge(1))
    """Units of a slot's code."""
    floor: float = field(default=0.01, validator=[ge(0.0), le(0.1)])
    """Least probability of a choice that is offered; exploration by mixing."""
    wait_bias: float = field(default=0.5, validator=finite)
    """Logit by which a new policy prefers to wait; much more, and it never learns what growing is worth."""
