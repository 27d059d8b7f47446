"""Balanced clustering by distance to a subspace.

Equal clusters let every group of a grouped convolution do the same work. An item is a row, or several rows
that must stay together; a cluster's centre is the subspace that keeps most of its members' energy, so that an
item's sign and scale don't matter. Lloyd's two steps are both solved exactly: the centre by the eigenvectors
of the members' Gram matrix, the equal sizes by a linear assignment. Hence the objective never rises.
Denton et al., "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation",
https://arxiv.org/abs/1404.0736, section 3.3.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_cupy_array, is_torch_array, to_device
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import kmeans_plusplus

from cnncompress.solvers import Array

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

# shares of the energy below which a change, or a direction, is rounding
_CONVERGED = 1e-13
_VANISHING = 1e-12


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition into clusters of equal size.

    Attributes:
        labels: cluster of each item, shape (items,); clusters are numbered by their first item.
        order: the items sorted by cluster, within a cluster as they were, shape (items,).
        objective: squared distance of the items to their clusters' subspaces; NaN where no rows were given.
        history: the objective at the start and after each sweep of the best restart.
    """

    labels: Labels
    order: Labels
    objective: float
    history: tuple[float, ...] = ()

    @classmethod
    def of(cls, labels: Labels, history: tuple[float, ...] = ()) -> "Clusters":
        """Number the clusters by their first item and sort the items.

        Args:
            labels: cluster of each item, shape (items,).
            history: objectives, the last one that of these labels.

        Returns:
            The partition.
        """
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        numbered = np.argsort(np.argsort(first))[inverse].astype(np.int64)
        objective = history[-1] if history else float("nan")
        return cls(numbered, np.argsort(numbered, kind="stable"), objective, history)


def cluster_size(items: int, clusters: int, *, name: str = "clusters", of: str = "items") -> int:
    """Number of items in each of several equal clusters.

    Args:
        items: how many there are.
        clusters: how many clusters they are dealt to.
        name: what the number of clusters is called in the message.
        of: what the items are called in it.

    Returns:
        Items of one cluster.

    Raises:
        ValueError: the clusters can't be of equal size.
    """
    if clusters < 1 or items % clusters:
        valid = ", ".join(str(n) for n in range(1, items + 1) if not items % n)
        raise ValueError(f"{name} must divide the {items} {of}, got {clusters}; valid: {valid}")
    return items // clusters


def to_host(array: Array) -> Floats:
    """The values as NumPy in float64: discrete problems are solved on the host.

    Args:
        array: of any library, on any device.

    Returns:
        The same values, without a copy where possible.

    Raises:
        ValueError: some are NaN or infinite.
    """
    xp = array_namespace(array)
    wide = xp.astype(array, xp.float64, copy=False)
    if is_torch_array(wide) or is_cupy_array(wide):
        wide = to_device(wide, "cpu")
    host = np.asarray(wide)
    if not np.isfinite(host).all():
        raise ValueError("clustering needs finite numbers, got NaN or infinity")
    return host


def balanced_assignment(costs: Array) -> Labels:
    """The cheapest way to deal items to clusters of equal size.

    Args:
        costs: of each item in each cluster, shape (items, clusters).

    Returns:
        Cluster of each item, shape (items,); each cluster occurs items / clusters times.

    Example:
        >>> balanced_assignment(np.array([[0.0, 1.0], [0.0, 5.0], [0.0, 2.0], [3.0, 0.0]])).tolist()
        [1, 0, 0, 1]
    """
    host = to_host(costs)
    slots = np.repeat(np.arange(host.shape[1]), cluster_size(*host.shape))
    # what an item costs anywhere decides nothing; without it, close costs keep their digits
    excess = host - host.min(axis=1, keepdims=True)
    items, chosen = linear_sum_assignment(excess[:, slots])
    labels = np.empty(len(host), dtype=np.int64)
    labels[items] = slots[chosen]
    return labels


def subspace_clusters(
    rows: Array,
    *,
    clusters: int,
    dimension: int = 1,
    restarts: int = 5,
    sweeps: int = 50,
    seed: int = 0,
    start: Labels | None = None,
) -> Clusters:
    """Equal clusters whose members lie close to a common subspace.

    Args:
        rows: shape (items, dims), or (items, vectors, dims) for items of several rows.
        clusters: how many; must divide the items.
        dimension: of each cluster's subspace, which passes through the origin.
        restarts: seedings tried, the best of which is kept.
        sweeps: of assignment and centres, at most, in each.
        seed: of the seedings.
        start: labels of one more start, shape (items,); the result is never worse.

    Returns:
        The best clusters found.

    Raises:
        ValueError: the clusters don't divide the items, there is nothing to start from, or the start's
            clusters aren't equal.

    Example:
        >>> found = subspace_clusters(np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 1.0]]), clusters=2)
        >>> found.labels.tolist(), found.order.tolist(), round(found.objective, 9)
        ([0, 1, 0, 1], [0, 2, 1, 3], 0.0)
    """
    size = cluster_size(rows.shape[0], clusters)
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")
    if restarts < (1 if start is None else 0):
        raise ValueError(f"restarts must be at least 1 without a start, got {restarts}")
    if start is not None and sorted(start) != sorted(np.repeat(np.arange(clusters), size)):
        raise ValueError(f"start must hold each of the labels 0 to {clusters - 1} exactly {size} times")
    starts = [] if start is None else [np.asarray(start, dtype=np.int64)]
    items = _coordinates(rows)
    starts += _seedings(items, clusters, restarts, seed)
    costs_of = partial(_distances, items, clusters=clusters, dimension=dimension)
    tolerance = _CONVERGED * float(np.sum(items**2))
    runs = [_lloyd(costs_of, labels, sweeps, tolerance) for labels in starts]
    return Clusters.of(*min(runs, key=lambda run: run[1][-1]))


def subspace_distance(rows: Array, clusters: Clusters, *, dimension: int = 1) -> Clusters:
    """The objective of clusters that were found without looking at these rows.

    Args:
        rows: shape (items, dims) or (items, vectors, dims).
        clusters: of these items.
        dimension: of each cluster's subspace.

    Returns:
        The same clusters with the squared distance to their best subspaces as objective and only history.
    """
    items, labels = _coordinates(rows), clusters.labels
    costs = _distances(items, labels, clusters=int(labels.max()) + 1, dimension=dimension)
    value = _total(costs, labels)
    return replace(clusters, objective=value, history=(value,))


def random_clusters(items: int, *, clusters: int, seed: int) -> Clusters:
    """Equal clusters of items dealt at random: the baseline that clustering must beat.

    Args:
        items: how many there are.
        clusters: how many; must divide the items.
        seed: of the deal.

    Returns:
        Clusters without objective.

    Example:
        >>> np.bincount(random_clusters(6, clusters=3, seed=0).labels).tolist()
        [2, 2, 2]
    """
    size = cluster_size(items, clusters)
    return Clusters.of(np.random.default_rng(seed).permutation(np.repeat(np.arange(clusters), size)))


def _coordinates(rows: Array) -> Floats:
    """Items as (items, vectors, dims) in as few dimensions as keep all their inner products."""
    xp = array_namespace(rows)
    vectors = 1 if rows.ndim == 2 else rows.shape[1]
    flat = xp.reshape(xp.astype(rows, xp.float64, copy=False), (-1, rows.shape[-1]))
    if flat.shape[0] >= flat.shape[1]:
        host = to_host(flat)
    else:
        values, directions = eigh(to_host(flat @ flat.T))
        host = directions * np.sqrt(np.maximum(values, 0.0))
    return host.reshape(-1, vectors, host.shape[1])


def _seedings(items: Floats, clusters: int, restarts: int, seed: int) -> list[Labels]:
    """Equal clusters around items picked by k-means++ among directions without sign."""
    if items.shape[1] == 1:
        leading = items[:, 0]
    else:
        _, values, right = np.linalg.svd(items, full_matrices=False)
        leading = values[:, :1] * right[:, 0]
    energies = np.sum(leading**2, axis=1)
    norms = np.sqrt(np.where(energies > 0, energies, 1.0))
    # An item is described by how it resembles all others: that is blind to sign, yet Euclidean.
    alike = ((leading / norms[:, None]) @ (leading / norms[:, None]).T) ** 2
    weights = energies if energies.any() else np.ones(len(items))
    rng, found = np.random.default_rng(seed), []
    for state in rng.integers(2**31, size=restarts):
        _, picked = kmeans_plusplus(alike, clusters, sample_weight=weights, random_state=int(state))
        found.append(balanced_assignment(energies[:, None] * (1.0 - alike[:, picked])))
    return found


def _distances(items: Floats, labels: Labels, *, clusters: int, dimension: int) -> Floats:
    """Squared distance of each item to the best subspace of each cluster's members, (items, clusters)."""
    members = items[np.argsort(labels, kind="stable")].reshape(clusters, -1, items.shape[2])
    centres = np.stack([_subspace(vectors, dimension) for vectors in members], axis=1)
    kept = (items.reshape(-1, items.shape[2]) @ centres.reshape(items.shape[2], -1)) ** 2
    captured = kept.reshape(*items.shape[:2], clusters, -1).sum(axis=(1, 3))
    energies = np.sum(items**2, axis=(1, 2))
    return np.asarray(np.maximum(energies[:, None] - captured, 0.0))


def _subspace(vectors: Floats, dimension: int) -> Floats:
    """Leading right singular vectors as columns; those of no energy are zero."""
    count, dims = vectors.shape
    tall = count >= dims
    gram = vectors.T @ vectors if tall else vectors @ vectors.T
    rank = min(dimension, len(gram))
    values, directions = eigh(gram, subset_by_index=[len(gram) - rank, len(gram) - 1])
    if tall:
        return np.asarray(directions)
    meant = values > _VANISHING * np.trace(gram)
    return np.asarray(vectors.T @ directions / np.sqrt(np.where(meant, values, 1.0)) * meant)


def _lloyd(costs_of: Any, labels: Labels, sweeps: int, tolerance: float) -> tuple[Labels, tuple[float, ...]]:
    costs = costs_of(labels)
    history = [_total(costs, labels)]
    for _ in range(sweeps):
        candidate = balanced_assignment(costs)
        costs = costs_of(candidate)
        value = _total(costs, candidate)
        if not value < history[-1] - tolerance:
            break
        labels = candidate
        history.append(value)
    return labels, tuple(history)


def _total(costs: Floats, labels: Labels) -> float:
    return float(np.sum(np.take_along_axis(costs, labels[:, None], axis=1)))
