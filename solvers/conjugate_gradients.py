"""Preconditioned conjugate gradients for least squares whose matrix is applied, not formed.

Each iteration lowers the quadratic objective, wherever it is stopped: what alternations need, and what no
solution by an inverse promises where regressors are dead, doubled or fewer samples than unknowns.
"""

from collections.abc import Callable

from array_api_compat import array_namespace

from cnncompress.solvers import Array


def conjugate_gradients(
    apply: Callable[[Array], Array],
    right: Array,
    start: Array,
    diagonal: Array,
    *,
    iterations: int = 50,
    tolerance: float = 1e-10,
    separate: bool = False,
) -> Array:
    """Minimise <x, A x> - 2 <x, right> for a symmetric, positive semi-definite A.

    Args:
        apply: x to A x, of the shape of x.
        right: of any shape; in the range of A, as normal equations are.
        start: where to start, same shape.
        diagonal: of A, same shape or one that broadcasts to it; entries without curvature are left alone.
        iterations: at most.
        tolerance: stops where the squared residual, as the preconditioner weighs it, is this share of the
            squared right-hand side.
        separate: rows are problems of their own, each with its own step: ``apply`` must not mix them.

    Returns:
        A point with an objective no greater than that of the start.

    Example:
        >>> import numpy as np
        >>> curvature = np.array([[2.0, 1.0], [1.0, 3.0]])
        >>> right = np.array([3.0, 4.0])
        >>> x = conjugate_gradients(lambda x: curvature @ x, right, np.zeros(2), np.array([2.0, 3.0]))
        >>> np.round(x, 6).tolist()
        [1.0, 1.0]
    """
    xp = array_namespace(right, start)
    one, nought = xp.ones_like(right), xp.zeros_like(right)
    axes = tuple(range(1, right.ndim)) if separate else None

    def inner(a: Array, b: Array) -> Array:
        return xp.sum(a * b, axis=axes, keepdims=True)

    curved = diagonal > 0
    scale = xp.where(curved, 1 / xp.where(curved, diagonal, one), nought)
    x, residual = start, right - apply(start)
    direction = scaled = scale * residual
    slope = inner(residual, scaled)
    limit = tolerance * xp.maximum(inner(right, scale * right), slope)
    for _ in range(iterations):
        if not bool(xp.any(slope > limit)):
            break
        curvature = apply(direction)
        step = _ratio(slope, inner(direction, curvature))
        x = x + step * direction
        residual = residual - step * curvature
        scaled = scale * residual
        following = inner(residual, scaled)
        direction = scaled + _ratio(following, slope) * direction
        slope = following
    return x


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Nought where there is nothing to divide by: such a problem has reached its end."""
    xp = array_namespace(numerator)
    positive = denominator > 0
    safe = xp.where(positive, denominator, xp.ones_like(denominator))
    return xp.where(positive, numerator / safe, xp.zeros_like(numerator))
