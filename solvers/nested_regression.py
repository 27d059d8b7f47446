"""Held-out errors of reduced rank regressions on the leading parts of one set of regressors.

A planner wants to know what every pair (regressors kept, rank kept) would lose before it settles on one.
With Q R the QR decomposition of the fitted regressors F', the leading columns of Q span the leading
regressors, so that one decomposition serves all numbers of them, and one spectrum of the fitted responses
serves all ranks (Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification and
Detection", eq. 7 and 8). Maps are drawn towards a prior one as in `reduced_rank.Regression`. Errors are
counted on other samples than those that were fitted, in a metric that says what they cost the network; the
maps themselves are those of least squares, as they will be fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.reduced_rank import descending_eigh

Pair = tuple[Array, Array]
"""Regressors of shape (inputs, samples) and responses of shape (outputs, samples)."""


@dataclass(frozen=True, eq=False)
class NestedRegression:
    """Responses regressed on leading regressors.

    Attributes:
        triangle: R of the regressors that are fitted, the penalty included, shape (inputs, inputs).
        fit: regressors and responses that are fitted, centred.
        held_out: those that judge, centred by the means of the fitted ones.
        metric: of the responses' errors, symmetric, shape (outputs, outputs).
    """

    triangle: Array
    fit: Pair
    held_out: Pair
    metric: Array

    @classmethod
    def on(cls, fit: Pair, held_out: Pair, *, metric: Array, ridge: float) -> "NestedRegression":
        """Decompose the regressors.

        Args:
            fit: regressors and responses that are fitted.
            held_out: those that judge.
            metric: of the responses' errors, symmetric, shape (outputs, outputs).
            ridge: how strongly maps are drawn towards the prior, relative to the regressors' mean variance;
                above 0, so that dead and equal regressors are harmless.

        Returns:
            The regression.
        """
        xp = array_namespace(*fit, metric)
        means = [xp.mean(values, axis=1, keepdims=True) for values in fit]
        regressors, responses = (values - mean for values, mean in zip(fit, means, strict=True))
        rows = regressors.T
        strength = ridge * float(xp.mean(rows * rows)) * rows.shape[0]
        smallest = float(xp.finfo(rows.dtype).smallest_normal)
        scale = max(strength, smallest) ** 0.5
        penalty = xp.eye(rows.shape[1], dtype=rows.dtype, device=device(rows)) * scale
        _, triangle = xp.linalg.qr(xp.concat((rows, penalty), axis=0))
        judged = (held_out[0] - means[0], held_out[1] - means[1])
        return cls(triangle, (regressors, responses), judged, xp.astype(metric, xp.float64))

    def error(self, prior: Array) -> float:
        """Squared error of the full-rank regression.

        Args:
            prior: the map that is right if nothing was compressed, shape (outputs, regressors); as many of
                the leading regressors are read.

        Returns:
            Mean over the held-out samples, in the metric.
        """
        _, predicted = self._predicted(prior)
        return _cost(self.held_out[1] - predicted, self.metric)

    def errors(self, prior: Array) -> Array:
        """Squared errors of the regressions of every rank.

        Args:
            prior: as for `error`.

        Returns:
            Means over the held-out samples, in the metric; shape (outputs,), that of rank 1 first.
        """
        fitted, predicted = self._predicted(prior)
        return _truncated(self.held_out[1], predicted, fitted, self.metric)

    # of the fitted and of the held-out samples, (outputs, samples)
    def _predicted(self, prior: Array) -> Pair:
        xp = array_namespace(prior)
        count = prior.shape[1]
        regressors, responses = self.fit
        regressors, judging = regressors[:count, :], self.held_out[0][:count, :]
        triangle = self.triangle[:count, :count]
        moment = regressors @ (responses - prior @ regressors).T
        change = xp.linalg.solve(triangle, xp.linalg.solve(triangle.T, moment))
        mapping = prior + change.T
        return mapping @ regressors, mapping @ judging


def projection_errors(fit: Array, held_out: Array, *, metric: Array) -> Array:
    """Squared errors of projections of responses on their own principal components, of every rank.

    Args:
        fit: responses whose components are taken, shape (outputs, samples).
        held_out: responses that judge, shape (outputs, samples).
        metric: of their errors, symmetric, shape (outputs, outputs).

    Returns:
        Means over the held-out samples, in the metric; shape (outputs,), that of rank 1 first.

    Example:
        >>> import numpy as np
        >>> responses = np.diag([2.0, 1.0]) @ np.array([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]])
        >>> projection_errors(responses, responses, metric=np.eye(2)).round(12).tolist()
        [1.0, 0.0]
    """
    xp = array_namespace(fit, held_out, metric)
    centre = xp.mean(fit, axis=1, keepdims=True)
    target = held_out - centre
    return _truncated(target, target, fit - centre, xp.astype(metric, xp.float64))


def least_errors(ranks: Sequence[int], errors: Array) -> list[float]:
    """Errors of some ranks, made never to rise with the rank.

    Args:
        ranks: asked about, each at least 1.
        errors: of all ranks, that of rank 1 first; sampling may have made them uneven.

    Returns:
        For each rank the least error of all ranks up to it.
    """
    least: list[float] = []
    for value in errors:
        least.append(min([float(value), *least[-1:]]))
    return [max(0.0, least[min(rank, len(least)) - 1]) for rank in ranks]


# a prediction of rank r is the full one projected on the r directions in which the fitted one is strongest
def _truncated(target: Array, prediction: Array, fitted: Array, metric: Array) -> Array:
    xp = array_namespace(target)
    samples = target.shape[1]
    directions = descending_eigh(xp.astype(fitted @ fitted.T, xp.float64))[1]
    weighed = directions.T @ metric
    narrow = xp.astype(directions, target.dtype)
    parts = narrow.T @ prediction
    # E[a_i (u_i' G y)], and E[a_i a_j] (u_i' G u_j), whose leading blocks are summed
    agreed = xp.sum(xp.astype(parts @ target.T, xp.float64) * weighed, axis=1) / samples
    crossed = xp.astype(parts @ parts.T, xp.float64) * (weighed @ directions) / samples
    blocks = 2 * xp.sum(xp.tril(crossed, k=-1), axis=1) + xp.linalg.diagonal(crossed)
    return _cost(target, metric) - xp.cumulative_sum(2 * agreed - blocks)


def _cost(difference: Array, metric: Array) -> float:
    xp = array_namespace(difference)
    moment = xp.astype(difference @ difference.T, xp.float64)
    return float(xp.sum(moment * metric) / difference.shape[1])
