"""Settings of the device strategies; imports without torch."""

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, le


@frozen(kw_only=True)
class Single:
    """Settings of `esper/single`."""

    executor: Literal["loop", "stacked"] = "loop"
    """`loop` runs one environment after the other; `stacked` all as one batched tensor program."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of parameters, data and arithmetic."""
    place: str = "cpu"
    """Device, as torch names it: `cpu`, `cuda`, `cuda:1`."""
    threads: int = field(default=1, validator=[ge(1), le(1024)])
    """Intra-op threads; more than one is slower on busy cores."""
    chunk_mib: int = field(default=64, validator=ge(1))
    """Budget of an evaluation chunk, in MiB of activations."""
