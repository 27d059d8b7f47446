"""Separation of a k x k kernel into k x 1 and 1 x k (Jaderberg et al., scheme 2).

The weight (d, c, kh, kw) is folded into F of shape (c kh, d kw). A rank-r factorisation F = A B gives
r vertical filters of shape (c, kh, 1), the columns of A, and d horizontal ones of shape (r, 1, kw),
the rows of B. The truncated SVD is the global optimum on the weight; with the second moment of the
input columns it is the optimum on the responses if those of neighbouring columns were uncorrelated.
"""

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.reduced_rank import descending_eigh
from cnncompress.solvers.svd import truncated_svd


def fold(weight: Array) -> Array:
    """Fold a convolution's weight for the split of its two axes.

    Args:
        weight: shape (out_channels, in_channels, kh, kw).

    Returns:
        Shape (in_channels * kh, out_channels * kw).
    """
    xp = array_namespace(weight)
    outputs, inputs, height, width = weight.shape
    return xp.reshape(xp.permute_dims(weight, (1, 2, 0, 3)), (inputs * height, outputs * width))


def spatial_split(weight: Array, *, rank: int, column_moment: Array | None = None) -> tuple[Array, Array]:
    """Vertical and horizontal filters whose composition approximates a convolution.

    Args:
        weight: shape (out_channels, in_channels, kh, kw).
        rank: number of vertical filters.
        column_moment: second moment of the input columns that the vertical filters see, shape
            (in_channels * kh, in_channels * kh); the weight alone decides if it is None.

    Returns:
        Vertical filters (rank, in_channels, kh, 1) and horizontal filters (out_channels, rank, 1, kw).
    """
    xp = array_namespace(weight)
    outputs, inputs, height, width = weight.shape
    folded = fold(weight)
    if column_moment is None:
        left, values, right = truncated_svd(folded, rank=rank)
        root = xp.sqrt(values)
        vertical, horizontal = left * root[None, :], root[:, None] * right
    else:
        # ||S^½ (F - F V V')|| is least for the leading right vectors V of S^½ F: no inverse is needed
        leading = _leading_vectors(folded.T @ (column_moment @ folded), rank)
        vertical, horizontal = folded @ leading, leading.T
    return (
        xp.reshape(vertical.T, (vertical.shape[1], inputs, height, 1)),
        xp.permute_dims(xp.reshape(horizontal, (-1, outputs, 1, width)), (1, 0, 2, 3)),
    )


def _leading_vectors(symmetric: Array, rank: int) -> Array:
    return descending_eigh(symmetric)[1][:, :rank]


def compose(vertical: Array, horizontal: Array) -> Array:
    """The k x k convolution that a vertical and a horizontal one amount to.

    Args:
        vertical: shape (rank, in_channels, kh, 1).
        horizontal: shape (out_channels, rank, 1, kw).

    Returns:
        Shape (out_channels, in_channels, kh, kw).
    """
    xp = array_namespace(vertical, horizontal)
    rank, inputs, height, _ = vertical.shape
    outputs, _, _, width = horizontal.shape
    left = xp.reshape(xp.permute_dims(vertical, (1, 2, 3, 0)), (inputs * height, rank))
    right = xp.reshape(xp.permute_dims(horizontal, (1, 0, 2, 3)), (rank, outputs * width))
    return xp.permute_dims(xp.reshape(left @ right, (inputs, height, outputs, width)), (2, 0, 1, 3))
