"""What `grown.json` holds: a network as names, settings and places, checked when it is read.

Role: frozen records; what is missing, of a wrong type or out of range is refused before code is looked up.
Neighbours: `runner.grown` writes and reads the file, `runner.strict` makes the records.
"""

from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import ge, in_, instance_of, le

from esper_core.model.hosts import Site
from esper_core.state.actions import Blend, name_of

WEIGHTS = "weights.safetensors"
PROBE = "probe.safetensors"


def _of_every_file(instance: object, attribute: object, value: Any) -> None:
    if not isinstance(value, dict) or value.keys() != {WEIGHTS, PROBE}:
        raise ValueError(f"must have the hashes of {WEIGHTS} and {PROBE}")


@frozen(kw_only=True)
class DescribedSettings:
    """Settings of a part."""

    kind: str
    """Import string of their class."""
    values: Any = field(validator=instance_of(dict))
    """By field."""


@frozen(kw_only=True)
class DescribedPart:
    """A host or a blueprint."""

    name: str
    """Of the plugin's record."""
    build: str
    """Import string."""
    settings: DescribedSettings | None
    """None if it takes none."""


@frozen(kw_only=True)
class DescribedSeed:
    """A committed seed."""

    site: Site
    """Where it sits."""
    blueprint: DescribedPart
    """What it is."""
    blend: str = field(validator=in_([name_of(blend) for blend in Blend]))
    """How it enters the host."""
    influence: float = field(validator=[ge(0.0), le(1.0)])
    """How much of it is shipped."""
    parameters: int = field(validator=ge(0))
    """What it added."""


@frozen(kw_only=True)
class DescribedNetwork:
    """The whole file, beside the version of its format."""

    dtype: Literal["bfloat16", "float16", "float32", "float64"]
    """Precision of the parameters."""
    host: DescribedPart
    """What the network grew from."""
    seeds: tuple[DescribedSeed, ...]
    """In execution order."""
    hashes: Any = field(validator=_of_every_file)
    """SHA-256 by file name."""
