"""Biclustering: a convolution as blocks of similar inputs and similar outputs, each of low rank.

The weight is a tensor of shape (C, P, F): inputs, positions, outputs. Inputs and outputs are clustered
independently into G and H equal groups; each of the G H blocks (C/G, P, F/H) is then compressed on its own,
here to a core between two factors (Tucker-2). Denton et al., "Exploiting Linear Structure Within
Convolutional Networks for Efficient Evaluation", https://arxiv.org/abs/1404.0736, section 3.3.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.clustering import (
    Clusters,
    Labels,
    cluster_size,
    random_clusters,
    subspace_clusters,
    subspace_distance,
)

Grouping = Literal["clustered", "random", "ordered"]


@dataclass(frozen=True, eq=False)
class Biclusters:
    """Equal groups of inputs and of outputs.

    Attributes:
        inputs: clusters of the rows of the weight as C x P F.
        outputs: clusters of the columns of the weight as C P x F.
    """

    inputs: Clusters
    outputs: Clusters


def blocks_of(
    tensor: Array, input_order: Labels, output_order: Labels, *, inputs: int, outputs: int
) -> Array:
    """Cut a weight into the blocks of its groups of inputs and outputs.

    Args:
        tensor: shape (C, P, F).
        input_order: the inputs sorted by group, shape (C,).
        output_order: the outputs sorted by group, shape (F,).
        inputs: number of groups G of the inputs; must divide C.
        outputs: number of groups H of the outputs; must divide F.

    Returns:
        Shape (G H, C/G, P, F/H); block g H + h is that of inputs g and outputs h.
    """
    xp, place = array_namespace(tensor), device(tensor)
    channels, positions, filters = tensor.shape
    rows = cluster_size(channels, inputs, name="inputs", of="input channels")
    columns = cluster_size(filters, outputs, name="outputs", of="output channels")
    ordered = xp.take(tensor, xp.asarray(input_order, device=place), axis=0)
    ordered = xp.take(ordered, xp.asarray(output_order, device=place), axis=2)
    split = xp.reshape(ordered, (inputs, rows, positions, outputs, columns))
    return xp.reshape(xp.permute_dims(split, (0, 3, 1, 2, 4)), (inputs * outputs, rows, positions, columns))


def from_blocks(
    blocks: Array, input_order: Labels, output_order: Labels, *, inputs: int, outputs: int
) -> Array:
    """Put the blocks of `blocks_of` back where they came from.

    Args:
        blocks: shape (G H, C/G, P, F/H).
        input_order: the inputs sorted by group, shape (C,).
        output_order: the outputs sorted by group, shape (F,).
        inputs: number of groups G of the inputs.
        outputs: number of groups H of the outputs.

    Returns:
        Shape (C, P, F).

    Raises:
        ValueError: there aren't G H blocks.
    """
    xp, place = array_namespace(blocks), device(blocks)
    count, rows, positions, columns = blocks.shape
    if count != inputs * outputs:
        raise ValueError(f"{inputs} x {outputs} groups have {inputs * outputs} blocks, got {count}")
    split = xp.reshape(blocks, (inputs, outputs, rows, positions, columns))
    ordered = xp.reshape(
        xp.permute_dims(split, (0, 2, 3, 1, 4)), (inputs * rows, positions, outputs * columns)
    )
    restored = xp.take(ordered, xp.asarray(np.argsort(input_order), device=place), axis=0)
    return xp.take(restored, xp.asarray(np.argsort(output_order), device=place), axis=2)


def bicluster(
    tensor: Array,
    *,
    inputs: int,
    outputs: int,
    dimension: int = 1,
    restarts: int = 5,
    seed: int = 0,
    grouping: Grouping = "clustered",
) -> Biclusters:
    """Group the inputs and, independently, the outputs of a weight.

    Args:
        tensor: shape (C, P, F).
        inputs: groups of inputs; must divide C.
        outputs: groups of outputs; must divide F.
        dimension: of the subspace that the members of a group lie close to.
        restarts: seedings of each clustering tried, the best of which is kept.
        seed: of the seedings, or of the random groups.
        grouping: ``"clustered"``; the baselines ``"random"``, and ``"ordered"``, groups of neighbours.

    Returns:
        The groups, with the clustering's objective whatever the grouping.

    Raises:
        ValueError: the groups don't divide the channels, or the grouping is unknown.

    Example:
        >>> weight = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])[:, None, :]
        >>> bicluster(weight, inputs=2, outputs=1).inputs.labels.tolist()
        [0, 1, 0, 1]
    """
    xp = array_namespace(tensor)
    channels, _, filters = tensor.shape
    cluster_size(channels, inputs, name="inputs", of="input channels")
    cluster_size(filters, outputs, name="outputs", of="output channels")
    if grouping not in get_args(Grouping):
        raise ValueError(f"grouping must be one of {', '.join(get_args(Grouping))}, got {grouping!r}")
    sides = (
        (xp.reshape(tensor, (channels, -1)), inputs),
        (xp.reshape(xp.permute_dims(tensor, (2, 0, 1)), (filters, -1)), outputs),
    )
    found = []
    for rows, groups in sides:
        if grouping == "clustered":
            found.append(
                subspace_clusters(rows, clusters=groups, dimension=dimension, restarts=restarts, seed=seed)
            )
        else:
            baseline = _baseline(rows.shape[0], groups, grouping, seed)
            found.append(subspace_distance(rows, baseline, dimension=dimension))
    return Biclusters(*found)


def _baseline(items: int, groups: int, grouping: str, seed: int) -> Clusters:
    if grouping == "random":
        return random_clusters(items, clusters=groups, seed=seed)
    return Clusters.of(np.repeat(np.arange(groups), items // groups))


@dataclass(frozen=True, eq=False)
class Tucker2:
    """A core between a factor for the inputs and one for the outputs, for each of several tensors.

    Attributes:
        inputs: orthonormal columns, shape (B, C, input_rank).
        core: shape (B, input_rank, P, output_rank).
        outputs: orthonormal columns, shape (B, F, output_rank).
        history: squared error of all tensors together relative to their energy, of the sequentially truncated
            start and after each sweep that lowered it.
    """

    inputs: Array
    core: Array
    outputs: Array
    history: tuple[float, ...]

    def dense(self) -> Array:
        """The tensors that the factors amount to.

        Returns:
            Shape (B, C, P, F).
        """
        return _onto_inputs(_onto_outputs(self.core, self.outputs), self.inputs)


def tucker2(tensors: Array, *, input_rank: int, output_rank: int, sweeps: int = 0) -> Tucker2:
    """Truncate the inputs of each tensor, then the outputs of what is left.

    Args:
        tensors: shape (B, C, P, F).
        input_rank: at most min(C, P F).
        output_rank: at most min(P input_rank, F).
        sweeps: of higher-order orthogonal iteration, at most: each factor is renewed given the other, which
            never raises the error.

    Returns:
        The factors in the library and type of the tensors, exact at full ranks.

    Raises:
        ValueError: a rank or the number of sweeps is out of its range.

    Example:
        >>> tensors = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
        >>> exact = tucker2(tensors, input_rank=3, output_rank=5)
        >>> bool(np.allclose(exact.dense(), tensors)), exact.core.shape
        (True, (2, 3, 4, 5))
    """
    xp = array_namespace(tensors)
    _, channels, positions, filters = tensors.shape
    for name, rank, limit in (
        ("input_rank", input_rank, min(channels, positions * filters)),
        ("output_rank", output_rank, min(positions * input_rank, filters)),
    ):
        if not 1 <= rank <= limit:
            raise ValueError(f"{name} must be between 1 and {limit}, got {rank}")
    if sweeps < 0:
        raise ValueError(f"sweeps must not be negative, got {sweeps}")
    wide = xp.astype(tensors, xp.float64, copy=False)
    inputs = _leading(_by_inputs(wide), input_rank)
    best = _renewed(wide, inputs, output_rank, ())
    for _ in range(sweeps):
        inputs = _leading(_by_inputs(_onto_outputs(wide, best.outputs, adjoint=True)), input_rank)
        candidate = _renewed(wide, inputs, output_rank, best.history)
        # at a fixed point, rounding decides the last digits
        if not candidate.history[-1] < best.history[-1]:
            break
        best = candidate
    kind = tensors.dtype
    return Tucker2(
        xp.astype(best.inputs, kind), xp.astype(best.core, kind), xp.astype(best.outputs, kind), best.history
    )


def tucker_energies(tensors: Array) -> tuple[Array, Array]:
    """Energy along the directions that `tucker2` truncates, before either is truncated.

    Args:
        tensors: shape (B, C, P, F).

    Returns:
        Squared singular values of the tensors as C x P F, shape (min(C, P F),), and as C P x F, shape
        (min(C P, F),); those of the same rank in each tensor are summed. Descending, float64.

    Example:
        >>> by_inputs, by_outputs = tucker_energies(np.array([[[[3.0, 0.0]], [[0.0, 1.0]]]]))
        >>> by_inputs.tolist(), by_outputs.tolist()
        ([9.0, 1.0], [9.0, 1.0])
    """
    xp = array_namespace(tensors)
    wide = xp.astype(tensors, xp.float64, copy=False)
    return _energies(_by_inputs(wide)), _energies(_by_outputs(wide))


def _energies(matrices: Array) -> Array:
    """Summed squared singular values of a batch of matrices, from the smaller Gram matrices."""
    xp = array_namespace(matrices)
    turned = xp.matrix_transpose(matrices)
    gram = matrices @ turned if matrices.shape[1] <= matrices.shape[2] else turned @ matrices
    values = xp.linalg.eigvalsh(gram)
    return xp.flip(xp.sum(xp.where(values > 0, values, xp.zeros_like(values)), axis=0))


def _renewed(tensors: Array, inputs: Array, output_rank: int, history: tuple[float, ...]) -> Tucker2:
    """Best outputs and core for given inputs, with the error after the history so far."""
    xp = array_namespace(tensors)
    projected = _onto_inputs(tensors, inputs, adjoint=True)
    outputs = _leading(xp.matrix_transpose(_by_outputs(projected)), output_rank)
    found = Tucker2(inputs, _onto_outputs(projected, outputs, adjoint=True), outputs, history)
    energy = float(xp.sum(tensors**2))
    # the residual itself: the difference of two energies would end at 1e-16 where the fit is exact
    error = float(xp.sum((tensors - found.dense()) ** 2)) / energy if energy else 0.0
    return Tucker2(found.inputs, found.core, found.outputs, (*history, error))


def _leading(matrices: Array, rank: int) -> Array:
    """Leading left singular vectors, (B, rows, rank), completed orthonormally where they are fewer."""
    xp = array_namespace(matrices)
    rows, columns = matrices.shape[1:]
    if rows <= columns:
        vectors = xp.flip(xp.linalg.eigh(matrices @ xp.matrix_transpose(matrices))[1], axis=-1)
    else:
        # a Gram matrix of low rank would lose directions below 1e-8 of the largest, which full rank needs
        vectors = xp.linalg.svd(matrices, full_matrices=rank > columns)[0]
    return vectors[:, :, :rank]


def _by_inputs(tensors: Array) -> Array:
    return array_namespace(tensors).reshape(tensors, (*tensors.shape[:2], -1))


def _by_outputs(tensors: Array) -> Array:
    return array_namespace(tensors).reshape(tensors, (tensors.shape[0], -1, tensors.shape[3]))


def _onto_inputs(tensors: Array, factor: Array, *, adjoint: bool = False) -> Array:
    xp = array_namespace(tensors)
    product = (xp.matrix_transpose(factor) if adjoint else factor) @ _by_inputs(tensors)
    return xp.reshape(product, (*product.shape[:2], *tensors.shape[2:]))


def _onto_outputs(tensors: Array, factor: Array, *, adjoint: bool = False) -> Array:
    xp = array_namespace(tensors)
    product = _by_outputs(tensors) @ (factor if adjoint else xp.matrix_transpose(factor))
    return xp.reshape(product, (*tensors.shape[:3], product.shape[2]))
