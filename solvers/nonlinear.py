"""The nonlinear low-rank solver of Zhang et al., section 3.2.

Minimise ||r(Y) - r(M X + b)|| over rank(M) <= rank, where r is the rectifier that follows the layer,
Y its true responses and X the regressor (the responses of the same layer on a compressed prefix).
Auxiliary variables Z split it into two closed forms that alternate: Z elementwise, (M, b) by reduced
rank regression of Z on X. X is whitened once, so that an iteration costs three matrix products and
one small eigendecomposition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.reduced_rank import LowRankMap, Regression

PENALTIES: tuple[tuple[float, int], ...] = ((0.01, 25), (1.0, 25))
"""Penalty and number of iterations of each phase (Zhang et al., after eq. 11)."""


@dataclass(frozen=True)
class NonlinearFit:
    """What the alternation found.

    Attributes:
        map: the best map by the true objective on the held-out samples, the start included.
        errors: true objective on the held-out samples, of the start and after each iteration.
        best: index into ``errors``; 0 means that no iteration was better than the start.
    """

    map: LowRankMap
    errors: tuple[float, ...]
    best: int


def rectify(responses: Array) -> Array:
    """The rectifier max(0, y).

    Args:
        responses: any shape.

    Returns:
        The same shape.
    """
    xp = array_namespace(responses)
    return xp.where(responses > 0, responses, xp.zeros_like(responses))


def rectified_error(target: Array, prediction: Array) -> float:
    """The true objective ||r(target) - r(prediction)||².

    Args:
        target: shape (channels, samples).
        prediction: shape (channels, samples).

    Returns:
        The squared error summed over all entries.
    """
    xp = array_namespace(target, prediction)
    difference = rectify(target) - rectify(prediction)
    return float(xp.sum(difference * difference, dtype=xp.float64))


def auxiliary(activated: Array, prediction: Array, *, penalty: float) -> Array:
    """The exact minimiser z of (t - r(z))² + penalty (z - p)² for each entry (Zhang et al., eq. 9–11).

    Of the two candidates of the paper, z = min(0, p) and z = max(0, (penalty p + t) / (penalty + 1)),
    the first wins exactly where p <= -(sqrt((penalty + 1) / penalty) - 1) t.

    Args:
        activated: t = r(target), not negative.
        prediction: p, the same shape.
        penalty: positive.

    Returns:
        z, the same shape.

    Example:
        >>> import numpy as np
        >>> auxiliary(np.array([1.0, 1.0, 0.0]), np.array([-9.0, 0.0, 2.0]), penalty=1.0).tolist()
        [-9.0, 0.5, 1.0]
    """
    xp = array_namespace(activated, prediction)
    silent = prediction <= (1 - sqrt((penalty + 1) / penalty)) * activated
    return xp.where(silent, prediction, (penalty * prediction + activated) / (penalty + 1))


def nonlinear_map(
    target: Array,
    regression: Regression,
    regressor: Array,
    held_out_target: Array,
    held_out_regressor: Array,
    *,
    rank: int,
    start: LowRankMap,
    penalties: Sequence[tuple[float, int]] = PENALTIES,
    patience: int = 3,
    tolerance: float = 3e-4,
) -> NonlinearFit:
    """Minimise ||r(target) - r(M regressor + b)|| over maps of the given rank.

    Each phase goes on from the best map so far, and ends early when the held-out error has hardly fallen
    for some iterations: from there on it only fits the samples more closely.

    Args:
        target: true responses before the rectifier, shape (outputs, samples).
        regression: prepared on ``regressor``.
        regressor: shape (inputs, samples).
        held_out_target: as ``target``, of samples that are kept out of the fit.
        held_out_regressor: as ``regressor``, of the same samples.
        rank: greatest rank of M.
        start: map to start from; it is returned unless an iteration beats it.
        penalties: penalty and greatest number of iterations of each phase.
        patience: iterations without progress after which a phase ends.
        tolerance: fall of the held-out error, relative to the best one, that counts as progress.

    Returns:
        The best map on the held-out samples, with the history.
    """
    activated = rectify(target)
    best, errors = start, [rectified_error(held_out_target, start(held_out_regressor))]
    for penalty, iterations in penalties:
        prediction, unimproved = best(regressor), 0
        for _ in range(iterations):
            mapping = regression.solve(auxiliary(activated, prediction, penalty=penalty), rank=rank)
            error = rectified_error(held_out_target, mapping(held_out_regressor))
            least = min(errors)
            unimproved = 0 if error < (1 - tolerance) * least else unimproved + 1
            if error < least:
                best = mapping
            errors.append(error)
            if unimproved == patience:
                break
            prediction = mapping(regressor)
    return NonlinearFit(best, tuple(errors), errors.index(min(errors)))
