"""Sums of outer products: a convolution as 1 x 1, depthwise and 1 x 1 (a canonical polyadic decomposition).

The weight of a convolution, its kernel flattened and its output channels last, is a tensor T with three
modes. K terms approximate it,

    T = sum over k of inputs[:, k] ⊗ spatial[:, k] ⊗ outputs[:, k].

No algorithm is certain to find the best ones. Two starts are refined and each block keeps the better one:
greedy terms, and those of slices, whose error is known beforehand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.cp_refinement import (
    balanced,
    dense_terms,
    joint_refinement,
    refit_outputs,
    squared_errors,
)
from cnncompress.solvers.outer_greedy import greedy_terms, padded
from cnncompress.solvers.outer_slices import Terms, full_rank, slice_energies, slice_terms

__all__ = ["OuterProducts", "Start", "full_rank", "outer_products", "slice_energies"]

Start = Literal["best", "greedy", "slices"]


@dataclass(frozen=True)
class OuterProducts:
    """Terms whose sum approximates a tensor in each block.

    Attributes:
        inputs: shape (blocks, channels, rank); the three vectors of a term have the same length.
        spatial: shape (blocks, positions, rank).
        outputs: shape (blocks, outputs, rank).
        errors: relative squared error over all blocks after each stage that was tried.
        chosen: key of ``errors`` of the solution that was kept; "mixed" if its blocks have different starts.
        sweeps: most alternations that a term took ("greedy"), or a block ("...+joint"), by stage.
        converged: whether none was stopped at its limit, by stage.
    """

    inputs: Array
    spatial: Array
    outputs: Array
    errors: Mapping[str, float]
    chosen: str
    sweeps: Mapping[str, int]
    converged: Mapping[str, bool]

    def dense(self) -> Array:
        """The tensors that the terms add up to.

        Returns:
            Shape (blocks, channels, positions, outputs).
        """
        return dense_terms((self.inputs, self.spatial, self.outputs))


def outer_products(
    tensors: Array,
    *,
    rank: int,
    start: Start = "best",
    joint_sweeps: int = 20,
    restarts: int = 1,
    seed: int = 0,
) -> OuterProducts:
    """Approximate the tensor of each block by a sum of outer products.

    A refinement is kept in those blocks alone whose error it lowers.

    Args:
        tensors: shape (blocks, channels, positions, outputs), float32 or float64, all finite.
        rank: terms of each block; those that a block has no use for are zero.
        start: what is refined. "best" tries both and keeps the better one of each block, so that the error is
            at most what `slice_energies` leaves after ``rank``.
        joint_sweeps: of alternating least squares over all terms together at most, 0 for none.
        restarts: random starts of each greedy term, beside the leading vectors of the unfoldings.
        seed: of the random starts.

    Returns:
        The terms, and how they were found.

    Raises:
        ValueError: the tensors don't have four axes or aren't finite, the rank is below 1, or the start is
            unknown.

    Example:
        >>> import numpy as np
        >>> tensors = np.arange(24.0).reshape(1, 2, 3, 4)
        >>> bool(np.allclose(outer_products(tensors, rank=full_rank(2, 3, 4)).dense(), tensors))
        True
    """
    if tensors.ndim != 4:
        raise ValueError(
            f"tensors must have 4 axes (blocks, channels, positions, outputs), got {tensors.shape}"
        )
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if start not in get_args(Start):
        raise ValueError(f"start must be one of {', '.join(get_args(Start))}, got {start!r}")
    xp = array_namespace(tensors)
    energies = xp.sum(xp.astype(tensors, xp.float64) ** 2, axis=(1, 2, 3))
    if not bool(xp.all(xp.isfinite(energies))):
        raise ValueError("tensors hold NaN or numbers too large to square; scale them or mend the weights")
    norms = xp.astype(xp.sqrt(energies), tensors.dtype)[:, None, None]
    units = tensors / xp.where(norms > 0, norms, xp.ones_like(norms))[..., None]
    trials = _Trials(units, energies, min(rank, full_rank(*tensors.shape[1:])), joint_sweeps)
    if start != "greedy":
        trials.add("slices", slice_terms(units, rank=trials.rank))
    if start == "greedy" or (start == "best" and not trials.exact):
        greedy = greedy_terms(units, rank=trials.rank, restarts=restarts, seed=seed)
        trials.report("greedy", greedy.sweeps, greedy.converged)
        trials.add("greedy", greedy.terms)
    terms, chosen = trials.best()
    inputs, spatial, outputs = (
        padded(part, rank) for part in balanced((terms[0], terms[1], terms[2] * norms))
    )
    return OuterProducts(inputs, spatial, outputs, trials.errors, chosen, trials.sweeps, trials.converged)


@dataclass
class _Trials:
    """Solutions for tensors of norm 1, and a record of them."""

    units: Array
    energies: Array  # of the tensors before they were scaled
    rank: int
    joint_sweeps: int
    errors: dict[str, float] = field(default_factory=dict)
    sweeps: dict[str, int] = field(default_factory=dict)
    converged: dict[str, bool] = field(default_factory=dict)
    solutions: dict[str, tuple[Terms, Array]] = field(default_factory=dict)

    def report(self, stage: str, sweeps: int, converged: bool) -> None:
        self.sweeps[stage], self.converged[stage] = sweeps, converged

    def measure(self, stage: str, terms: Terms) -> Array:
        """Errors of the blocks; their energies' share is recorded."""
        xp = array_namespace(self.energies)
        errors = squared_errors(self.units, terms)
        total = float(xp.sum(self.energies))
        self.errors[stage] = float(xp.sum(errors * self.energies)) / total if total > 0 else 0.0
        return errors

    def add(self, stage: str, terms: Terms) -> None:
        """Refine a start."""
        errors = self.measure(stage, terms)
        if self.joint_sweeps and not self.exact:
            stage += "+joint"
            terms, sweeps, converged = joint_refinement(self.units, terms, sweeps=self.joint_sweeps)
            self.report(stage, sweeps, converged)
            errors = self.measure(stage, terms)
        if not self.exact:
            stage += "+refit"
            terms = refit_outputs(self.units, terms)
            errors = self.measure(stage, terms)
        self.solutions[stage] = terms, errors

    @property
    def exact(self) -> bool:
        """Whether rounding is all that the latest stage left."""
        xp = array_namespace(self.units)
        return list(self.errors.values())[-1] <= (100 * float(xp.finfo(self.units.dtype).eps)) ** 2

    def best(self) -> tuple[Terms, str]:
        """The better solution of each block, and its name."""
        xp = array_namespace(self.units)
        (name, (terms, errors)), *others = self.solutions.items()
        for other, (new, lower) in others:
            better = lower < errors
            if bool(xp.all(better)):
                name, terms = other, new
            elif bool(xp.any(better)):
                mask = better[:, None, None]
                terms = (
                    xp.where(mask, new[0], terms[0]),
                    xp.where(mask, new[1], terms[1]),
                    xp.where(mask, new[2], terms[2]),
                )
                name = "mixed"
                self.measure(name, terms)
        return terms, name
