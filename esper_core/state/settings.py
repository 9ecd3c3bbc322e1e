"""Settings that the pure functions take.

Role: the numbers a user may change, as frozen records with validated fields; nothing here reads a file.
Neighbours: `runner.config` parses TOML into these records; `rules`, `phases` and device strategies read them.
"""

import math
from typing import Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import deep_iterable, ge, gt, le, lt, min_len, optional

CurveName = Literal["linear", "cosine", "sigmoid-gentle", "sigmoid", "sigmoid-sharp"]
BlendName = Literal["add", "multiply", "gate"]


def finite(instance: object, attribute: "Attribute[Any]", value: float) -> None:
    """Validator of attrs fields: refuse infinities and NaN.

    Args:
        instance: record that is made.
        attribute: field.
        value: to check.
    """
    if not math.isfinite(value):
        raise ValueError(f"'{attribute.name}' must be finite, not {value}")


def distinct(instance: object, attribute: "Attribute[Any]", value: tuple[object, ...]) -> None:
    """Validator: refuse a list that names an entry twice."""
    repeated = sorted({str(v) for v in value if value.count(v) > 1})
    if repeated:
        raise ValueError(f"'{attribute.name}' names {', '.join(repeated)} more than once")


def _share(default: float) -> Any:
    return field(default=default, validator=[ge(0.0), lt(1.0)])


def _count(default: int) -> Any:
    return field(default=default, validator=ge(1))


def _limit() -> Any:
    return field(default=None, validator=optional(ge(1)))


@frozen(kw_only=True)
class GrowthSettings:
    """What may grow, how fast, and which evidence a gate asks for.

    Shares (`*_dwell`, `embargo`) are fractions of the episode, rounded up to whole epochs, so that an
    episode of another length keeps its rhythm. Ratios and health are dimensionless; contributions are in
    units of the task's score.
    """

    blueprints: tuple[str, ...] = field(default=(), validator=distinct)
    """Names of the blueprints that may germinate; empty means every built-in one that fits a slot."""
    slots: tuple[str, ...] = field(default=(), validator=distinct)
    """Names of the slots that may grow; empty means all slots of the host."""
    blends: tuple[BlendName, ...] = field(default=("add",), validator=[min_len(1), distinct])
    """How a seed's change may enter the host; chosen at germination."""
    targets: tuple[float, ...] = field(
        default=(0.5, 1.0), validator=[min_len(1), distinct, deep_iterable([gt(0.0), le(1.0)])]
    )
    """Influences that a ramp may aim at, each in (0, 1]."""
    speeds: tuple[int, ...] = field(default=(0, 2, 4), validator=[min_len(1), distinct, deep_iterable(ge(0))])
    """Lengths of a ramp in epochs. A ramp's first step is taken in the epoch of its decision, so that one of
    length 1 is complete at once, as one of length 0 is."""
    curves: tuple[CurveName, ...] = field(
        default=("linear", "cosine", "sigmoid"), validator=[min_len(1), distinct]
    )
    """Shapes of a ramp."""
    max_live: int = _count(1)
    """Seeds of one environment that may be alive and uncommitted at the same time."""
    budget: int | None = field(default=None, validator=optional(ge(0)))
    """Hard limit of added parameters per environment, fossils included; absent means no limit."""
    training_dwell: float = _share(0.1)
    """Share of the episode that a seed trains alone before it may ADVANCE."""
    prune_dwell: float = _share(0.0)
    """Share of the episode that a seed must have lived before it may be pruned."""
    embargo: float = _share(0.05)
    """Share of the episode that a slot spends EMBARGOED after a prune; at least one epoch, and one epoch each
    in PRUNED and RESETTING comes on top."""
    auto_advance: bool = False
    """Advance as soon as the gate opens instead of waiting for the controller; one seed of an environment in
    an epoch."""
    min_health: float = field(default=0.7, validator=[ge(0.0), le(1.0)])
    """Gradient health in [0, 1] that ADVANCE asks for."""
    min_contribution: float = field(default=0.0, validator=finite)
    """Measured contribution (units of the score) that FOSSILIZE asks for."""
    contact_bound: float = field(default=0.1, validator=[gt(0.0), finite])
    """Largest relative rise of the validation loss at the first step of the ramp that ADVANCE accepts."""
    incubation_cap: float = field(default=1.0, validator=[gt(0.0), finite])
    """Largest norm of a seed's proposed change, relative to the host's, that incubation trains towards."""
    input_gain: float = field(default=1.0, validator=[ge(0.0), le(1.0)])
    """Share of the seed's gradient that reaches the host through the seed's input once it blends."""
    freeze_fossils: bool = False
    """Stop training a seed once it is committed."""
    ratio_memory: float = _share(0.9)
    """Weight of the past in the moving average of the seed-to-host gradient ratio, per epoch."""
    velocity_memory: float = _share(0.7)
    """Weight of the past in the moving average of the contribution's change, per epoch."""


@frozen(kw_only=True)
class OptimizerSettings:
    """How one kind of parameter group (the host, or every seed) is trained."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Update rule, as in torch.optim."""
    lr: float = field(default=0.05, validator=[gt(0.0), finite])
    """Learning rate at the top of the schedule."""
    momentum: float = _share(0.9)
    """Momentum of `sgd`; `adamw` does not read it."""
    beta1: float = _share(0.9)
    """First moment's memory of `adamw`; `sgd` does not read it."""
    beta2: float = _share(0.999)
    """Second moment's memory of `adamw`; `sgd` does not read it."""
    eps: float = field(default=1e-8, validator=[gt(0.0), finite])
    """Term that keeps the division of `adamw` finite."""
    weight_decay: float = field(default=0.0, validator=[ge(0.0), finite])
    """Coupled (L2) for `sgd`, decoupled for `adamw`."""
    clip: float = field(default=1.0, validator=[ge(0.0), finite])
    """Largest gradient norm of a group in one step; 0 turns clipping off."""


@frozen(kw_only=True)
class TrainSettings:
    """How the hosts of one episode are trained; the same for every policy and every arm of a comparison."""

    epochs: int = _count(24)
    """Length of an episode, in epochs."""
    batch_size: int = _count(32)
    """Samples per training step; the remainder of an epoch rotates with its permutation."""
    train_batches: int | None = _limit()
    """Limit of training steps per epoch; absent means all full batches."""
    validation_batches: int | None = _limit()
    """Limit of validation batches (of `batch_size`) per epoch; absent means every sample once."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape of the learning rate over the episode's steps, shared by host and seeds."""
    warmup: float = _share(0.0)
    """Share of the episode in which the learning rate rises linearly from 0."""
    clip_scope: Literal["group", "joint"] = "group"
    """`group` clips the host and each seed on its own; `joint` clips all but incubating seeds together."""
    statistics_stride: int = _count(1)
    """Every how many steps gradient statistics are taken."""
    host: OptimizerSettings = field(factory=OptimizerSettings)
    """Update rule of the host."""
    seed: OptimizerSettings = field(factory=OptimizerSettings)
    """Update rule of every seed, fossils included."""


@frozen(kw_only=True)
class LearnSettings:
    """How a controller learns from episodes: generalised advantages and clipped policy updates."""

    gamma: float = field(default=1.0, validator=[gt(0.0), le(1.0)])
    """Discount per epoch, of returns and of every potential in the reward. 1 fits a finite horizon."""
    trace: float = field(default=0.95, validator=[ge(0.0), le(1.0)])
    """Lambda of the generalised advantage: 0 trusts the value function, 1 the return."""
    passes: int = _count(4)
    """Passes over a round's episodes, all against the policy that played them."""
    minibatches: int = _count(2)
    """Parts of a pass; each has whole episodes of some environments, and takes one step."""
    lr: float = field(default=1e-3, validator=[gt(0.0), finite])
    """Learning rate of Adam at the first round."""
    lr_end: float = field(default=0.1, validator=[ge(0.0), le(1.0)])
    """Share of the learning rate that is left at the last round; it falls linearly."""
    clip: float = field(default=0.2, validator=[gt(0.0), finite])
    """Change of a choice's probability ratio beyond which nothing is gained."""
    kl_limit: float = field(default=0.05, validator=[gt(0.0), finite])
    """Divergence from the policy that played, in nats per decision, at which the passes of a round stop."""
    entropy: float = field(default=0.03, validator=[ge(0.0), finite])
    """Price of certainty at the first round, per head and decision."""
    entropy_end: float = field(default=0.1, validator=[ge(0.0), le(1.0)])
    """Share of that price that is left at the last round; it falls linearly."""
    value: float = field(default=0.5, validator=[ge(0.0), finite])
    """Weight of the value function's error."""
    value_clip: float | None = field(default=None, validator=optional([gt(0.0), finite]))
    """Change of a value, in standard deviations of the returns, beyond which nothing is gained; absent means
    that values move freely."""
    max_norm: float = field(default=0.5, validator=[gt(0.0), finite])
    """Largest gradient norm of a step."""


@frozen(kw_only=True)
class GovernorSettings:
    """When an environment panics, which rolls it back and ends its segment, and what a panic costs.

    `chance` below is the loss of knowing nothing, as the task states it (for ten classes, ln 10). Losses are
    mean validation losses in the task's units.
    """

    window: int = _count(20)
    """Healthy epochs whose losses are remembered."""
    min_samples: int = _count(5)
    """Losses that must be in the window before a finite loss can be judged; at most `window`."""
    sensitivity: float = field(default=6.0, validator=[ge(0.0), finite])
    """How many population standard deviations of the window above its mean an anomalous loss lies."""
    multiplier: float = field(default=3.0, validator=[ge(1.0), finite])
    """How many times the window's mean an anomalous loss exceeds, where that mean is positive."""
    patience: int = _count(2)
    """Anomalous epochs in a row that are a divergence."""
    collapse_from: float = field(default=0.6, validator=[ge(0.0), lt(1.0)])
    """Share of chance below which the window's mean is that of a host that has learned."""
    collapse_band: float = field(default=0.065, validator=[ge(0.0), lt(1.0)])
    """Distance from chance, as a share of it, within which the loss of a host that had learned is a collapse;
    0 turns the check off."""
    penalty: float = field(default=1.0, validator=[ge(0.0), finite])
    """Taken from the reward of the epoch in which an environment panics (units of the score)."""

    @min_samples.validator
    def _reachable(self, attribute: object, value: int) -> None:
        if value > self.window:
            raise ValueError(f"'min_samples' must be <= 'window' ({self.window}): {value}")


def epochs_of(share: float, epochs: int) -> int:
    """Whole epochs of a share of an episode of `epochs` epochs: 0 stays 0, anything else is at least 1."""
    return min(epochs, max(int(share > 0), math.ceil(share * epochs - 1e-9)))
