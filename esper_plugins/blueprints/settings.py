"""Settings of the blueprints; imports without torch."""

from attrs import field, frozen
from attrs.validators import ge


@frozen(kw_only=True)
class LowRank:
    """Settings of `esper/lowrank`."""

    rank: int = field(default=4, validator=ge(2))
    """Hidden units; even, because the two halves cancel at birth."""

    @rank.validator
    def _even(self, attribute: object, value: int) -> None:
        if value % 2:
            raise ValueError(f"'rank' must be even, not {value}: one half cancels the other at birth")
