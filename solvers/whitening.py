"""Covariance between two layers' channels once each layer's own covariance is taken away.

Ioannou et al., "Deep Roots: Improving CNN Efficiency with Hierarchical Filter Groups",
https://arxiv.org/abs/1605.06489, appendix A.2. A layer's responses are whitened by W = S^-½, the symmetric
(ZCA) root, which stays as close to the channels as whitening can. All is computed from the covariance of
both layers' channels together, so that no sample needs to be stored.
"""

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.reduced_rank import descending_eigh

# shares of the largest: of an eigenvalue, from the paper's float32 data, and of a variance, in float64
_FLOOR = 1e-8
_DEAD = 1e-14


def zca_whitener(covariance: Array, *, floor: float = _FLOOR) -> Array:
    """The symmetric matrix W with W S W = identity (Ioannou et al., eq. 8).

    Args:
        covariance: S, shape (channels, channels).
        floor: smaller eigenvalues, as a share of the largest, are raised to it: directions in which responses
            hardly vary are whitened in part, dead channels not at all.

    Returns:
        Shape (channels, channels), float64; zeros if nothing varies.

    Example:
        >>> import numpy as np
        >>> zca_whitener(np.diag([4.0, 0.25])).tolist()
        [[0.5, 0.0], [0.0, 2.0]]
    """
    xp = array_namespace(covariance)
    values, vectors = descending_eigh(xp.astype(covariance, xp.float64))
    largest = float(values[0])
    if largest <= 0:
        return xp.zeros_like(vectors)
    raised = xp.where(values > floor * largest, values, floor * largest)
    return (vectors / xp.sqrt(raised)[None, :]) @ vectors.T


def whitened_cross_covariance(covariance: Array, *, first: int, floor: float = _FLOOR) -> Array:
    """Covariance of two layers' whitened responses: cov(W1 X1, W2 X2) (Ioannou et al., eq. 9).

    Args:
        covariance: of the channels of both layers, one layer after the other, shape (c1 + c2, c1 + c2).
        first: channels of the first layer, c1.
        floor: see `zca_whitener`.

    Returns:
        Shape (c1, c2), float64; no singular value is above 1 but for rounding.

    Raises:
        ValueError: ``first`` doesn't leave a channel to each layer.

    Example:
        >>> import numpy as np
        >>> joint = np.array([[4.0, 1.0], [1.0, 1.0]])
        >>> whitened_cross_covariance(joint, first=1).tolist()
        [[0.5]]
    """
    channels = covariance.shape[0]
    if not 0 < first < channels:
        raise ValueError(f"first must be between 1 and {channels - 1}, got {first}")
    xp = array_namespace(covariance)
    wide = xp.astype(covariance, xp.float64)
    left = zca_whitener(wide[:first, :first], floor=floor)
    right = zca_whitener(wide[first:, first:], floor=floor)
    return left @ wide[:first, first:] @ right


def absolute_correlation(covariance: Array) -> Array:
    """Absolute correlation of a layer's channels (Ioannou et al., figure 11).

    Args:
        covariance: shape (channels, channels).

    Returns:
        Shape (channels, channels), float64, between 0 and 1; a dead channel's row and column are zero.

    Example:
        >>> import numpy as np
        >>> absolute_correlation(np.array([[4.0, -1.0], [-1.0, 1.0]])).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    xp = array_namespace(covariance)
    wide = xp.astype(covariance, xp.float64)
    variances = xp.linalg.diagonal(wide)
    alive = variances > _DEAD * xp.max(variances)
    scale = xp.where(alive, 1 / xp.sqrt(xp.where(alive, variances, xp.ones_like(variances))), 0.0)
    correlation = xp.abs(wide) * scale[:, None] * scale[None, :]
    return xp.where(correlation > 1, xp.ones_like(correlation), correlation)
