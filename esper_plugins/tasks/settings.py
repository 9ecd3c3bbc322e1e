"""Settings of the tasks; imports without torch or scikit-learn."""

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, gt, in_

from esper_core.plugin import finite


@frozen(kw_only=True)
class Digits:
    """Settings of `esper/digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

    width: int = field(default=32, validator=ge(2))
    """Units of every block of the host."""
    blocks: int = field(default=3, validator=ge(1))
    """Blocks of the host, each followed by a site."""
    narrow: int | Literal["random"] = 1
    """Which block is too narrow, from 0; "random" draws it for every environment."""
    narrow_width: int = field(default=2, validator=ge(1))
    """Units of the narrow block that live; the others are always 0."""
    data_seed: int = field(default=0, validator=ge(0))
    """Key of the split into fit (60 %), validation (20 %) and report (20 %), drawn within every class."""

    def __attrs_post_init__(self) -> None:
        """Refuse a narrow block that is not there or not narrow."""
        if self.narrow != "random" and not 0 <= self.narrow < self.blocks:
            raise ValueError(
                f"'narrow' = {self.narrow} is not one of the {self.blocks} blocks, 0 to {self.blocks - 1}"
            )
        if self.narrow_width > self.width:
            raise ValueError(f"'narrow_width' = {self.narrow_width} is more than 'width' = {self.width}")


@frozen(kw_only=True)
class Spirals:
    """Settings of `esper/spirals`: interleaved spirals in the plane, made in place."""

    samples: int = field(default=300, validator=ge(30))
    """Points in all; three fifths to fit, one to validate, one to report."""
    arms: int = field(default=2, validator=[ge(2), in_(range(2, 9))])
    """Spirals, one class each."""
    turns: float = field(default=1.0, validator=[gt(0.0), finite])
    """Turns of every spiral."""
    noise: float = field(default=0.05, validator=[ge(0.0), finite])
    """Standard deviation of the points, relative to the radius of the picture."""
    width: int = field(default=8, validator=ge(1))
    """Units of every block of the host."""
    blocks: int = field(default=2, validator=ge(1))
    """Blocks of the host, each followed by a site."""
    data_seed: int = field(default=0, validator=ge(0))
    """Key of the points and of their split."""
