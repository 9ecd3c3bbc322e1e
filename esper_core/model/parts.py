"""A part: code that a plugin ships, by import string, with its settings.

Role: what an exported network remembers of a host or a blueprint, so that it can be rebuilt without a run.
Neighbours: `plugin.catalogue` resolves names to parts, `runner.grown` writes and reads them.
"""

from collections.abc import Callable
from typing import Any

from attrs import frozen


@frozen(kw_only=True, eq=False)
class Part:
    """A builder and where it came from.

    Attributes:
        name: full name of the plugin's record, or of the host.
        build: import string.
        call: what `build` resolves to.
        settings: attrs record that is passed last to `call`; None if it takes none.
    """

    name: str
    build: str
    call: Callable[..., Any]
    settings: Any = None

    def make(self, *arguments: Any) -> Any:
        """Call the builder with `arguments`, and the settings last where there are any."""
        return self.call(*arguments) if self.settings is None else self.call(*arguments, self.settings)
