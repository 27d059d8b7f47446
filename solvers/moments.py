"""Streaming first and second moments of responses."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.reduced_rank import descending_eigh


@dataclass(frozen=True)
class Moments:
    """Sums over samples; they add up over batches, processes and machines.

    Attributes:
        count: number of samples.
        total: sum of the samples, shape (channels,), float64.
        outer: sum of the samples' outer products, shape (channels, channels), float64.

    Example:
        >>> import numpy as np
        >>> y = np.array([[1.0, 3.0], [2.0, 6.0]])
        >>> moments = Moments.of(y[:, :1]) + Moments.of(y[:, 1:])
        >>> moments.mean.tolist(), moments.covariance.tolist()
        ([2.0, 4.0], [[1.0, 2.0], [2.0, 4.0]])
    """

    count: int
    total: Array
    outer: Array

    @classmethod
    def of(cls, samples: Array) -> "Moments":
        """Moments of one batch.

        Args:
            samples: shape (channels, samples), any floating type; products are taken in that type.

        Returns:
            The sums in float64.
        """
        xp = array_namespace(samples)
        ones = xp.ones(samples.shape[1], dtype=samples.dtype, device=device(samples))
        return cls(
            count=samples.shape[1],
            # a product, because a sum over strided samples takes ten times as long
            total=xp.astype(samples @ ones, xp.float64),
            outer=xp.astype(samples @ samples.T, xp.float64),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both sets of samples together."""
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def map(self, convert: Callable[[Array], Array]) -> "Moments":
        """The same moments in other arrays.

        Args:
            convert: applied to both sums.

        Returns:
            New moments.
        """
        return Moments(self.count, convert(self.total), convert(self.outer))

    @property
    def mean(self) -> Array:
        """Mean, shape (channels,)."""
        return self.total / self.count

    @property
    def second(self) -> Array:
        """Mean outer product, not centred, shape (channels, channels)."""
        return self.outer / self.count

    @property
    def covariance(self) -> Array:
        """Centred covariance (divided by the count), shape (channels, channels)."""
        mean = self.mean
        return self.second - mean[:, None] * mean[None, :]

    @cached_property
    def spectrum(self) -> tuple[Array, Array]:
        """Eigenvalues of the covariance, descending, and eigenvectors as columns."""
        return descending_eigh(self.covariance)
