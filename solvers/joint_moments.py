"""Streaming moments of what a layer reads together with what it should answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array


@dataclass(frozen=True)
class Covariances:
    """Centred second moments of a regression, in float64.

    Attributes:
        regressor: covariance of the regressors, shape (inputs, inputs).
        cross: covariance of targets with regressors, shape (outputs, inputs).
        target: variance of each target, shape (outputs,).
        regressor_mean: shape (inputs,).
        target_mean: shape (outputs,).
    """

    regressor: Array
    cross: Array
    target: Array
    regressor_mean: Array
    target_mean: Array

    def error(self, weight: Array) -> Array:
        """Mean squared error of each target that linear weights leave, at the best bias.

        Args:
            weight: shape (outputs, inputs), float64.

        Returns:
            Shape (outputs,); rounding may take it below zero by a little.
        """
        xp = array_namespace(weight)
        fitted = xp.sum((weight @ self.regressor) * weight, axis=1)
        return self.target - 2 * xp.sum(weight * self.cross, axis=1) + fitted

    def bias(self, weight: Array) -> Array:
        """The best bias of linear weights.

        Args:
            weight: shape (outputs, inputs), float64.

        Returns:
            Shape (outputs,).
        """
        return self.target_mean - weight @ self.regressor_mean

    def drawn_towards(self, prior: Array, *, ridge: float) -> "Covariances":
        """The same regression with samples added for which prior weights are right.

        That is a ridge: it draws weights towards the prior, most where regressors hardly vary and samples
        tell least. Unlike a ridge towards zero it doesn't shrink the output.

        Args:
            prior: weights that are right if nothing was compressed, shape (outputs, inputs).
            ridge: strength, relative to the mean variance of the regressors.

        Returns:
            Covariances whose least squares solution is the ridge's.
        """
        xp = array_namespace(prior, self.regressor)
        inputs = self.regressor.shape[0]
        strength = ridge * xp.sum(xp.linalg.diagonal(self.regressor)) / inputs
        identity = xp.eye(inputs, dtype=xp.float64, device=device(self.regressor))
        weight = xp.astype(prior, xp.float64)
        return replace(
            self,
            regressor=self.regressor + strength * identity,
            cross=self.cross + strength * weight,
            target=self.target + strength * xp.sum(weight * weight, axis=1),
        )


@dataclass(frozen=True)
class JointMoments:
    """Sums over samples; they add up over batches, processes and machines.

    Attributes:
        count: number of samples.
        regressor_total: sum of the regressors, shape (inputs,), float64.
        target_total: sum of the targets, shape (outputs,), float64.
        regressor_outer: sum of the regressors' outer products, shape (inputs, inputs), float64.
        cross_outer: sum of the outer products of targets and regressors, shape (outputs, inputs), float64.
        target_square: sum of the squared targets, shape (outputs,), float64.

    Example:
        >>> import numpy as np
        >>> x, y = np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0, 6.0]])
        >>> joint = JointMoments.of(x[:, :1], y[:, :1]) + JointMoments.of(x[:, 1:], y[:, 1:])
        >>> joint.covariances.error(np.array([[2.0]])).tolist()
        [0.0]
    """

    count: int
    regressor_total: Array
    target_total: Array
    regressor_outer: Array
    cross_outer: Array
    target_square: Array

    @classmethod
    def of(cls, regressors: Array, targets: Array) -> "JointMoments":
        """Moments of one batch.

        Args:
            regressors: shape (inputs, samples), any floating type; products are taken in that type.
            targets: shape (outputs, samples), of the same type.

        Returns:
            The sums in float64.
        """
        xp = array_namespace(regressors, targets)
        ones = xp.ones(regressors.shape[1], dtype=regressors.dtype, device=device(regressors))
        sums = (
            regressors @ ones,
            targets @ ones,
            regressors @ regressors.T,
            targets @ regressors.T,
            (targets * targets) @ ones,
        )
        return cls(regressors.shape[1], *(xp.astype(one, xp.float64) for one in sums))

    def __add__(self, other: "JointMoments") -> "JointMoments":
        """Moments of both sets of samples together."""
        return JointMoments(
            self.count + other.count,
            self.regressor_total + other.regressor_total,
            self.target_total + other.target_total,
            self.regressor_outer + other.regressor_outer,
            self.cross_outer + other.cross_outer,
            self.target_square + other.target_square,
        )

    def map(self, convert: Callable[[Array], Array]) -> "JointMoments":
        """The same moments in other arrays.

        Args:
            convert: applied to all sums.

        Returns:
            New moments.
        """
        return JointMoments(
            self.count,
            convert(self.regressor_total),
            convert(self.target_total),
            convert(self.regressor_outer),
            convert(self.cross_outer),
            convert(self.target_square),
        )

    @property
    def covariances(self) -> Covariances:
        """Centred moments (divided by the count)."""
        x, y = self.regressor_total / self.count, self.target_total / self.count
        return Covariances(
            regressor=self.regressor_outer / self.count - x[:, None] * x[None, :],
            cross=self.cross_outer / self.count - y[:, None] * x[None, :],
            target=self.target_square / self.count - y * y,
            regressor_mean=x,
            target_mean=y,
        )
