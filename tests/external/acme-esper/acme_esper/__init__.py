"""What acme brings to Esper: one blueprint. This module imports without torch."""

from collections.abc import Iterator

from esper_core.plugin import Blueprint, hookimpl

ESPER_API = 1


@hookimpl
def esper_blueprints() -> Iterator[Blueprint]:
    """The blueprint."""
    yield Blueprint(
        name="acme/ghost",
        build="acme_esper.ghost:build",
        fits={"vector", "map"},
        summary="Scale and shift every channel",
    )
