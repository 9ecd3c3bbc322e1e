"""What a run shows while it goes on: a board, lines, JSON or nothing; and the table at its end.

Role: chooses the display of a mode.
Neighbours: `protocol` says what a display is told; `runner.loop` tells it.
"""

import sys
from typing import Literal

from esper_core.runner.display.lines import Lines
from esper_core.runner.display.live import Board
from esper_core.runner.display.objects import Objects
from esper_core.runner.display.protocol import Display, Quiet
from esper_core.runner.display.screen import Screen

Mode = Literal["auto", "quiet", "plain", "json"]


def display(mode: Mode) -> Display:
    """The display of a mode; `auto` is a board on a terminal and lines where there is none."""
    if mode == "quiet":
        return Quiet()
    if mode == "json":
        return Objects(sys.stdout)
    console = Screen(soft_wrap=True, highlight=False, no_color=True if mode == "plain" else None)
    if mode == "auto" and console.is_terminal and not console.is_dumb_terminal:
        return Board(Screen(highlight=False))
    return Lines(console)
