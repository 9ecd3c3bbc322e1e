"""What a learner remembers between updates: running moments of what it sees.

Role: frozen records; an update returns a new one, so that a rollout goes on with the one that it began with.
Neighbours: learned policies normalise their observations with them, checkpoints write them as plain numbers.
"""

import attrs
import numpy as np

from esper_core.state.arrays import Floats, expect_shape

STD_FLOOR = 1e-4
"""A column that varied less has shown nothing yet; noise of rounding is not blown up to a signal."""


@attrs.frozen(kw_only=True, eq=False)
class Moments:
    """Mean and spread of K columns over all samples so far, each sample with equal weight.

    Attributes:
        count: samples so far, a whole number.
        mean: `[K]`.
        m2: `[K]` sum of squared deviations from the mean.
    """

    count: float
    mean: Floats
    m2: Floats

    def __attrs_post_init__(self) -> None:
        """Refuse arrays of unequal shape."""
        expect_shape(self, "mean", self.mean, (len(self.mean),))
        expect_shape(self, "m2", self.m2, (len(self.mean),))

    @classmethod
    def none(cls, size: int) -> "Moments":
        """Nothing has been seen, in K = `size` columns."""
        return cls(count=0.0, mean=np.zeros(size), m2=np.zeros(size))

    def merge(self, samples: Floats) -> "Moments":
        """Add samples (the parallel update of Chan, Golub and LeVeque 1983).

        With n, mean, m2 so far, the samples' own n', mean', m2', and d = mean' - mean:

            mean <- mean + d n' / (n + n')        m2 <- m2 + m2' + d^2 n n' / (n + n')

        Every column is added up in the order of its values, so that the order of the samples changes no bit.

        Args:
            samples: `[M, K]`, finite; M may be 0.

        Returns:
            The moments of all of them, however they were divided into batches, up to rounding.

        Raises:
            ValueError: the samples have another shape, or are not finite; the message names the column.
        """
        size = len(self.mean)
        if samples.ndim != 2 or samples.shape[1] != size:
            raise ValueError(f"samples have shape {samples.shape}, expected (M, {size})")
        broken = ~np.isfinite(samples).all(axis=0)
        if broken.any():
            raise ValueError(
                f"samples are not finite in column {', '.join(map(str, np.flatnonzero(broken)))} of {size}; "
                "replace what is unknown by a number, and say so in a column of its own"
            )
        if not len(samples):
            return self
        columns = np.sort(samples.T, axis=1)
        # around the least value, so that a constant column has its constant as the mean, to the last bit
        least = columns[:, :1]
        mean = (least + (columns - least).mean(axis=1, keepdims=True))[:, 0]
        m2 = np.square(columns - mean[:, None]).sum(axis=1)
        count, apart = self.count + len(samples), mean - self.mean
        share = len(samples) / count
        return Moments(
            count=count,
            mean=self.mean + apart * share,
            m2=self.m2 + m2 + np.square(apart) * self.count * share,
        )

    @property
    def std(self) -> Floats:
        """`[K]` the population's standard deviation, at least `STD_FLOOR`; 1 before any sample."""
        if self.count == 0:
            return np.ones_like(self.mean)
        return np.maximum(np.sqrt(self.m2 / self.count), STD_FLOOR)

    def normalise(self, x: Floats, clip: float) -> Floats:
        """Bring columns to mean 0 and standard deviation 1.

        Args:
            x: `[..., K]`.
            clip: the largest magnitude to return.

        Returns:
            (x - mean) / std, clipped; x itself, clipped, before any sample.
        """
        return np.clip((x - self.mean) / self.std, -clip, clip)
