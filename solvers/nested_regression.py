"""Errors of reduced rank regressions on the leading parts of one set of regressors.

A planner wants to know what every pair (regressors kept, rank kept) would lose before it settles on one.
The leading block of a triangular factor is the factor of the leading block: with R' R = F F' + penalty, the
rows of R'^-1 F that belong to leading regressors depend on no others. So one factorisation serves all
numbers of regressors, and one basis of directions serves all ranks (Zhang et al., "Accelerating Very Deep
Convolutional Networks for Classification and Detection", eq. 7 and 8). Maps are drawn towards a prior one
as in `reduced_rank.Regression`; that penalty also keeps the factorised matrix far from singular, whatever
the regressors are. Errors are means of those on the samples that were fitted, too low by about as much as
there is freedom for each sample, and on others, too high by as much: the few samples of a planner would
otherwise speak against replacements with many weights, which are fitted to more samples later. A metric
says what errors cost the network; the maps themselves are those of least squares, as they will be fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.reduced_rank import descending_eigh

Pair = tuple[Array, Array]
"""Regressors of shape (inputs, samples) and responses of shape (outputs, samples)."""

_FEWEST = 400  # fitted samples that judge


@dataclass(frozen=True, eq=False)
class NestedRegression:
    """Responses regressed on leading regressors.

    Attributes:
        coordinates: of the fitted responses in the orthonormal regressors, shape (regressors, outputs).
        judged: the orthonormal regressors on the samples that were fitted, and on those held out, each with
            the responses less the mean of the fitted ones.
        metric: of the responses' errors, symmetric, shape (outputs, outputs).
    """

    coordinates: Array
    judged: tuple[Pair, Pair]
    metric: Array

    @classmethod
    def on(
        cls, fit: Pair, held_out: Pair, *, prior: Array, metric: Array, ridge: float
    ) -> "NestedRegression":
        """Factorise the regressors' moment.

        Args:
            fit: regressors and responses that are fitted.
            held_out: those that judge.
            prior: the map that is right if nothing was compressed, shape (outputs, regressors); its leading
                columns are those of fewer regressors.
            metric: of the responses' errors, symmetric, shape (outputs, outputs).
            ridge: how strongly maps are drawn towards the prior, relative to the regressors' mean variance;
                above 0, so that dead and equal regressors are harmless.

        Returns:
            The regression.
        """
        xp = array_namespace(*fit, prior, metric)
        means = [xp.mean(values, axis=1, keepdims=True) for values in fit]
        regressors, responses = (values - mean for values, mean in zip(fit, means, strict=True))
        moment = xp.astype(regressors @ regressors.T, xp.float64)
        count = moment.shape[0]
        smallest = float(xp.finfo(regressors.dtype).smallest_normal) ** 0.5
        strength = max(ridge * float(xp.sum(xp.linalg.diagonal(moment))) / count, smallest)
        identity = xp.eye(count, dtype=xp.float64, device=device(regressors))
        lower = xp.astype(xp.linalg.cholesky(moment + strength * identity), regressors.dtype)
        pulled = regressors @ responses.T + strength * prior.T
        judging, target = held_out[0] - means[0], held_out[1] - means[1]
        # as many of the fitted samples judge as there are of the others
        fitted = min(regressors.shape[1], max(judging.shape[1], _FEWEST))
        step = regressors.shape[1] // fitted
        regressors, responses = (values[:, : step * fitted : step] for values in (regressors, responses))
        solved = xp.linalg.solve(lower, xp.concat((pulled, regressors, judging), axis=1))
        outputs = responses.shape[0]
        judged = (
            (solved[:, outputs : outputs + fitted], responses),
            (solved[:, outputs + fitted :], target),
        )
        return cls(solved[:, :outputs], judged, xp.astype(metric, xp.float64))

    def error(self, regressors: int) -> float:
        """Squared error of the full-rank regression.

        Args:
            regressors: how many of the leading ones it reads.

        Returns:
            In the metric; the mean of the errors on fitted and on held-out samples.
        """
        coordinates = self.coordinates[:regressors, :]
        errors = [
            _cost(target - coordinates.T @ basis[:regressors, :], self.metric)
            for basis, target in self.judged
        ]
        return sum(errors) / 2

    def directions(self, regressors: int) -> Array:
        """The directions in which the regression is strongest, which lower ranks keep.

        Args:
            regressors: how many of the leading ones it reads.

        Returns:
            Orthonormal columns, the strongest first, shape (outputs, outputs), float64.
        """
        coordinates = self.coordinates[:regressors, :]
        return _strongest(coordinates.T @ coordinates)

    def errors(self, regressors: int, directions: Array) -> Array:
        """Squared errors of the regressions of every rank.

        Args:
            regressors: how many of the leading ones they read.
            directions: that are kept, the first ones longest; those of a similar number of regressors are
                nearly the best, and save an eigendecomposition.

        Returns:
            In the metric, means of the errors on fitted and on held-out samples; shape (outputs,), that of
            rank 1 first.
        """
        coordinates = self.coordinates[:regressors, :]
        errors = [
            _truncated(target, coordinates.T @ basis[:regressors, :], directions, self.metric)
            for basis, target in self.judged
        ]
        return (errors[0] + errors[1]) / 2


def projection_errors(fit: Array, held_out: Array, *, metric: Array) -> Array:
    """Squared errors of projections of responses on their own principal components, of every rank.

    Args:
        fit: responses whose components are taken, shape (outputs, samples).
        held_out: others, shape (outputs, samples).
        metric: of their errors, symmetric, shape (outputs, outputs).

    Returns:
        In the metric, means of the errors on both; shape (outputs,), that of rank 1 first.

    Example:
        >>> import numpy as np
        >>> responses = np.diag([2.0, 1.0]) @ np.array([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]])
        >>> projection_errors(responses, responses, metric=np.eye(2)).round(12).tolist()
        [1.0, 0.0]
    """
    xp = array_namespace(fit, held_out, metric)
    centre = xp.mean(fit, axis=1, keepdims=True)
    fitted, judging = fit - centre, held_out - centre
    directions, metric = _strongest(fitted @ fitted.T), xp.astype(metric, xp.float64)
    errors = [_truncated(target, target, directions, metric) for target in (fitted, judging)]
    return (errors[0] + errors[1]) / 2


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


def _strongest(moment: Array) -> Array:
    xp = array_namespace(moment)
    return descending_eigh(xp.astype(moment, xp.float64))[1]


# a prediction of rank r is the full one projected on the first r directions
def _truncated(target: Array, prediction: Array, directions: Array, metric: Array) -> Array:
    xp = array_namespace(target)
    samples = target.shape[1]
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
