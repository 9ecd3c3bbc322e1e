"""What a device strategy is asked to do in an epoch, and what it counts.

Role: plain arrays, so that any strategy (one device, many, a cluster) can receive and return them.
Neighbours: `phases.collect` and `phases.validate` write plans and read counts; device strategies the reverse.
"""

import attrs
import numpy as np

from esper_core.state.arrays import Bools, Floats, Ints

MEASURES = frozenset({"rank", "orthogonality"})
"""Measurements at sites that a policy may ask for; `EvalCounts` says what they are."""


@attrs.frozen(kw_only=True, eq=False)
class TrainPlan:
    """One epoch of training.

    Attributes:
        epoch: number of the epoch, from 0; keys what ordinary modules draw.
        indices: `[N, T, B]` samples of the fit data, for every step of every environment.
        rate: `[T]` learning rate of every step, as a fraction of the settings' rate.
        sampled: `[T]` steps whose gradient statistics are taken.
        influence: `[N, S]` influence a of every seed.
        incubating: `[N, S]` the seed learns without touching the host.
        training: `[N, S]` the seed's parameters are updated.
        input_gain: share of a blended seed's gradient that reaches the host through its input.
    """

    epoch: int
    indices: Ints
    rate: Floats
    sampled: Bools
    influence: Floats
    incubating: Bools
    training: Bools
    input_gain: float


@attrs.frozen(kw_only=True, eq=False)
class EvalPlan:
    """One pass over a part of the data under K configurations per environment.

    Attributes:
        split: "validation" or "report".
        limit: samples to look at, from the first; None means all.
        influence: `[N, K, S]` influences of every configuration; repeats are computed once.
        measures: what is measured at every site beside scores, of `MEASURES`.
    """

    split: str
    limit: int | None
    influence: Floats
    measures: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True, eq=False)
class GradientStatistics:
    """Gradient norms of one kind of parameter group over the sampled steps of an epoch, before clipping.

    All arrays have one shape: `[N]` for hosts, `[N, S]` for seeds; where no group was trained, `steps` is 0.

    Attributes:
        steps: sampled steps whose gradient was finite.
        square: sum of the squared norms of these.
        largest: the largest of these norms; 0 without one.
        smallest: the smallest; infinity without one.
        nonfinite: steps, sampled or not, whose gradient was not finite.
        vanished: share of parameters (named tensors x steps) with a norm below `VANISHING`.
        exploded: share of them with a norm above `EXPLODING` clips, or not finite.
        culprit: index of the first parameter whose gradient was not finite, counted in the order of
            `named_parameters()`, trainable ones only; -1 if all were finite.
    """

    steps: Ints
    square: Floats
    largest: Floats
    smallest: Floats
    nonfinite: Ints
    vanished: Floats
    exploded: Floats
    culprit: Ints

    @property
    def root_mean_square(self) -> Floats:
        """Root mean square of the norms; NaN without one."""
        rms: Floats = np.sqrt(self.square / np.where(self.steps > 0, self.steps, np.nan))
        return rms

    @property
    def health(self) -> Floats:
        """1 - vanished / 2 - 4 exploded / 5, at least 0; NaN where nothing was measured."""
        measured = np.where((self.steps > 0) | (self.nonfinite > 0), 1.0, np.nan)
        return np.clip(1.0 - 0.5 * self.vanished - 0.8 * self.exploded, 0.0, 1.0) * measured


VANISHING = 1e-7
"""A gradient norm below this counts as vanished."""
EXPLODING = 10.0
"""A gradient norm above this many clips counts as exploded."""


@attrs.frozen(kw_only=True, eq=False)
class TrainCounts:
    """What an epoch of training measured.

    Attributes:
        loss_sum: `[N]` sum of per-sample losses; NaN or infinite if a loss was.
        score_sum: `[N]` sum of per-sample scores.
        samples: per environment.
        bad_losses: `[N]` steps whose loss was not finite; such a step changes nothing.
        host: statistics of the hosts, `[N]`.
        seeds: statistics of the seeds, `[N, S]`.
        wait_ms: milliseconds spent waiting for data.
        device_ms: milliseconds of computation.
    """

    loss_sum: Floats
    score_sum: Floats
    samples: int
    bad_losses: Ints
    host: GradientStatistics
    seeds: GradientStatistics
    wait_ms: float
    device_ms: float


@attrs.frozen(kw_only=True, eq=False)
class EvalCounts:
    """What a pass over a part of the data measured.

    Attributes:
        samples: looked at, per environment and configuration.
        loss_sum: `[N, K]` sum of per-sample losses.
        score_sum: `[N, K]` sum of per-sample scores.
        co_score: `[N, K, K]` sum over samples of the product of two configurations' scores: where a score
            is 0 or 1, the samples that both get right.
        rank: `[N, S]` effective rank of the features behind every site under the first configuration, as a
            share of their width; NaN unless it was asked for.
        orthogonality: `[N, S]` of the loss's gradients with respect to these features; NaN unless it was
            asked for.
        device_ms: milliseconds of computation.
    """

    samples: int
    loss_sum: Floats
    score_sum: Floats
    co_score: Floats
    rank: Floats
    orthogonality: Floats
    device_ms: float
