"""Settings of the reward families; imports without torch."""

from attrs import field, frozen
from attrs.validators import ge, le

from esper_core.plugin import finite


@frozen(kw_only=True)
class Shipped:
    """Settings of `esper/shipped`."""

    rent: float = field(default=0.1, validator=[ge(0.0), finite])
    """Price of committed parameters at the end, in units of the score per host of parameters."""
    rent_from: float = field(default=0.3, validator=[ge(0.0), le(1.0)])
    """Share of the run's rounds that are free of rent."""
    rent_full: float = field(default=0.6, validator=[ge(0.0), le(1.0)])
    """Share of the run's rounds from which on the whole price is paid; it rises linearly up to there."""

    @rent_full.validator
    def _not_before(self, attribute: object, value: float) -> None:
        if value < self.rent_from:
            raise ValueError(f"'rent_full' must be >= 'rent_from' ({self.rent_from}): {value}")
