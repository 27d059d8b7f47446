"""Truncated singular value decomposition."""

from array_api_compat import array_namespace

from cnncompress.solvers import Array


def truncated_svd(matrix: Array, *, rank: int) -> tuple[Array, Array, Array]:
    """Best approximation of a matrix by one of the given rank.

    Args:
        matrix: shape (m, n).
        rank: number of singular values kept, at most min(m, n).

    Returns:
        Left vectors (m, rank), singular values (rank,) descending, right vectors (rank, n).

    Example:
        >>> import numpy as np
        >>> u, s, vt = truncated_svd(np.diag([3.0, 1.0]), rank=1)
        >>> (u * s @ vt).tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    xp = array_namespace(matrix)
    left, values, right = xp.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank], values[:rank], right[:rank, :]


def squared_singular_values(matrix: Array) -> Array:
    """Energy along each singular direction, from the smaller Gram matrix.

    Args:
        matrix: shape (m, n).

    Returns:
        Shape (min(m, n),), descending, float64.

    Example:
        >>> import numpy as np
        >>> squared_singular_values(np.diag([1.0, 3.0])).tolist()
        [9.0, 1.0]
    """
    xp = array_namespace(matrix)
    wide = xp.astype(matrix, xp.float64)
    gram = wide @ wide.T if matrix.shape[0] <= matrix.shape[1] else wide.T @ wide
    return xp.flip(xp.linalg.eigvalsh(gram))
