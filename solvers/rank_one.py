"""One outer product that fits best: alternating least squares from several starts at once.

Given the output vector, the best other two are the leading singular pair of one small matrix, so that they
are solved for together. Vectors are rows here, of shape (blocks, starts, length): what the products want.
"""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.outer_slices import Terms

_SCREENING = 3  # sweeps of every start, before only the best goes on
_STEPS = (0.0, 1.0, 4.0, 16.0)  # multiples of the last move that are tried; nought never makes it worse


@dataclass(frozen=True)
class RankOneSearch:
    """Alternations for one term in every block.

    Attributes:
        residual: shape (blocks, channels * positions, outputs).
        shape: channels and positions.
    """

    residual: Array
    shape: tuple[int, int]

    def sweep(self, outputs: Array) -> Terms:
        """The best other two vectors, then the best output vector.

        Args:
            outputs: output vectors, of any length.

        Returns:
            Unit vectors of inputs and positions, and output vectors that hold the scale.
        """
        xp = array_namespace(outputs)
        unit, _ = unit_vectors(outputs)
        contracted = xp.matrix_transpose(self.residual @ xp.matrix_transpose(unit))
        inputs, spatial = _leading_pair(xp.reshape(contracted, (*unit.shape[:2], *self.shape)))
        return inputs, spatial, flat_pair(inputs, spatial) @ self.residual

    def run(self, starts: Array, *, limit: int, tolerance: Array) -> tuple[Terms, int, bool]:
        """The best term of each block.

        Args:
            starts: output vectors to start from.
            limit: sweeps at most, those that every start gets included.
            tolerance: of each block, gain in energy below which it has settled, shape (blocks,).

        Returns:
            The term (one "start" in each block), the sweeps it took and whether all blocks settled.
        """
        terms = self.sweep(starts)
        for _ in range(_SCREENING - 1):
            terms = self.sweep(terms[2])
        term, sweeps, settled = self._converge(_best(terms), limit - _SCREENING, tolerance)
        return term, sweeps + _SCREENING, settled

    def _converge(self, term: Terms, limit: int, tolerance: Array) -> tuple[Terms, int, bool]:
        xp = array_namespace(self.residual)
        steps = xp.asarray(_STEPS, dtype=xp.float32, device=device(self.residual))[None, :, None]
        unit, energies = unit_vectors(term[2])[0], _energies(term[2])
        move = xp.zeros_like(unit)
        for sweep in range(1, limit + 1):
            # alternations creep along a line, so look further ahead on it: a quarter of the sweeps is enough
            term = _best(self.sweep(unit + steps * move))
            turned, captured = unit_vectors(term[2])[0], _energies(term[2])
            busy = captured - energies > tolerance
            unit, move, energies = turned, turned - unit, captured
            remaining = [block for block in range(unit.shape[0]) if bool(busy[block])]
            if not remaining:
                return term, sweep, True
            # going on with these alone pays for the copy
            if 2 * len(remaining) <= unit.shape[0]:
                index = xp.asarray(np.asarray(remaining), device=device(self.residual))
                rest, more, settled = RankOneSearch(
                    xp.take(self.residual, index, axis=0), self.shape
                )._converge(_taken(term, index), limit - sweep, xp.take(tolerance, index, axis=0))
                return _replaced(term, remaining, rest), sweep + more, settled
        return term, limit, False


def flat_pair(inputs: Array, spatial: Array) -> Array:
    """Outer products of two vectors.

    Args:
        inputs: shape (blocks, starts, channels).
        spatial: shape (blocks, starts, positions).

    Returns:
        Shape (blocks, starts, channels * positions).
    """
    xp = array_namespace(inputs, spatial)
    return xp.reshape(inputs[..., :, None] * spatial[..., None, :], (*inputs.shape[:2], -1))


def unit_vectors(vectors: Array) -> tuple[Array, Array]:
    """Scale vectors to length one.

    Args:
        vectors: along the last axis.

    Returns:
        The scaled vectors, zeros where they are zero, and their lengths, shape (..., 1).
    """
    xp = array_namespace(vectors)
    lengths = xp.linalg.vector_norm(vectors, axis=-1, keepdims=True)
    return vectors / xp.where(lengths > 0, lengths, xp.ones_like(lengths)), lengths


def _leading_pair(matrices: Array) -> tuple[Array, Array]:
    """Leading singular vectors of matrices (..., m, n), of shapes (..., m) and (..., n)."""
    xp = array_namespace(matrices)
    if matrices.shape[-2] < matrices.shape[-1]:
        right, left = _leading_pair(xp.matrix_transpose(matrices))
        return left, right
    # of the smaller Gram matrix: convolutions have few positions
    right = xp.linalg.eigh(xp.matrix_transpose(matrices) @ matrices)[1][..., -1]
    left, _ = unit_vectors((matrices @ right[..., None])[..., 0])
    return left, right


def _best(terms: Terms) -> Terms:
    """Of several starts the one that captures most."""
    xp = array_namespace(*terms)
    best = xp.argmax(xp.sum(terms[2] ** 2, axis=2, keepdims=True), axis=1, keepdims=True)
    mask = xp.arange(terms[2].shape[1], device=device(best))[None, :, None] == best
    inputs, spatial, outputs = (
        xp.sum(xp.where(mask, part, xp.zeros_like(part)), axis=1, keepdims=True) for part in terms
    )
    return inputs, spatial, outputs


def _taken(term: Terms, index: Array) -> Terms:
    xp = array_namespace(index)
    return xp.take(term[0], index, axis=0), xp.take(term[1], index, axis=0), xp.take(term[2], index, axis=0)


def _replaced(term: Terms, blocks: list[int], by: Terms) -> Terms:
    for whole, part in zip(term, by, strict=True):
        for i, block in enumerate(blocks):
            whole[block, ...] = part[i, ...]
    return term


def _energies(outputs: Array) -> Array:
    xp = array_namespace(outputs)
    return xp.sum(xp.astype(outputs, xp.float64) ** 2, axis=(1, 2))
