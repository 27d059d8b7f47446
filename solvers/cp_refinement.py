"""Refinements of outer products that were found one by one: all their vectors together.

Both are monotone: a block keeps what it had where a refinement would raise its error.
"""

from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_namespace,
    is_numpy_namespace,
    is_torch_namespace,
)

from cnncompress.solvers import Array
from cnncompress.solvers.outer_slices import Terms

_CUTOFF = 1e-10  # eigenvalues below this share of the largest are noise of float64
_RIDGE = 1e-6  # share of the mean diagonal of the systems that are solved


def squared_errors(tensors: Array, terms: Terms) -> Array:
    """Squared Frobenius norm of what outer products leave over.

    Args:
        tensors: shape (blocks, channels, positions, outputs).
        terms: of the same blocks.

    Returns:
        Shape (blocks,), float64.
    """
    xp = array_namespace(tensors)
    return xp.sum(xp.astype(_residual(tensors, terms), xp.float64) ** 2, axis=(1, 2))


def dense_terms(terms: Terms) -> Array:
    """The tensors that outer products add up to.

    Args:
        terms: of each block.

    Returns:
        Shape (blocks, channels, positions, outputs).
    """
    xp = array_namespace(*terms)
    inputs, spatial, outputs = terms
    flat = _pairs(inputs, spatial) @ xp.matrix_transpose(outputs)
    return xp.reshape(flat, (inputs.shape[0], inputs.shape[1], spatial.shape[1], outputs.shape[1]))


def keep_better(tensors: Array, before: Terms, after: Terms) -> Terms:
    """Of two sets of outer products, for each block, the one with the smaller error.

    Args:
        tensors: shape (blocks, channels, positions, outputs).
        before: the first set, which ties go to.
        after: the second; errors that are not numbers lose.

    Returns:
        The terms.
    """
    xp = array_namespace(tensors)
    better = (squared_errors(tensors, after) < squared_errors(tensors, before))[:, None, None]
    inputs, spatial, outputs = (xp.where(better, new, old) for new, old in zip(after, before, strict=True))
    return inputs, spatial, outputs


def balanced(terms: Terms) -> Terms:
    """The same outer products with the scale of each shared equally by its three vectors.

    Args:
        terms: of any scale.

    Returns:
        Vectors of equal lengths, zeros where one of the three is zero.
    """
    xp = array_namespace(*terms)
    norms = [xp.linalg.vector_norm(part, axis=1, keepdims=True) for part in terms]
    common = xp.ones_like(norms[0])
    for norm in norms:
        common = common * norm ** (1 / 3)
    inputs, spatial, outputs = (
        part * (common / xp.where(norm > 0, norm, xp.ones_like(norm)))
        for part, norm in zip(terms, norms, strict=True)
    )
    return inputs, spatial, outputs


def refit_outputs(tensors: Array, terms: Terms) -> Terms:
    """Least squares for all output vectors at once, the other two of each term as they are.

    Only the change is solved for, in the directions that the terms span beyond rounding.

    Args:
        tensors: shape (blocks, channels, positions, outputs).
        terms: to improve.

    Returns:
        Terms whose error is no greater in any block.
    """
    xp = array_namespace(tensors)
    inputs, spatial, outputs = balanced(terms)
    pairs = _pairs(inputs, spatial)
    lengths = xp.linalg.vector_norm(pairs, axis=1, keepdims=True)
    unit = pairs / xp.where(lengths > 0, lengths, xp.ones_like(lengths))
    lengths = xp.matrix_transpose(xp.where(lengths > 0, lengths, xp.ones_like(lengths)))
    missing = xp.matrix_transpose(unit) @ _residual(tensors, (inputs, spatial, outputs))
    gram = xp.astype(xp.matrix_transpose(unit) @ unit, xp.float64)
    values, vectors = xp.linalg.eigh(gram)
    cutoff = max(_CUTOFF, float(xp.finfo(tensors.dtype).eps)) * values[:, -1:]
    kept = values > cutoff
    weights = xp.where(kept, 1 / xp.where(kept, values, xp.ones_like(values)), xp.zeros_like(values))
    change = vectors @ (weights[:, :, None] * (xp.matrix_transpose(vectors) @ xp.astype(missing, xp.float64)))
    change = xp.matrix_transpose(xp.astype(change, tensors.dtype) / lengths)
    return keep_better(tensors, terms, (inputs, spatial, outputs + change))


def joint_refinement(
    tensors: Array, terms: Terms, *, sweeps: int, tolerance: float = 1e-6
) -> tuple[Terms, int, bool]:
    """Alternating least squares over all terms together, by tensorly.

    A ridge keeps terms from growing against each other, the usual way in which these sweeps degenerate.

    Args:
        tensors: shape (blocks, channels, positions, outputs), of norm about 1 each.
        terms: to start from.
        sweeps: at most.
        tolerance: fall of the relative error in one sweep below which a block has converged.

    Returns:
        Terms whose error is no greater in any block, the most sweeps of a block, and whether all blocks
        converged.
    """
    xp = array_namespace(tensors)
    backend = _backend(xp)
    given = (tensors, *balanced(terms))
    found, most, converged = [], 0, True
    for block in range(tensors.shape[0]):
        arrays = [part[block, ...] for part in given]
        if backend is None:
            arrays = [np.asarray(part) for part in arrays]
        factors, count, settled = _parafac(arrays, backend or "numpy", sweeps, tolerance)
        found.append([xp.asarray(part, device=device(tensors)) for part in factors])
        most, converged = max(most, count), converged and settled
    inputs, spatial, outputs = (xp.stack(part) for part in zip(*found, strict=True))
    return keep_better(tensors, terms, (inputs, spatial, outputs)), most, converged


def _backend(xp: Any) -> str | None:
    """Tensorly's name of an array library, None if it has none."""
    known = {"numpy": is_numpy_namespace, "cupy": is_cupy_namespace, "pytorch": is_torch_namespace}
    return next((name for name, matches in known.items() if matches(xp)), None)


def _parafac(
    arrays: list[Array], backend: str, sweeps: int, tolerance: float
) -> tuple[list[Array], int, bool]:
    """Refined factors of one block, the sweeps, and whether they converged; the given factors on failure."""
    # slow to import, and only this method needs it
    import tensorly  # noqa: PLC0415  # loads slowly
    from tensorly.decomposition import parafac  # noqa: PLC0415  # loads slowly

    tensor, *factors = arrays
    rank = int(factors[0].shape[1])
    # the products of two modes' squared lengths lie on the diagonal that the ridge is added to
    ridge = _RIDGE * float((factors[0] ** 2).sum() / rank) ** 2
    calls: list[None] = []
    try:
        with tensorly.backend_context(backend, local_threadsafe=True), np.errstate(all="ignore"):
            _, refined = parafac(
                tensor,
                rank,
                n_iter_max=sweeps,
                init=(None, factors),
                tol=tolerance,
                l2_reg=ridge,
                linesearch=True,  # half the sweeps
                callback=lambda *_: calls.append(None),
            )
    except (np.linalg.LinAlgError, RuntimeError) as error:
        # a singular system: torch's own error for it is of the second kind, as is much else
        if "LinAlgError" not in type(error).__name__:
            raise
        return factors, len(calls), False
    done = len(calls) - 1  # the first call precedes the sweeps
    return list(refined), done, done < sweeps


def _pairs(inputs: Array, spatial: Array) -> Array:
    """Outer products of the first two vectors of each term, shape (blocks, channels * positions, rank)."""
    xp = array_namespace(inputs, spatial)
    products = inputs[:, :, None, :] * spatial[:, None, :, :]
    blocks, channels, positions, rank = products.shape
    return xp.reshape(products, (blocks, channels * positions, rank))


def _residual(tensors: Array, terms: Terms) -> Array:
    """What outer products leave over, shape (blocks, channels * positions, outputs)."""
    xp = array_namespace(tensors)
    inputs, spatial, outputs = terms
    flat = xp.reshape(tensors, (tensors.shape[0], -1, tensors.shape[3]))
    return flat - _pairs(inputs, spatial) @ xp.matrix_transpose(outputs)
