"""What the settings of a policy name, in the vocabulary of the run."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from esper_core.plugin import ActionSpace, ConfigError


def full_name(name: str | None, space: ActionSpace) -> str | None:
    """A blueprint's bare name becomes the full one while it is unique; any other name stays as it is."""
    matches = [full for full in space.blueprints if name is not None and full.split("/")[1] == name]
    return matches[0] if len(matches) == 1 else name


def index_of(where: str, value: Any, valid: Sequence[Any]) -> int:
    """Index of a choice.

    Args:
        where: key of the setting, for the message.
        value: of the setting.
        valid: choices of the run.

    Raises:
        ConfigError: the run does not have it.
    """
    if value in valid:
        return list(valid).index(value)
    names = [str(v) for v in valid]
    near = get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{where} = {value!r} is not one of {', '.join(names)}{hint}")
