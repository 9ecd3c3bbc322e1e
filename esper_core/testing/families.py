"""Reward families as a run has them, by name.

Role: public, for tests of families that a plugin ships as a file.
Neighbours: `testing.scripted` plays what is found here, `runner.setup` builds it in a run.
"""

from typing import Any

from esper_core.plugin.catalogue import Catalogue
from esper_core.plugin.loader import load
from esper_core.plugin.rewards import RewardFamily
from esper_core.runner import config
from esper_core.runner.setup import rewards_of


def family(
    name: str, mode: str | None = None, *, catalogue: Catalogue | None = None, **terms: Any
) -> RewardFamily:
    """A family in one of its modes.

    Args:
        name: "acme/frugal", or the bare name while only one plugin has it.
        mode: absent means its first.
        catalogue: where it is found; absent means what is installed.
        terms: changes of its terms by name, as in a configuration: rent={"weight": 0.0}.

    Raises:
        EsperError: as a run would raise it.
    """
    found = catalogue or load()
    section: dict[str, Any] = {"name": name, **({"mode": mode} if mode else {})}
    if terms:
        section[mode or _first(name, found)] = terms
    (built,) = _built(section, found).values()
    return built


def _first(name: str, catalogue: Catalogue) -> str:
    """The mode of a family that is used unless another is chosen."""
    (mode,) = _built({"name": name}, catalogue)
    return mode


def _built(section: dict[str, Any], catalogue: Catalogue) -> dict[str, RewardFamily]:
    task = catalogue.names("task")[0]
    settings = config.load({"task": {"name": task}, "reward": section}, catalogue=catalogue)
    return dict(rewards_of(settings, catalogue).families)
