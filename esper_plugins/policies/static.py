"""The policy `static`: nothing ever grows. The baseline of every comparison."""

from esper_core.plugin import Choice, Decision, Floats, PolicyContext, Rule, View


def build(context: PolicyContext) -> "Static":
    """The policy; it needs nothing of the context."""
    return Static()


class Static(Rule):
    """Waits."""

    def decide(self, view: View, memory: None, uniforms: Floats) -> Choice:
        """Everybody waits."""
        return Choice(decision=Decision.wait(len(uniforms)))
