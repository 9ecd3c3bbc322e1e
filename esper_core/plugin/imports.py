"""Import strings: how the code behind a name is found once a run has chosen it.

Role: `resolve` imports "package.module:attribute" and `read_text` reads "package:file", both only from
installed distributions that declare an entry point in the group `esper.plugins`: a configuration or an
exported network can name code, but never code that nobody installed as a plugin. It needs no plugin manager.
The core itself, which comes in one distribution with Esper's own plugin, is no plugin's code.
Neighbours: `plugin.catalogue` resolves what a run chose; an exported network resolves its seeds' classes.
"""

from importlib import import_module, resources
from importlib.metadata import EntryPoint, entry_points

from esper_core.errors import PluginError

GROUP = "esper.plugins"
"""Group of entry points whose values are registration modules."""


def _top(module: str) -> str:
    return module.split(".", 1)[0]


def _packages(entry_point: EntryPoint) -> set[str]:
    """Top-level packages of the distribution that declares the entry point, without Esper's core."""
    files = entry_point.dist.files if entry_point.dist is not None else None
    tops = [file.parts[0].removesuffix(".py") for file in files or () if file.suffix == ".py"]
    return {_top(entry_point.module), *filter(str.isidentifier, tops)} - {_top(__name__)}


def _check_trusted(package: str, text: str, owner: str) -> None:
    """Raise `PluginError` unless a plugin's distribution provides the top-level package."""
    trusted = set().union(*map(_packages, entry_points(group=GROUP)))
    if package not in trusted:
        raise PluginError(
            f"{owner}: {text!r} is not loaded: no installed distribution that declares an entry point in the "
            f"group {GROUP!r} provides the package {package!r} (provided: "
            f"{', '.join(sorted(trusted)) or 'nothing'}). Next: `esper plugins` lists what is installed"
        )


def _failure(owner: str, text: str, error: Exception, module: str) -> PluginError:
    return PluginError(
        f"{owner}: cannot load {text!r}: {type(error).__name__}: {error}. "
        f"Next: `python -c 'import {module}'` shows where it fails; then reinstall or upgrade the plugin"
    )


def resolve(import_string: str, *, owner: str) -> object:
    """Import what an import string names.

    Args:
        import_string: "package.module:attribute"; the attribute has no dots.
        owner: who asks, for messages: "blueprint 'acme/ghost' of acme-esper 0.3".

    Raises:
        PluginError: the string is malformed, its package belongs to no plugin, or the import fails.
    """
    module, _, attribute = import_string.partition(":")
    if not module or not attribute.isidentifier():
        raise PluginError(
            f"{owner}: {import_string!r} is not an import string of the form 'package.module:attribute'"
        )
    _check_trusted(_top(module), import_string, owner)
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # a plugin's module may raise anything while it is imported
        raise _failure(owner, import_string, error, module) from error


def resolve_own(import_string: str, *, owner: str) -> object:
    """As `resolve`, for a file from anywhere: only what a plugin defines itself, not what it imported.

    Args:
        import_string: as for `resolve`.
        owner: who asks, for messages.

    Raises:
        PluginError: as for `resolve`, or it is defined elsewhere.
    """
    found = resolve(import_string, owner=owner)
    home = str(getattr(found, "__module__", "nowhere"))
    _check_trusted(_top(home), f"{import_string} (defined in {home})", owner)
    return found


def read_text(location: str, *, owner: str) -> str:
    """Read a UTF-8 file that a plugin ships.

    Args:
        location: "package:file".
        owner: who asks, for messages.

    Raises:
        PluginError: the package belongs to no plugin, or the file cannot be read.
    """
    package, _, file = location.partition(":")
    _check_trusted(_top(package), location, owner)
    try:
        return resources.files(package).joinpath(file).read_text(encoding="utf-8")
    except Exception as error:  # the package is imported on the way, which may raise anything
        raise _failure(owner, location, error, package) from error
