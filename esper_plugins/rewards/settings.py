"""Settings of the terms of rewards; imports without torch."""

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, gt, le

from esper_core.plugin import finite


@frozen(kw_only=True)
class CommittedRent:
    """Settings of `esper/committed_rent`."""

    begins: float = field(default=0.3, validator=[ge(0.0), le(1.0)])
    """Share of the run's rounds that are free of rent."""
    full: float = field(default=0.6, validator=[ge(0.0), le(1.0)])
    """Share of the run's rounds from which on the whole price is paid; it rises linearly up to there."""

    @full.validator
    def _not_before(self, attribute: object, value: float) -> None:
        if value < self.begins:
            raise ValueError(f"'full' must be >= 'begins' ({self.begins}): {value}")


@frozen(kw_only=True)
class Stages:
    """Settings of `esper/stage`."""

    training: float = field(default=2.0, validator=[ge(0.0), finite])
    """Level of a seed that trains alone."""
    blending: float = field(default=3.5, validator=[ge(0.0), finite])
    """Level of a seed whose ramp is under way."""
    holding: float = field(default=5.5, validator=[ge(0.0), finite])
    """Level of a seed that could be committed."""
    fossilized: float = field(default=6.0, validator=[ge(0.0), finite])
    """Level of a committed seed."""
    per_epoch: float = field(default=0.3, validator=[ge(0.0), finite])
    """What every epoch in a stage adds."""
    at_most: float = field(default=2.0, validator=[ge(0.0), finite])
    """The most that epochs in a stage add."""


@frozen(kw_only=True)
class LogRent:
    """Settings of `esper/rent_log`."""

    base: float = field(default=0.0039, validator=[ge(0.0), finite])
    """Share of the host's parameters that a seed counts as on top of its own, whatever its size."""
    floor: int = field(default=200, validator=ge(1))
    """A smaller host counts as one of so many parameters."""
    cap: float = field(default=3.0, validator=[gt(0.0), finite])
    """Largest amount."""


@frozen(kw_only=True)
class Occupancy:
    """Settings of `esper/occupancy`."""

    free: int = field(default=1, validator=ge(0))
    """Seeds that cost nothing."""


@frozen(kw_only=True)
class Credit:
    """Settings of `esper/attribution_level`."""

    combine: Literal["contribution", "minimum", "harmonic", "geometric"] = "harmonic"
    """How a contribution above the progress since the seed's germination counts: whole, as the smaller of the
    two, or as a mean of them."""


@frozen(kw_only=True)
class Escrow:
    """Settings of `esper/attribution`."""

    combine: Literal["contribution", "minimum", "harmonic", "geometric"] = "geometric"
    """How a contribution above the progress since the seed's germination counts: whole, as the smaller of the
    two, or as a mean of them."""
    window: int = field(default=3, validator=ge(1))
    """Epochs of which the lowest score counts as progress."""
    step: float = field(default=0.02, validator=gt(0.0))
    """Largest rise of the balance in an epoch, in units of the score; it falls at once."""


@frozen(kw_only=True)
class Share:
    """Settings of `esper/share`."""

    estimate: Literal["shapley", "banzhaf", "contribution"] = "shapley"
    """What a seed deserves: its Shapley share, its Banzhaf value (known for up to 4 players), or the score
    that would be lost without it."""
    errors: float = field(default=1.0, validator=[ge(0.0), finite])
    """Standard errors that are taken off, so that chance earns nothing."""
    step: float = field(default=1.0, validator=gt(0.0))
    """Largest rise of the balance in an epoch, in units of the score; it falls at once."""


@frozen(kw_only=True)
class Bonus:
    """Settings of `esper/bonus`."""

    errors: float = field(default=2.0, validator=[ge(0.0), finite])
    """Standard errors that are taken off the contribution."""
    ripe: int = field(default=5, validator=ge(1))
    """Epochs in HOLDING before the commitment from which on all of it counts; it rises linearly to there."""
    step: float = field(default=1.0, validator=gt(0.0))
    """Largest rise of the balance in an epoch, in units of the score; it falls at once."""


@frozen(kw_only=True)
class Hindsight:
    """Settings of `esper/hindsight`."""

    memory: float = field(default=0.995, validator=[ge(0.0), le(1.0)])
    """Share of the help given that is remembered an epoch later."""
    cap: float = field(default=0.2, validator=[gt(0.0), finite])
    """Largest credit of a seed."""


@frozen(kw_only=True)
class Acted:
    """Settings of `esper/acted`."""

    germinate: float = field(default=0.15, validator=[ge(0.0), finite])
    """Amount of an operation that was carried out."""
    advance: float = field(default=0.0, validator=[ge(0.0), finite])
    """Amount of an operation that was carried out."""
    set_alpha_target: float = field(default=0.005, validator=[ge(0.0), finite])
    """Amount of an operation that was carried out."""
    fossilize: float = field(default=0.01, validator=[ge(0.0), finite])
    """Amount of an operation that was carried out."""
    prune: float = field(default=0.005, validator=[ge(0.0), finite])
    """Amount of an operation that was carried out."""


@frozen(kw_only=True)
class EarlyPrune:
    """Settings of `esper/early_prune`."""

    min_age: int = field(default=5, validator=ge(1))
    """Epochs that a seed should have lived."""


@frozen(kw_only=True)
class Shock:
    """Settings of `esper/shock`."""

    floor: int = field(default=200, validator=ge(1))
    """A smaller host counts as one of so many parameters."""
    cap: float = field(default=5.0, validator=[gt(0.0), finite])
    """Largest amount."""


@frozen(kw_only=True)
class LossChange:
    """Settings of `esper/loss_change`."""

    scale: float = field(default=0.1, validator=[gt(0.0), finite])
    """Unit that changes of the loss are measured in."""


@frozen(kw_only=True)
class Contributing:
    """Settings of `esper/contributing`."""

    enough: float = field(default=0.01, validator=[gt(0.0), finite])
    """Contribution from which on a committed seed counts as a whole one, in units of the score."""
    errors: float = field(default=2.0, validator=[ge(0.0), finite])
    """Standard errors that are taken off its contribution."""


@frozen(kw_only=True)
class FinalLoss:
    """Settings of `esper/final_loss`."""

    start: float = field(default=2.3, validator=finite)
    """Loss that is worth nothing."""
    goal: float = field(default=0.3, validator=finite)
    """Loss that is worth 1."""

    @goal.validator
    def _below_start(self, attribute: object, value: float) -> None:
        if value >= self.start:
            raise ValueError(f"'goal' must be < 'start' ({self.start}): {value}")
