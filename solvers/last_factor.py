"""Least squares refit of a factorised layer's last factor, the factors before it kept.

What the last factor reads is a linear regressor of the layer's true responses, so that its best weights
follow from moments alone. They are sought as a change of the weights that are there: directions of which
the samples tell nothing (dead channels, fewer samples than regressors) are left as they were.
"""

from collections.abc import Sequence

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.joint_moments import Covariances
from cnncompress.solvers.reduced_rank import descending_eigh

_CUTOFF = 1e-10
"""Eigenvalues at or below this share of the largest are rounding of float64 sums."""


def refit(covariances: Covariances, prior: Array, *, ridges: Sequence[float]) -> tuple[Array, ...]:
    """Weights that minimise the squared error of the responses, drawn towards those that are there.

    Each solution is that of `Covariances.drawn_towards` with the same ridge; all of them share one
    eigendecomposition S = V Λ V' of the regressors' covariance: W = prior + (C - prior S) V (Λ + ridge)⁻¹ V',
    eigenvalues that vanish left out.

    Args:
        covariances: of what the factor reads (regressors) and what it should answer (targets), float64.
        prior: the weights that are there, shape (outputs, inputs), float64.
        ridges: strengths of the pull, relative to the mean variance of the regressors; 0 for none.

    Returns:
        For each ridge weights of shape (outputs, inputs); `Covariances.bias` gives the bias.

    Example:
        >>> import numpy as np
        >>> covariances = Covariances(np.diag([2.0, 0.0]), np.array([[4.0, 0.0]]), *map(np.zeros, (1, 2, 1)))
        >>> refit(covariances, np.array([[1.0, 7.0]]), ridges=[0.0])[0].tolist()
        [[2.0, 7.0]]
    """
    xp = array_namespace(covariances.regressor, prior)
    values, vectors = descending_eigh(covariances.regressor)
    largest = float(values[0])
    kept = int(xp.count_nonzero(values > _CUTOFF * largest)) if largest > 0 else 0
    values, vectors = values[:kept], vectors[:, :kept]
    missing = (covariances.cross - prior @ covariances.regressor) @ vectors
    mean = float(xp.sum(xp.linalg.diagonal(covariances.regressor))) / covariances.regressor.shape[0]
    return tuple(prior + (missing / (values + ridge * mean)[None, :]) @ vectors.T for ridge in ridges)
