"""Filters that reduce blocks of pixels, a 1 x 1 and filters that bring the blocks back, fitted to responses.

The spatial bottleneck of Wang et al., "Design of Efficient Convolutional Layers using Single Intra-channel
Convolution, Topological Subdivisioning and Spatial Bottleneck Structure", https://arxiv.org/abs/1608.04337v1,
section 2.4. Output j at place q of a block is

    up_j(q) * sum_i pointwise_ji sum_p down_i(p) x_i(p) + bias_j:

linear in each of the three factors, given the other two. They are solved for in turn from moments of whole
blocks, with the best bias at every step, so that the error never rises. Such a layer can't be exact: the
outputs of a block have rank one, and what lies around it is not seen.
"""

from dataclasses import dataclass, replace

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.conjugate_gradients import conjugate_gradients
from cnncompress.solvers.pixel_blocks import BlockFactors, BlockMoments, block_means

_ITERATIONS = 20
"""Of conjugate gradients in a step."""


@dataclass(frozen=True)
class BlockFit:
    """Factors fitted to responses.

    Attributes:
        factors: the weights.
        history: squared error as a share of the squared targets, with a bias alone, at the start and after
            each sweep; never rising.
    """

    factors: BlockFactors
    history: tuple[float, ...]


def fit_blocks(
    moments: BlockMoments, *, start: BlockFactors | None = None, sweeps: int = 30, tolerance: float = 1e-3
) -> BlockFit:
    """Alternating least squares.

    Args:
        moments: of blocks.
        start: factors to start from; None for block means and a 1 x 1 of zeros.
        sweeps: at most.
        tolerance: gain of a sweep, as a share of the error, below which it ends.

    Returns:
        Factors of float64.
    """
    xp = array_namespace(moments.regressor)
    energy = float(xp.sum(moments.target_square))
    outputs, positions, inputs = moments.cross.shape
    none = xp.zeros((outputs, inputs // positions), dtype=xp.float64, device=device(moments.regressor))
    nothing = block_means(none, moments.target_mean / positions, positions=positions)
    current = _as_float64(start) if start is not None else solve_pointwise(moments, nothing)
    errors = [moments.error(nothing), moments.error(current)]
    if errors[1] > errors[0]:  # a start that is worse than nothing
        current = solve_pointwise(moments, replace(current, pointwise=none))
        errors[1] = moments.error(current)
    for _ in range(sweeps):
        following = solve_pointwise(moments, solve_down(moments, solve_up(moments, current)))
        error = moments.error(following)
        if error > errors[-1]:  # by rounding, at the very end
            break
        current = following
        errors.append(error)
        if errors[-2] - error <= tolerance * error:
            break
    factors = _balanced(replace(current, bias=moments.bias(current)))
    return BlockFit(factors, tuple(max(error, 0.0) / energy if energy > 0 else 0.0 for error in errors))


def solve_pointwise(
    moments: BlockMoments, factors: BlockFactors, *, iterations: int = _ITERATIONS
) -> BlockFactors:
    """The 1 x 1 that is best for the other two.

    Args:
        moments: of blocks.
        factors: the filters, and the 1 x 1 to start from.
        iterations: of conjugate gradients, at most.

    Returns:
        The same filters with another 1 x 1.
    """
    xp, features = array_namespace(factors.down), moments.reduced(factors.down)
    square, total = _gains(factors.up)
    pull = total**2 / moments.positions
    right = xp.sum(factors.up[:, :, None] * features.cross, axis=1)
    right = right - (total * moments.target_mean / moments.positions)[:, None] * features.mean[None, :]

    def apply(pointwise: Array) -> Array:
        along_mean = pointwise @ features.mean
        return square[:, None] * (pointwise @ features.second) - (pull * along_mean)[:, None] * features.mean

    curvature = xp.linalg.diagonal(features.second)
    diagonal = square[:, None] * curvature[None, :] - pull[:, None] * features.mean[None, :] ** 2
    found = conjugate_gradients(
        apply, right, factors.pointwise, diagonal, iterations=iterations, separate=True
    )
    return replace(factors, pointwise=found)


def solve_up(moments: BlockMoments, factors: BlockFactors) -> BlockFactors:
    """The filters that bring back, best for the other two.

    Their equations are a multiple of the identity but for what the bias takes out along their mean.

    Args:
        moments: of blocks.
        factors: the other two, and filters that stay where the data say nothing.

    Returns:
        The other two with new filters.
    """
    xp, features = array_namespace(factors.down), moments.reduced(factors.down)
    mixed = factors.pointwise
    square = xp.sum((mixed @ features.second) * mixed, axis=1)
    mean = mixed @ features.mean
    right = xp.sum(features.cross * mixed[:, None, :], axis=2)
    right = right - (mean * moments.target_mean / moments.positions)[:, None]
    average = xp.mean(right, axis=1, keepdims=True)
    live = square > 0
    varying = square - mean**2 > 1e-10 * square  # else the bias does the same as their mean
    one = xp.ones_like(square)
    level = average[:, 0] / xp.where(varying, square - mean**2, one)
    kept = xp.mean(factors.up, axis=1)
    level = xp.where(varying, level, kept)
    around = (right - average) / xp.where(live, square, one)[:, None]
    return replace(factors, up=xp.where(live[:, None], around + level[:, None], factors.up))


def solve_down(
    moments: BlockMoments, factors: BlockFactors, *, iterations: int = _ITERATIONS
) -> BlockFactors:
    """The filters that reduce, best for the other two.

    Args:
        moments: of blocks.
        factors: the other two, and the filters to start from.
        iterations: of conjugate gradients, at most.

    Returns:
        The other two with new filters.
    """
    xp, positions = array_namespace(factors.down), moments.positions
    channels = factors.down.shape[0]
    square, total = _gains(factors.up)
    mixed = factors.pointwise
    outer = moments.regressor_mean[:, None] * moments.regressor_mean[None, :]
    matrix = _spread((mixed.T * square[None, :]) @ mixed, positions) * moments.regressor
    matrix = matrix - _spread((mixed.T * (total**2 / positions)[None, :]) @ mixed, positions) * outer
    wanted = xp.sum(factors.up[:, :, None] * moments.cross, axis=1)
    wanted = wanted - (total * moments.target_mean / positions)[:, None] * moments.regressor_mean[None, :]
    by_channel = xp.reshape(wanted, (-1, channels, positions))
    right = xp.sum(mixed[:, :, None] * by_channel, axis=0)

    def apply(down: Array) -> Array:
        return xp.reshape(matrix @ xp.reshape(down, (-1,)), down.shape)

    diagonal = xp.reshape(xp.linalg.diagonal(matrix), right.shape)
    found = conjugate_gradients(apply, right, factors.down, diagonal, iterations=iterations)
    return replace(factors, down=found)


def _gains(up: Array) -> tuple[Array, Array]:
    """Sum of squares and sum of the filters that bring back, both of shape (outputs,)."""
    xp = array_namespace(up)
    return xp.sum(up * up, axis=1), xp.sum(up, axis=1)


def _balanced(factors: BlockFactors) -> BlockFactors:
    """Filters as large as those of block means; the 1 x 1 takes what they had more."""
    xp, positions = array_namespace(factors.down), factors.down.shape[1]

    def scale(filters: Array, unit: float) -> Array:
        root = xp.sqrt(xp.mean(filters * filters, axis=1)) / unit
        return xp.where(root > 0, root, xp.ones_like(root))

    down, up = scale(factors.down, 1 / positions), scale(factors.up, 1.0)
    return BlockFactors(
        factors.down / down[:, None],
        factors.pointwise * up[:, None] * down[None, :],
        factors.up / up[:, None],
        factors.bias,
    )


def _as_float64(factors: BlockFactors) -> BlockFactors:
    xp = array_namespace(factors.down)
    parts = (factors.down, factors.pointwise, factors.up, factors.bias)
    return BlockFactors(*(xp.astype(part, xp.float64) for part in parts))


def _spread(small: Array, side: int) -> Array:
    """Each entry repeated over a square."""
    xp = array_namespace(small)
    return xp.repeat(xp.repeat(small, side, axis=0), side, axis=1)
