"""The policy `static`: nothing ever grows. The baseline of every comparison."""

from collections.abc import Mapping
from typing import Any

from esper_core.plugin import Choice, Decision, Floats, PolicyContext, View


def build(context: PolicyContext) -> "Static":
    """The policy; it needs nothing of the context."""
    return Static()


class Static:
    """Waits."""

    def start(self, envs: int) -> None:
        """No memory."""

    def decide(self, view: View, memory: None, uniforms: Floats) -> Choice:
        """Everybody waits."""
        return Choice(decision=Decision.wait(len(uniforms)))

    def state(self) -> Mapping[str, Any]:
        """It learns nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to go on with."""
