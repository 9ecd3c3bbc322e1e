"""What can go wrong for a user, and with which exit code the command line says so.

Role: one small hierarchy. A message is plain text that stands alone: what was wrong, where, what was expected
and what to do next.
Neighbours: everything raises these; only `cli` turns them into output and exit codes.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class EsperError(Exception):
    """A failure that the user can act on; anything else that is raised is a defect of Esper."""

    exit_code: ClassVar[int] = 1


class ConfigError(EsperError):
    """The configuration or the command line asks for something that cannot be."""

    exit_code = 2


class PluginError(EsperError):
    """A plugin that the run needs is missing, broken, or in conflict with another one."""

    exit_code = 3


class RunError(EsperError):
    """The run failed; the message has the path of its last checkpoint."""

    exit_code = 4


class Interrupted(EsperError):  # noqa: N818 - an interruption is not an error
    """The user stopped the run; the message has the path of its last checkpoint."""

    exit_code = 130


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A hint at the name that looks most like `word`.

    Args:
        word: what was written.
        candidates: what could have been meant.

    Returns:
        "; did you mean 'name'?", or nothing if no candidate is near.
    """
    near = get_close_matches(word, list(candidates), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
