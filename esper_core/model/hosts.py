"""The interface between a host and Esper: a chain of segments with sites between them.

Role: the contract that every host fulfils, built-in or a stranger's, and the check that says so.
Neighbours: `model.network` runs a host, tasks provide one.
"""

from typing import cast

from attrs import field, frozen
from attrs.validators import ge, in_
from torch import nn


@frozen(kw_only=True)
class Site:
    """A place where a host may grow.

    Attributes:
        name: unique within the host.
        after: index of the segment that it lies behind.
        kind: of the features there: `vector` `[B, C]`, `map` `[B, C, H, W]`, `sequence` `[B, T, C]`.
        width: C.
        across: the seed reads what the segment before it read, instead of what it wrote, and so bridges the
            segment; both must have the same shape.
    """

    name: str
    after: int = field(validator=ge(0))
    kind: str = field(validator=in_(("vector", "map", "sequence")))
    width: int = field(validator=ge(1))
    across: bool = False


class Host(nn.Module):
    """What a host must be. A module that has the attributes need not inherit from this class.

    Attributes:
        segments: modules, applied one after the other.
        sites: S sites, each behind another segment, in execution order; none behind the last.
    """

    segments: nn.ModuleList
    sites: tuple[Site, ...]


def as_host(host: object) -> Host:
    """Check that an object keeps the contract and return it as a host.

    Raises:
        TypeError: it is no module, or lacks an attribute.
        ValueError: its sites contradict each other or its segments.
    """
    kind = type(host).__name__
    if not isinstance(host, nn.Module):
        raise TypeError(f"a host must be an nn.Module, not {kind}")
    if not hasattr(host, "segments") or not hasattr(host, "sites"):
        raise TypeError(f"host {kind} must have the attributes 'segments' and 'sites'")
    found = cast(Host, host)
    names = [site.name for site in found.sites]
    behind = [site.after for site in found.sites]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names:
        raise ValueError(f"host {kind} has no site, so nothing could grow there")
    if repeated:
        raise ValueError(f"host {kind} names the site {', '.join(repeated)} more than once")
    if behind != sorted(set(behind)) or behind[-1] >= len(found.segments) - 1:
        raise ValueError(
            f"host {kind}: its sites lie behind the segments {behind} of {len(found.segments)}; "
            "expected ascending, distinct, and none behind the last"
        )
    return found
