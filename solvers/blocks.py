"""Regressions and weights with channels in the order of their groups, where groups are blocks."""

from dataclasses import replace

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from cnncompress.solvers import Array
from cnncompress.solvers.joint_moments import Covariances

Order = NDArray[np.int64]


def patch_entries(channels: Order, positions: int) -> Order:
    """Where the patch entries of some channels are.

    Args:
        channels: indices.
        positions: of the kernel.

    Returns:
        Indices of all their entries, channel by channel, shape (channels * positions,).

    Example:
        >>> patch_entries(np.array([2, 0]), 2).tolist()
        [4, 5, 0, 1]
    """
    entries = np.asarray(channels)[:, None] * positions + np.arange(positions)
    return entries.reshape(-1).astype(np.int64)


def reordered(array: Array, order: Order, *, axis: int) -> Array:
    """Entries of an array in another order.

    Args:
        array: of any library.
        order: indices, on the host.
        axis: along which.

    Returns:
        Entry ``i`` is what was at ``order[i]``.
    """
    xp = array_namespace(array)
    return xp.take(array, xp.asarray(order, device=device(array)), axis=axis)


def reordered_covariances(covariances: Covariances, inputs: Order, outputs: Order) -> Covariances:
    """The same regression with regressors and targets in another order.

    Args:
        covariances: of the regression.
        inputs: position ``i`` takes regressor ``inputs[i]``.
        outputs: position ``j`` takes target ``outputs[j]``.

    Returns:
        Covariances whose solution is the other one's, reordered.
    """
    return replace(
        covariances,
        regressor=reordered(reordered(covariances.regressor, inputs, axis=0), inputs, axis=1),
        cross=reordered(reordered(covariances.cross, outputs, axis=0), inputs, axis=1),
        target=reordered(covariances.target, outputs, axis=0),
        regressor_mean=reordered(covariances.regressor_mean, inputs, axis=0),
        target_mean=reordered(covariances.target_mean, outputs, axis=0),
    )


def diagonal_blocks(matrix: Array, blocks: int) -> Array:
    """What lies on the diagonal of a matrix of equal blocks.

    Args:
        matrix: shape (m, n); the number of blocks divides both.
        blocks: how many there are.

    Returns:
        Shape (blocks, m / blocks, n / blocks).

    Example:
        >>> diagonal_blocks(np.array([[1, 2], [3, 4]]), 2).tolist()
        [[[1]], [[4]]]
    """
    xp = array_namespace(matrix)
    rows, columns = matrix.shape[0] // blocks, matrix.shape[1] // blocks
    parts = [matrix[rows * b : rows * (b + 1), columns * b : columns * (b + 1)] for b in range(blocks)]
    return xp.stack(parts, axis=0)


def block_diagonal(blocks: Array) -> Array:
    """A matrix that is zero outside equal blocks: undoes `diagonal_blocks`.

    Args:
        blocks: shape (blocks, rows, columns).

    Returns:
        Shape (blocks * rows, blocks * columns).
    """
    xp = array_namespace(blocks)
    count, rows, columns = blocks.shape
    own = xp.eye(count, dtype=blocks.dtype, device=device(blocks))
    spread = blocks[:, :, None, :] * own[:, None, :, None]
    return xp.reshape(spread, (count * rows, count * columns))
