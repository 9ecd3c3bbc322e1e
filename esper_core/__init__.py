"""Neural networks that grow while they train, under a controller that decides when, where and what to grow.

Role: the Python API, each name loaded on first use, so that `import esper_core` stays cheap. The command line
is a skin over it.
Neighbours: `runner.api` does the work, `errors` has what can go wrong, `plugin` is for plugin authors.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_core.errors import ConfigError as ConfigError
    from esper_core.errors import EsperError as EsperError
    from esper_core.errors import Interrupted as Interrupted
    from esper_core.errors import PluginError as PluginError
    from esper_core.errors import RunError as RunError
    from esper_core.runner.api import Result as Result
    from esper_core.runner.api import inspect as inspect
    from esper_core.runner.api import resume as resume
    from esper_core.runner.api import run as run
    from esper_core.runner.grown import load_grown as load_grown

_HOME = {
    "ConfigError": "esper_core.errors",
    "EsperError": "esper_core.errors",
    "Interrupted": "esper_core.errors",
    "PluginError": "esper_core.errors",
    "RunError": "esper_core.errors",
    "Result": "esper_core.runner.api",
    "inspect": "esper_core.runner.api",
    "load_grown": "esper_core.runner.grown",
    "resume": "esper_core.runner.api",
    "run": "esper_core.runner.api",
}
"""Where each public name lives; a test holds this table equal to the imports above."""


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(_HOME)
