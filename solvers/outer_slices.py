"""Outer products from the singular triples of slices: the start whose error is known beforehand.

The shortest mode of a tensor is turned to its singular vectors. Each slice across it is then a matrix, and
each of that matrix's singular triples, with the singular vector it belongs to, an outer product. All these
products are orthogonal to each other, so that the error of keeping some is the energy of the others.
"""

from array_api_compat import array_namespace

from cnncompress.solvers import Array

Terms = tuple[Array, Array, Array]
"""Vectors of inputs, positions and outputs, of shape (blocks, ..., rank) each."""


def full_rank(channels: int, positions: int, outputs: int) -> int:
    """The number of outer products that are enough for any tensor of a shape.

    Slices across any mode give a decomposition with as many terms as their number times the shorter of
    their sides; the least of these is the product of the two shorter sides of the tensor.

    Args:
        channels: length of the first mode.
        positions: of the second.
        outputs: of the third.

    Returns:
        The number of terms.

    Example:
        >>> full_rank(128, 9, 64)
        576
    """
    shortest, middle, _ = sorted((channels, positions, outputs))
    return shortest * middle


def slice_energies(tensors: Array) -> Array:
    """What each further outer product adds, at least, to the energy that is kept.

    Args:
        tensors: shape (blocks, channels, positions, outputs).

    Returns:
        Shape (full rank,), descending, float64: squared singular values of the slices, those of equal place
        summed over the blocks.

    Example:
        >>> import numpy as np
        >>> slice_energies(np.ones((2, 1, 2, 2))).round(6).tolist()
        [8.0, 0.0]
    """
    xp = array_namespace(tensors)
    slices, _ = _rotated_slices(xp.astype(tensors, xp.float64))
    # the smaller Gram matrix, as only values are wanted
    if slices.shape[-2] > slices.shape[-1]:
        slices = xp.matrix_transpose(slices)
    values = xp.linalg.eigvalsh(slices @ xp.matrix_transpose(slices))
    values = xp.where(values > 0, values, xp.zeros_like(values))
    ordered = xp.sort(xp.reshape(values, (tensors.shape[0], -1)), axis=1, descending=True)
    return xp.sum(ordered, axis=0)


def slice_terms(tensors: Array, *, rank: int) -> Terms:
    """The outer products of greatest energy among the singular triples of all slices.

    Args:
        tensors: shape (blocks, channels, positions, outputs).
        rank: number of terms, at most the full rank.

    Returns:
        The terms. The error of each block is the sum of what `slice_energies` gives for it after ``rank``;
        at full rank it is zero.
    """
    xp = array_namespace(tensors)
    mode = _shortest(tensors)
    slices, rotation = _rotated_slices(tensors)
    left, values, right = xp.linalg.svd(slices, full_matrices=False)
    blocks, count, per_slice = values.shape
    flat = xp.reshape(values, (blocks, count * per_slice))
    order = xp.argsort(flat, axis=1, descending=True, stable=True)[:, :rank]
    left = xp.reshape(xp.matrix_transpose(left), (blocks, count * per_slice, -1))
    right = xp.reshape(right, (blocks, count * per_slice, -1))
    chosen: list[Terms] = []
    for block in range(blocks):
        kept = order[block, :]
        across = xp.take(rotation[block, ...], kept // per_slice, axis=1)
        first = xp.take(left[block, ...], kept, axis=0).T * xp.take(flat[block, :], kept)[None, :]
        last = xp.take(right[block, ...], kept, axis=0).T
        parts = [first, last]
        parts.insert(mode - 1, across)
        chosen.append((parts[0], parts[1], parts[2]))
    inputs, spatial, outputs = (xp.stack(part) for part in zip(*chosen, strict=True))
    return inputs, spatial, outputs


def _shortest(tensors: Array) -> int:
    """Axis of the shortest mode, the spatial one if there are several: the slices fewest in rank."""
    return min((2, 1, 3), key=lambda axis: int(tensors.shape[axis]))


def _rotated_slices(tensors: Array) -> tuple[Array, Array]:
    """Slices (blocks, n, rows, columns) across the shortest mode, and its singular vectors (blocks, n, n)."""
    xp = array_namespace(tensors)
    mode = _shortest(tensors)
    unfolded = unfold(tensors, mode)
    wide = xp.astype(unfolded, xp.float64)
    rotation = xp.astype(xp.linalg.eigh(wide @ xp.matrix_transpose(wide))[1], tensors.dtype)
    rows, columns = (tensors.shape[axis] for axis in (1, 2, 3) if axis != mode)
    return xp.reshape(
        xp.matrix_transpose(rotation) @ unfolded, (*unfolded.shape[:2], rows, columns)
    ), rotation


def unfold(tensors: Array, mode: int) -> Array:
    """Each tensor as a matrix with one mode as rows.

    Args:
        tensors: shape (blocks, channels, positions, outputs).
        mode: axis of the rows, 1 to 3.

    Returns:
        Shape (blocks, length of the mode, product of the other two), these in their order.
    """
    xp = array_namespace(tensors)
    moved = xp.permute_dims(tensors, (0, mode, *(axis for axis in (1, 2, 3) if axis != mode)))
    return xp.reshape(moved, (*moved.shape[:2], -1))
