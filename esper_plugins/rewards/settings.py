"""Settings of the reward families; imports without torch."""

from attrs import field, frozen
from attrs.validators import ge

from esper_core.plugin import finite


@frozen(kw_only=True)
class Shipped:
    """Settings of `esper/shipped`."""

    rent: float = field(default=0.1, validator=[ge(0.0), finite])
    """Price of committed parameters at the end, in units of the score per host of parameters."""
