"""How far channels fall into groups of equal size that keep to themselves.

The score of a grouping is the share of all strength that lies within its blocks (after Ioannou et al., "Deep
Roots", https://arxiv.org/abs/1605.06489, figures 6 and 11). Even without structure it is about 1 / groups,
and the best of many groupings finds more than that in noise: a score says something only beside what the
same search finds among the same entries in random places. Their difference is what modularity is for graphs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from cnncompress.solvers import Array
from cnncompress.solvers.clustering import (
    Clusters,
    Floats,
    Labels,
    balanced_assignment,
    cluster_size,
    subspace_clusters,
    to_host,
)

MOST_GROUPS = 64
"""The finest grouping that is tried: the paper's networks have no finer one."""

_RESTARTS = 1
_SWEEPS = 8
_LEAST_GAIN = 0.1  # weaker structure is there in any network, and groups would cut most of it


@dataclass(frozen=True, eq=False)
class Grouping:
    """Channels in groups of equal size, and how much of their strength stays within.

    Attributes:
        groups: how many.
        rows: groups of the rows' channels.
        columns: groups of the columns' channels; the same object where both are one layer's.
        score: share of all strength within the blocks.
        chance: score of the same search among the same entries in random places.
        contiguous: score of the channels as they stand, neighbours in one group.
    """

    groups: int
    rows: Clusters
    columns: Clusters
    score: float
    chance: float
    contiguous: float

    @property
    def gain(self) -> float:
        """What structure adds to chance."""
        return self.score - self.chance


def block_score(strengths: Array, rows: Labels, columns: Labels) -> float:
    """Share of all strength that lies where row and column are of one group.

    Args:
        strengths: shape (m, n), of any sign.
        rows: group of each row, shape (m,).
        columns: group of each column, shape (n,).

    Returns:
        Between 0 and 1; 0 where all strengths are zero.

    Example:
        >>> block_score(np.array([[3.0, -1.0], [0.0, 4.0]]), np.array([0, 1]), np.array([0, 1]))
        0.875
    """
    host = np.abs(to_host(strengths))
    total = float(host.sum())
    return float(host[rows[:, None] == columns[None, :]].sum()) / total if total > 0 else 0.0


def common_divisors(*channels: int, most: int = MOST_GROUPS) -> tuple[int, ...]:
    """Numbers of groups that several layers can be dealt to, each group of at least two channels.

    Args:
        *channels: of each layer.
        most: groups.

    Returns:
        From 2 upwards; none where the layers share no divisor.

    Example:
        >>> common_divisors(12), common_divisors(64, 96, most=16)
        ((2, 3, 4, 6), (2, 4, 8, 16))
    """
    bound = min(most, min(channels) // 2)
    return tuple(groups for groups in range(2, bound + 1) if not any(count % groups for count in channels))


def group_channels(correlation: Array, groups: Sequence[int], *, seed: int = 0) -> tuple[Grouping, ...]:
    """Group one layer's channels: balanced spectral clustering, refined as long as the score rises.

    The score is never below that of the channels as they stand.

    Args:
        correlation: of the channels, symmetric, shape (n, n); its diagonal is left out, since a channel's
            correlation with itself lies within any group.
        groups: numbers of groups to try; each must divide the channels.
        seed: of the clustering and of chance.

    Returns:
        One grouping for each number.
    """
    host = np.abs(to_host(correlation))
    np.fill_diagonal(host, 0.0)
    upper = np.triu_indices(len(host), 1)
    shuffled = np.zeros_like(host)
    shuffled[upper] = np.random.default_rng(seed).permutation(host[upper])
    return _groupings(host, shuffled + shuffled.T, groups, seed, two_sided=False)


def group_pair(covariance: Array, groups: Sequence[int], *, seed: int = 0) -> tuple[Grouping, ...]:
    """Group two layers' channels together: spectral co-clustering, refined by exact assignment in turn.

    Given the groups of one side, the other side's best groups of equal size are a linear assignment; hence
    the score never falls, nor is it below that of the channels as they stand.

    Args:
        covariance: between the layers' channels, shape (c1, c2).
        groups: numbers of groups to try; each must divide the channels of both.
        seed: of the clustering and of chance.

    Returns:
        One grouping for each number.
    """
    host = np.abs(to_host(covariance))
    shuffled = np.random.default_rng(seed).permutation(host.ravel()).reshape(host.shape)
    return _groupings(host, shuffled, groups, seed, two_sided=True)


def suggested_groups(groupings: Sequence[Grouping], *, least_gain: float = _LEAST_GAIN) -> int:
    """The number of groups whose score exceeds chance most.

    It tells which grouping describes the channels best, not that grouping them loses little: that is what the
    score says. Correlations within a layer gain about 0.1 even where weights are random, since many channels
    look at few directions; whitened covariances between layers then gain nothing.

    Args:
        groupings: of the same channels.
        least_gain: with less than that no grouping is suggested.

    Returns:
        Number of groups, 1 for none.
    """
    best = max(groupings, key=lambda grouping: grouping.gain, default=None)
    return best.groups if best is not None and best.gain >= least_gain else 1


def _groupings(
    strengths: Floats, shuffled: Floats, groups: Sequence[int], seed: int, *, two_sided: bool
) -> tuple[Grouping, ...]:
    most = max(groups, default=1)
    search, search_shuffled = (
        _Search(matrix, most, seed, two_sided=two_sided) for matrix in (strengths, shuffled)
    )
    found = []
    for count in groups:
        for channels in strengths.shape:
            cluster_size(channels, count, name="groups", of="channels")
        score, rows, columns = search.best(count)
        found.append(
            Grouping(
                groups=count,
                rows=_sorted(rows),
                columns=_sorted(columns),
                score=score,
                chance=search_shuffled.best(count)[0],
                contiguous=block_score(strengths, *(_contiguous(n, count) for n in strengths.shape)),
            )
        )
    return tuple(found)


class _Search:
    """Spectral coordinates of the rows, computed once for all numbers of groups."""

    def __init__(self, strengths: Floats, most: int, seed: int, *, two_sided: bool) -> None:
        self._strengths, self._seed = strengths, seed
        self._refined = _refined_in_turn if two_sided else _refined_alike
        affinity = _normalised(strengths)
        # the rows' left singular vectors; their columns follow by exact assignment
        alike = affinity @ affinity.T if two_sided else affinity
        self._coordinates = eigh(alike)[1][:, ::-1][:, :most]

    def best(self, groups: int) -> tuple[float, Labels, Labels]:
        """Score and groups of rows and columns."""
        starts = (
            _clustered(self._coordinates[:, :groups], groups, self._seed),
            _contiguous(len(self._strengths), groups),
        )
        runs = [self._refined(self._strengths, start, groups) for start in starts]
        return max(runs, key=lambda run: run[0])


def _sorted(labels: Labels) -> Clusters:
    # numbered as they are, so that blocks of rows and columns meet on the diagonal
    return Clusters(labels, np.argsort(labels, kind="stable"), float("nan"))


def _contiguous(channels: int, groups: int) -> Labels:
    return np.repeat(np.arange(groups), channels // groups)


def _refined_alike(strengths: Floats, labels: Labels, groups: int) -> tuple[float, Labels, Labels]:
    score = block_score(strengths, labels, labels)
    for _ in range(_SWEEPS):
        candidate = _best_given(strengths, labels, groups)
        value = block_score(strengths, candidate, candidate)
        if not value > score:  # both sides move at once, so that the score may fall
            break
        labels, score = candidate, value
    return score, labels, labels


def _refined_in_turn(strengths: Floats, rows: Labels, groups: int) -> tuple[float, Labels, Labels]:
    columns = _best_given(strengths.T, rows, groups)
    score = block_score(strengths, rows, columns)
    for _ in range(_SWEEPS):
        rows = _best_given(strengths, columns, groups)
        columns = _best_given(strengths.T, rows, groups)
        value = block_score(strengths, rows, columns)
        if not value > score:
            break
        score = value
    return score, rows, columns


def _normalised(strengths: Floats) -> Floats:
    """Divided by the roots of the rows' and columns' sums, as for spectral clustering of graphs."""
    roots = [np.sqrt(strengths.sum(axis=axis)) for axis in (1, 0)]
    rows, columns = (np.divide(1.0, root, out=np.zeros_like(root), where=root > 0) for root in roots)
    return np.asarray(strengths * rows[:, None] * columns[None, :])


def _clustered(coordinates: Floats, groups: int, seed: int) -> Labels:
    norms = np.linalg.norm(coordinates, axis=1, keepdims=True)
    directions = np.divide(coordinates, norms, out=np.zeros_like(coordinates), where=norms > 0)
    return subspace_clusters(
        directions, clusters=groups, restarts=_RESTARTS, sweeps=_SWEEPS, seed=seed
    ).labels


def _best_given(strengths: Floats, columns: Labels, groups: int) -> Labels:
    """Groups of the rows that keep most strength within, the columns' groups given."""
    return balanced_assignment(-(strengths @ np.eye(groups)[columns]))
