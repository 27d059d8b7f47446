"""Truncated singular value decomposition."""

import numpy as np
from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.reduced_rank import descending_eigh

_SPARE = 16  # vectors beside those that are wanted
_ITERATIONS = 4  # of the subspace; spectra of trained weights fall slowly


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


def leading_vectors(matrix: Array, *, rank: int, seed: int = 0, large: int = 2048) -> Array:
    """Left singular vectors, by whatever is quickest and accurate.

    Large matrices of which few vectors are wanted are searched at random (Halko, Martinsson and Tropp,
    Finding Structure with Randomness, 2011, algorithm 4.4, https://arxiv.org/abs/0909.4061).

    Args:
        matrix: shape (m, n).
        rank: number of vectors, at most min(m, n).
        seed: of the random search.
        large: shorter side from which on a matrix counts as large.

    Returns:
        Shape (m, rank), orthonormal columns, the leading first.

    Example:
        >>> import numpy as np
        >>> abs(leading_vectors(np.diag([1.0, 3.0]), rank=1)).tolist()
        [[0.0], [1.0]]
    """
    xp = array_namespace(matrix)
    rows, columns = matrix.shape
    if min(rows, columns) >= large and 4 * rank <= min(rows, columns):
        return _random_search(matrix, rank, seed)
    if rows > columns:
        return truncated_svd(matrix, rank=rank)[0]
    wide = xp.astype(matrix, xp.float64)
    return xp.astype(descending_eigh(wide @ wide.T)[1][:, :rank], matrix.dtype)


def _random_search(matrix: Array, rank: int, seed: int) -> Array:
    """Subspace iteration from a random start, with a few vectors to spare."""
    xp = array_namespace(matrix)
    drawn = np.random.default_rng(seed).standard_normal((matrix.shape[1], rank + _SPARE))
    start = xp.asarray(drawn, dtype=matrix.dtype, device=device(matrix))
    basis, _ = xp.linalg.qr(matrix @ start)
    for _ in range(_ITERATIONS):
        across, _ = xp.linalg.qr(matrix.T @ basis)
        basis, _ = xp.linalg.qr(matrix @ across)
    inner = basis.T @ matrix
    return (
        basis @ xp.astype(descending_eigh(xp.astype(inner @ inner.T, xp.float64))[1], matrix.dtype)[:, :rank]
    )


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
