"""Targets of a regression behind a rectifier, which hides what is below zero.

Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification and Detection", section 3.2: a
regression on targets that are free where the rectifier hides them lowers the true error further than one on
the responses. Regressors stay, and so do the sums over them.
"""

from collections.abc import Iterable
from dataclasses import replace

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.nonlinear import auxiliary, rectified_error, rectify

PENALTY = 0.01
"""Of Zhang et al.'s first phase: predictions hardly hold the targets back where the rectifier doesn't."""


def response_error(target: Array, prediction: Array, *, rectified: bool) -> float:
    """Squared error of responses as the network sees it.

    Args:
        target: true responses, any shape.
        prediction: the same shape.
        rectified: whether a rectifier follows.

    Returns:
        Summed over all entries.
    """
    if rectified:
        return rectified_error(target, prediction)
    xp = array_namespace(target)
    difference = target - prediction
    return float(xp.sum(difference * difference, dtype=xp.float64))


def free_targets(target: Array, prediction: Array) -> Array:
    """What a regression shall aim at instead of the true responses.

    Args:
        target: true responses before the rectifier, any shape.
        prediction: by the last fit, the same shape.

    Returns:
        About the target where that is positive; elsewhere the prediction, if it is negative, or nearly zero.
    """
    return auxiliary(rectify(target), prediction, penalty=PENALTY)


def with_targets(known: JointMoments, samples: Iterable[tuple[Array, Array]]) -> JointMoments:
    """The same moments with other targets.

    Args:
        known: of the same regressors.
        samples: regressors (inputs, samples) and their new targets (outputs, samples), part by part.

    Returns:
        Moments for which no products of regressors were summed again.
    """
    total, cross, square = (0.0, 0.0, 0.0)
    for regressors, targets in samples:
        xp = array_namespace(regressors, targets)
        total = total + xp.astype(xp.sum(targets, axis=1), xp.float64)
        cross = cross + xp.astype(targets @ regressors.T, xp.float64)
        square = square + xp.astype(xp.sum(targets * targets, axis=1), xp.float64)
    return replace(known, target_total=total, cross_outer=cross, target_square=square)
