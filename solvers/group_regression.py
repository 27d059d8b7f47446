"""Sums of one low-rank map for each group of inputs: a grouped convolution and a 1 x 1 after it.

The root module of Ioannou et al., "Deep Roots", https://arxiv.org/abs/1605.06489, section 3, fitted to a
given layer. On the weight alone the best factors are the singular vectors of each group's part. On responses
each group's part, the others given, is a reduced rank regression of what the others leave unexplained; it is
solved exactly and from moments alone, so that the error never rises.
"""

from dataclasses import dataclass

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.joint_moments import Covariances
from cnncompress.solvers.reduced_rank import descending_eigh, whitener


@dataclass(frozen=True, eq=False)
class GroupedFactors:
    """Filters that read one group of inputs each, and the 1 x 1 that mixes what they give.

    Attributes:
        filters: shape (groups, rank, inputs of a group).
        mixing: shape (groups, outputs, rank).
    """

    filters: Array
    mixing: Array

    @property
    def weight(self) -> Array:
        """The linear map that the two amount to, shape (outputs, inputs), by group."""
        xp = array_namespace(self.filters)
        by_group = xp.permute_dims(self.mixing @ self.filters, (1, 0, 2))
        return xp.reshape(by_group, (by_group.shape[0], -1))

    @property
    def pointwise(self) -> Array:
        """The mixing as the weight of a 1 x 1, shape (outputs, groups * rank)."""
        xp = array_namespace(self.mixing)
        by_output = xp.permute_dims(self.mixing, (1, 0, 2))
        return xp.reshape(by_output, (by_output.shape[0], -1))


@dataclass(frozen=True, eq=False)
class GroupedFit:
    """Factors fitted to responses.

    Attributes:
        factors: the filters and their mixing.
        history: mean squared error of the responses, as a share of their variance, at the start and after
            each sweep; never rising.
    """

    factors: GroupedFactors
    history: tuple[float, ...]


def by_group(weight: Array, groups: int) -> Array:
    """The part of a weight that reads each group.

    Args:
        weight: shape (outputs, inputs), inputs in the order of their equal groups.
        groups: how many; must divide the inputs.

    Returns:
        Shape (groups, outputs, inputs / groups).
    """
    xp = array_namespace(weight)
    return xp.permute_dims(xp.reshape(weight, (weight.shape[0], groups, -1)), (1, 0, 2))


def split_by_groups(weight: Array, *, groups: int, rank: int) -> GroupedFactors:
    """The best factors in the Frobenius norm: singular vectors of each group's part.

    Args:
        weight: shape (outputs, inputs), inputs in the order of their equal groups.
        groups: how many; must divide the inputs.
        rank: of each group, at most the smaller side of its part.

    Returns:
        Both factors with equal singular values; exact if the rank reaches that of every part.
    """
    xp = array_namespace(weight)
    left, values, right = xp.linalg.svd(by_group(weight, groups), full_matrices=False)
    root = xp.sqrt(values[:, :rank])
    return GroupedFactors(root[:, :, None] * right[:, :rank, :], left[:, :, :rank] * root[:, None, :])


def group_energies(weight: Array, *, groups: int) -> Array:
    """What each further rank of all groups adds to the energy that is kept.

    Args:
        weight: shape (outputs, inputs), inputs in the order of their equal groups.
        groups: how many; must divide the inputs.

    Returns:
        Sum over the groups of their squared singular values, descending, float64.
    """
    xp = array_namespace(weight)
    values = xp.linalg.svdvals(xp.astype(by_group(weight, groups), xp.float64))
    return xp.sum(values * values, axis=0)


def fit_by_groups(
    covariances: Covariances, start: GroupedFactors, *, sweeps: int = 20, tolerance: float = 1e-3
) -> GroupedFit:
    """Group after group, a reduced rank regression on what the others leave unexplained.

    Args:
        covariances: of regressors, in the order of the groups, and responses.
        start: factors to start from, of any floating type; their rank is kept.
        sweeps: over all groups, at most.
        tolerance: gain of a sweep, as a share of the error, below which it ends.

    Returns:
        Factors of float64.
    """
    xp = array_namespace(covariances.regressor)
    current = GroupedFactors(xp.astype(start.filters, xp.float64), xp.astype(start.mixing, xp.float64))
    groups, _, size = current.filters.shape
    whitenings = [whitener(covariances.regressor[own, own]) for own in _ranges(groups, size)]
    energy = float(xp.sum(covariances.target))
    unexplained, error = _unexplained(covariances, current)
    history = [_share(error, energy)]
    for _ in range(sweeps):
        following = _sweep(covariances, current, unexplained, whitenings)
        unexplained, error = _unexplained(covariances, following)
        if _share(error, energy) > history[-1]:  # by rounding, at the very end
            break
        current = following
        history.append(_share(error, energy))
        if history[-2] - history[-1] <= tolerance * history[-1]:
            break
    return GroupedFit(_balanced(current), tuple(history))


def _ranges(groups: int, size: int) -> list[slice]:
    return [slice(g * size, (g + 1) * size) for g in range(groups)]


def _sweep(
    covariances: Covariances, factors: GroupedFactors, unexplained: Array, whitenings: list[Array]
) -> GroupedFactors:
    """Each group solved once, the others as they are by then."""
    xp = array_namespace(unexplained)
    groups, rank, size = factors.filters.shape
    filters, mixing = [], []
    for g, own in enumerate(_ranges(groups, size)):
        before = factors.mixing[g, ...] @ factors.filters[g, ...]
        alone = unexplained[:, own] + before @ covariances.regressor[own, own]
        mixed, filtered = _regression(alone, whitenings[g], rank)
        unexplained = unexplained - (mixed @ filtered - before) @ covariances.regressor[own, :]
        mixing.append(mixed)
        filters.append(filtered)
    return GroupedFactors(xp.stack(filters, axis=0), xp.stack(mixing, axis=0))


def _regression(cross: Array, whitening: Array, rank: int) -> tuple[Array, Array]:
    """Mixing (outputs, rank) and filters (rank, inputs) of the best map of at most that rank."""
    whitened = cross @ whitening
    there = min(rank, *whitened.shape)
    # eigh, not svd: one side's vectors are enough, so that the smaller product will do
    if whitened.shape[0] <= whitened.shape[1]:
        mixing = descending_eigh(whitened @ whitened.T)[1][:, :there]
        inner = mixing.T @ whitened
    elif whitened.shape[1] > 0:
        inner = descending_eigh(whitened.T @ whitened)[1][:, :there].T
        mixing = whitened @ inner.T
    else:
        inner, mixing = whitened[:0, :], whitened
    filters = inner @ whitening.T
    return _padded(mixing.T, rank - there).T, _padded(filters, rank - there)


def _padded(rows: Array, missing: int) -> Array:
    xp = array_namespace(rows)
    nothing = xp.zeros((missing, rows.shape[1]), dtype=rows.dtype, device=device(rows))
    return xp.concat([rows, nothing], axis=0)


def _unexplained(covariances: Covariances, factors: GroupedFactors) -> tuple[Array, float]:
    """Covariance of the regressors with what factors leave of the responses, and its energy."""
    xp = array_namespace(factors.filters)
    weight = factors.weight
    left = covariances.cross - weight @ covariances.regressor
    return left, float(xp.sum(covariances.target) - xp.sum(weight * (covariances.cross + left)))


def _share(error: float, energy: float) -> float:
    return max(error, 0.0) / energy if energy > 0 else 0.0


def _balanced(factors: GroupedFactors) -> GroupedFactors:
    """Give each filter and its column of the 1 x 1 the same norm, so that neither holds all of the scale."""
    xp = array_namespace(factors.filters)
    filters, columns = xp.sum(factors.filters**2, axis=2), xp.sum(factors.mixing**2, axis=1)
    both = (filters > 0) & (columns > 0)
    one = xp.ones_like(filters)
    scale = xp.where(both, (columns / xp.where(both, filters, one)) ** 0.25, one)
    return GroupedFactors(factors.filters * scale[:, :, None], factors.mixing / scale[:, None, :])
