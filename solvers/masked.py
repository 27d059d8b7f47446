"""Least squares where every weight outside a mask stays zero.

Each output reads what its row of the mask allows and nothing else. One product with the covariance of the
regressors serves all outputs at once, so that masks with as many supports as outputs cost no more than
others; where whole groups of outputs share a support, the groups are solved one by one.
"""

from dataclasses import dataclass

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.blocks import diagonal_blocks
from cnncompress.solvers.conjugate_gradients import conjugate_gradients
from cnncompress.solvers.joint_moments import Covariances
from cnncompress.solvers.reduced_rank import whitener

_ROUND = 10  # conjugate gradients between two looks at the error


@dataclass(frozen=True, eq=False)
class MaskedFit:
    """Weights fitted to responses.

    Attributes:
        weight: zero outside the mask, shape (outputs, inputs), float64.
        history: mean squared error of the responses, as a share of their variance, at the start and after
            each round; never rising, nor does any output's own error.
    """

    weight: Array
    history: tuple[float, ...]


def masked_least_squares(
    covariances: Covariances,
    mask: Array,
    start: Array | None = None,
    *,
    iterations: int = 50,
    tolerance: float = 1e-3,
) -> MaskedFit:
    """The weights within a mask that come closest to the responses.

    Conjugate gradients on the mask, preconditioned by the variances of the regressors; each output takes
    steps of its own. What the samples say nothing about stays as it was at the start: draw the covariances
    towards a prior (`Covariances.drawn_towards`) where they say little.

    Args:
        covariances: of regressors and responses.
        mask: truth values, shape (outputs, inputs).
        start: where to start, shape (outputs, inputs), whatever it holds outside the mask; zeros if None.
        iterations: at most.
        tolerance: gain of a round of iterations, as a share of the error, below which it ends.

    Returns:
        The weights, and the course of the error.
    """
    xp = array_namespace(covariances.regressor)
    inside = xp.astype(mask, xp.float64)
    weight = inside * (xp.zeros_like(inside) if start is None else xp.astype(start, xp.float64))
    right = inside * covariances.cross
    diagonal = xp.linalg.diagonal(covariances.regressor)[None, :]
    energy = float(xp.sum(covariances.target))
    errors = covariances.error(weight)
    history = [_share(errors, energy)]
    for begun in range(0, iterations, _ROUND):
        following = conjugate_gradients(
            lambda w: inside * (w @ covariances.regressor),
            right,
            weight,
            diagonal,
            iterations=min(_ROUND, iterations - begun),
            tolerance=1e-16,
            separate=True,
        )
        found = covariances.error(following)
        better = found < errors  # an output may lose by rounding, at its very end
        weight = xp.where(better[:, None], following, weight)
        errors = xp.where(better, found, errors)
        history.append(_share(errors, energy))
        if history[-2] - history[-1] <= tolerance * history[-1]:
            break
    return MaskedFit(weight, tuple(history))


def grouped_least_squares(covariances: Covariances, start: Array, *, groups: int) -> Array:
    """The block-diagonal weights that come closest to the responses.

    Solved by eigenvectors, those of vanishing eigenvalues left out: there the weights stay as at the start.

    Args:
        covariances: of regressors and responses, both in the order of their groups (`reordered_covariances`).
        start: what each group's weights were, shape (groups, outputs / groups, inputs / groups).
        groups: of equal size.

    Returns:
        The weights of each group, in the shape of the start, float64.
    """
    xp = array_namespace(covariances.regressor)
    variances = diagonal_blocks(covariances.regressor, groups)
    crosses = diagonal_blocks(covariances.cross, groups)
    found = []
    for group in range(groups):
        block = xp.astype(start[group, ...], xp.float64)
        whitening = whitener(variances[group, ...])
        unexplained = crosses[group, ...] - block @ variances[group, ...]
        found.append(block + (unexplained @ whitening) @ whitening.T)
    return xp.stack(found, axis=0)


def _share(errors: Array, energy: float) -> float:
    xp = array_namespace(errors)
    return max(float(xp.sum(errors)), 0.0) / energy if energy > 0 else 0.0
