"""Greedy outer products: one after another, each fitted to what the earlier ones left.

Reference: Denton, Zaremba, Bruna, LeCun and Fergus, Exploiting Linear Structure Within Convolutional Networks
for Efficient Evaluation, eq. 6 and 7, https://arxiv.org/abs/1404.0736.
"""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.outer_slices import Terms, unfold
from cnncompress.solvers.rank_one import RankOneSearch, flat_pair, unit_vectors

_TOLERANCE = 1e-7  # fall of the squared error, relative to that before the term, at which it has converged
_LIMIT = 100  # sweeps of one term
_SUBSPACE = 4  # vectors that follow the leading one of an unfolding


@dataclass(frozen=True)
class GreedyTerms:
    """Outer products in the order in which they were found.

    Attributes:
        terms: unit vectors of inputs and positions, and output vectors that hold the scale.
        sweeps: most alternations that a term took.
        converged: whether none was stopped at the limit.
    """

    terms: Terms
    sweeps: int
    converged: bool


def greedy_terms(tensors: Array, *, rank: int, restarts: int = 1, seed: int = 0) -> GreedyTerms:
    """Outer products by alternating least squares with deflation.

    Each term starts from the leading vectors of the unfoldings and from random ones. A term doesn't depend on
    how many follow it.

    Args:
        tensors: shape (blocks, channels, positions, outputs), of norm about 1 or 0 each.
        rank: number of terms.
        restarts: random starts of each term.
        seed: of the random starts.

    Returns:
        The terms, zeros where nothing is left.

    Example:
        >>> inputs, spatial, outputs = greedy_terms(np.ones((1, 4, 9, 2)) / 6, rank=1).terms
        >>> abs(inputs[0, :, 0]).round(6).tolist(), abs(outputs[0, :, 0]).round(6).tolist()
        ([0.5, 0.5, 0.5, 0.5], [1.0, 1.0])
    """
    xp = array_namespace(tensors)
    rng = np.random.default_rng(seed)
    blocks, channels, positions, outputs = tensors.shape
    residual = xp.asarray(xp.reshape(tensors, (blocks, channels * positions, outputs)), copy=True)
    before = left = _energy_of_residual(residual)
    nothing = (10 * float(xp.finfo(tensors.dtype).eps)) ** 2
    unfoldings = [_Unfolding.of(tensors, mode, rng) for mode in (1, 2, 3)]
    found: list[Terms] = []
    most, converged = 0, True
    while len(found) < rank and (not found or bool(xp.any(left > nothing * before))):
        # in single precision, which finds the direction; one sweep in the tensors' own then sets the scale
        search = RankOneSearch(xp.astype(residual, xp.float32, copy=False), (channels, positions))
        leading = [unfolding.leading()[:, None, :] for unfolding in unfoldings]
        random = xp.asarray(
            rng.standard_normal((blocks, restarts, outputs)), dtype=xp.float32, device=device(tensors)
        )
        starts = xp.concat([leading[2], flat_pair(leading[0], leading[1]) @ search.residual, random], axis=1)
        rough, sweeps, settled = search.run(starts, limit=_LIMIT - 1, tolerance=_TOLERANCE * left)
        term = RankOneSearch(residual, (channels, positions)).sweep(xp.astype(rough[2], tensors.dtype))
        residual -= xp.matrix_transpose(flat_pair(term[0], term[1])) @ term[2]
        left = _energy_of_residual(residual)
        found.append(term)
        most, converged = max(most, sweeps + 1), converged and settled
        # at convergence each vector is what the residual gives for the other two, and this is exact
        direction, length = unit_vectors(term[2])
        for unfolding, vector in zip(unfoldings, (term[0], term[1], direction), strict=True):
            unfolding.deflate(vector * length)
    inputs, spatial, scaled = (
        xp.matrix_transpose(xp.concat(list(vectors), axis=1)) for vectors in zip(*found, strict=True)
    )
    terms = (padded(inputs, rank), padded(spatial, rank), padded(scaled, rank))
    return GreedyTerms(terms, most, converged)


def padded(part: Array, rank: int) -> Array:
    """Vectors of zeros after those of the terms that there are.

    Args:
        part: shape (blocks, length, terms).
        rank: number of terms that are wanted, not fewer.

    Returns:
        Shape (blocks, length, rank).
    """
    xp = array_namespace(part)
    zeros = xp.zeros_like(part[:, :, :1])
    return xp.concat([part, xp.broadcast_to(zeros, (*part.shape[:2], rank - part.shape[2]))], axis=2)


@dataclass
class _Unfolding:
    """The leading singular vector of one unfolding, followed from term to term by subspace iteration."""

    gram: Array
    basis: Array

    @classmethod
    def of(cls, tensors: Array, mode: int, rng: np.random.Generator) -> "_Unfolding":
        xp = array_namespace(tensors)
        unfolded = unfold(xp.astype(tensors, xp.float32, copy=False), mode)
        shape = (*unfolded.shape[:2], min(_SUBSPACE, unfolded.shape[1]))
        basis = xp.asarray(rng.standard_normal(shape), dtype=xp.float32, device=device(tensors))
        return cls(unfolded @ xp.matrix_transpose(unfolded), basis)

    def leading(self) -> Array:
        """A unit vector for each block."""
        xp = array_namespace(self.gram)
        basis, _ = xp.linalg.qr(self.gram @ (self.gram @ self.basis))
        _, rotation = xp.linalg.eigh(xp.matrix_transpose(basis) @ (self.gram @ basis))
        self.basis = basis @ rotation
        return self.basis[..., -1]

    def deflate(self, vector: Array) -> None:
        """Take away a term, of which this vector holds the direction in this mode and the scale."""
        xp = array_namespace(vector)
        single = xp.astype(vector, xp.float32, copy=False)
        self.gram = self.gram - xp.matrix_transpose(single) @ single


def _energy_of_residual(residual: Array) -> Array:
    """Squared norm of each block, shape (blocks,), as a product: it needs no copy."""
    xp = array_namespace(residual)
    flat = xp.reshape(residual, (residual.shape[0], 1, -1))
    return xp.astype((flat @ xp.matrix_transpose(flat))[:, 0, 0], xp.float64)
