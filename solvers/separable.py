"""Depthwise filters followed by a 1 x 1: unravelled convolution (Wang et al., section 2.2.1).

Factorized Convolutional Neural Networks, https://arxiv.org/abs/1608.04337, eq. 3 to 6. Each input channel
has ``bases`` filters of its own, and the 1 x 1 mixes what they give. On the weight alone the best factors
are singular vectors, channel by channel. On responses both factors are least squares given the other, and
are solved for in turn: neither step can raise the error. A step is a few conjugate gradients: to its end it
takes five times as long and gains nothing in the next one (VGG-16's conv3_3 and 10 against 50 iterations).
"""

from dataclasses import dataclass

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.conjugate_gradients import conjugate_gradients
from cnncompress.solvers.joint_moments import Covariances


@dataclass(frozen=True)
class Separable:
    """Depthwise filters and the 1 x 1 after them.

    Attributes:
        depthwise: shape (channels, bases, positions).
        pointwise: shape (outputs, channels * bases); column ``channel * bases + basis``.
    """

    depthwise: Array
    pointwise: Array

    @property
    def weight(self) -> Array:
        """The convolution that the two amount to, shape (outputs, channels * positions)."""
        xp = array_namespace(self.depthwise)
        channels, bases, positions = self.depthwise.shape
        mixed = xp.reshape(self.pointwise, (-1, channels, bases))
        by_channel = xp.permute_dims(mixed, (1, 0, 2)) @ self.depthwise
        return xp.reshape(xp.permute_dims(by_channel, (1, 0, 2)), (-1, channels * positions))

    def features(self, patches: Array) -> Array:
        """Outputs of the depthwise filters.

        Args:
            patches: shape (channels * positions, samples).

        Returns:
            Shape (channels * bases, samples).
        """
        xp = array_namespace(patches)
        channels, bases, positions = self.depthwise.shape
        by_channel = xp.reshape(patches, (channels, positions, -1))
        return xp.reshape(self.depthwise @ by_channel, (channels * bases, -1))


@dataclass(frozen=True)
class SeparableFit:
    """Factors fitted to responses.

    Attributes:
        factors: the filters.
        history: mean squared error of the responses, as a share of their variance, at the start and after
            each sweep; never rising.
    """

    factors: Separable
    history: tuple[float, ...]


def separate(tensor: Array, *, bases: int) -> Separable:
    """The best factors in the Frobenius norm: leading singular vectors of each input channel's filters.

    Args:
        tensor: the weight, shape (channels, positions, outputs).
        bases: filters of each channel; where the rank is less, the others are zero.

    Returns:
        Both factors with equal singular values; exact if ``bases`` reaches the rank of every channel.
    """
    xp = array_namespace(tensor)
    left, values, right = xp.linalg.svd(tensor, full_matrices=False)
    there = min(bases, values.shape[1])
    root = xp.sqrt(values[:, :there])
    depthwise = xp.matrix_transpose(left[:, :, :there] * root[:, None, :])
    mixed = root[:, :, None] * right[:, :there, :]
    missing = bases - there
    if missing > 0:
        depthwise = _padded(depthwise, missing)
        mixed = _padded(mixed, missing)
    return Separable(depthwise, xp.reshape(mixed, (-1, tensor.shape[2])).T)


def separable_energies(tensor: Array) -> Array:
    """What each further basis adds to the energy that is kept.

    Args:
        tensor: the weight, shape (channels, positions, outputs).

    Returns:
        Sum over the channels of the squared singular values, descending, shape (min(positions, outputs),).
    """
    xp = array_namespace(tensor)
    values = xp.linalg.svdvals(xp.astype(tensor, xp.float64))
    return xp.sum(values * values, axis=0)


def fit_separable(
    covariances: Covariances, start: Separable, *, sweeps: int = 20, tolerance: float = 1e-3
) -> SeparableFit:
    """Alternating least squares on responses.

    Args:
        covariances: of patches, with entries in the order (channels, positions), and responses.
        start: factors to start from, of any floating type.
        sweeps: at most.
        tolerance: gain of a sweep, as a share of the error, below which it ends.

    Returns:
        Factors of float64.
    """
    xp = array_namespace(start.depthwise)
    current = Separable(xp.astype(start.depthwise, xp.float64), xp.astype(start.pointwise, xp.float64))
    energy = float(xp.sum(covariances.target))
    history = [_relative_error(covariances, current, energy)]
    for _ in range(sweeps):
        following = solve_depthwise(covariances, solve_pointwise(covariances, current))
        error = _relative_error(covariances, following, energy)
        if error > history[-1]:  # by rounding, at the very end
            break
        gained, current = history[-1] - error, following
        history.append(error)
        if gained <= tolerance * error:
            break
    return SeparableFit(_balanced(current), tuple(history))


def solve_pointwise(covariances: Covariances, factors: Separable, *, iterations: int = 10) -> Separable:
    """The 1 x 1 that is best for given depthwise filters.

    Args:
        covariances: of patches and responses.
        factors: the filters, and the 1 x 1 to start from.
        iterations: of conjugate gradients, at most.

    Returns:
        The same filters with another 1 x 1.
    """
    xp = array_namespace(factors.depthwise)
    inner, right = _pointwise_equations(covariances, factors.depthwise)
    pointwise = conjugate_gradients(
        lambda p: p @ inner,
        right,
        factors.pointwise,
        xp.linalg.diagonal(inner)[None, :],
        iterations=iterations,
        separate=True,
    )
    return Separable(factors.depthwise, pointwise)


def _pointwise_equations(covariances: Covariances, filters: Array) -> tuple[Array, Array]:
    """Normal matrix and right-hand side of the 1 x 1: covariance of the features, and with the responses."""
    inner = _filtered(filters, _filtered(filters, covariances.regressor).T)
    return inner, _filtered(filters, covariances.cross.T).T


def solve_depthwise(covariances: Covariances, factors: Separable, *, iterations: int = 10) -> Separable:
    """The depthwise filters that are best for a given 1 x 1.

    Their normal matrix, of size channels * bases * positions, is never formed.

    Args:
        covariances: of patches and responses.
        factors: the 1 x 1, and the filters to start from.
        iterations: of conjugate gradients, at most.

    Returns:
        The same 1 x 1 with other filters.
    """
    xp = array_namespace(factors.depthwise)
    channels, bases, positions = factors.depthwise.shape
    gram = factors.pointwise.T @ factors.pointwise
    rows = xp.reshape(gram, (channels, bases, channels * bases))

    def own_channel(mixed: Array) -> Array:
        """(channels * bases, channels * positions) mixed by the gram, each channel's own block of it."""
        by_channel = xp.permute_dims(xp.reshape(mixed, (-1, channels, positions)), (1, 0, 2))
        return rows @ by_channel

    def apply(filters: Array) -> Array:
        return own_channel(_filtered(filters, covariances.regressor))

    answered = xp.reshape(covariances.cross, (-1, channels, positions))
    mixing = xp.permute_dims(xp.reshape(factors.pointwise, (-1, channels, bases)), (1, 2, 0))
    right = mixing @ xp.permute_dims(answered, (1, 0, 2))
    variances = xp.reshape(xp.linalg.diagonal(covariances.regressor), (channels, 1, positions))
    diagonal = xp.reshape(xp.linalg.diagonal(gram), (channels, bases, 1)) * variances
    found = conjugate_gradients(apply, right, factors.depthwise, diagonal, iterations=iterations)
    return Separable(found, factors.pointwise)


def _filtered(filters: Array, columns: Array) -> Array:
    """Filters applied to columns of shape (channels * positions, n): (channels * bases, n)."""
    xp = array_namespace(filters)
    channels, bases, positions = filters.shape
    by_channel = xp.reshape(columns, (channels, positions, -1))
    return xp.reshape(filters @ by_channel, (channels * bases, -1))


def _relative_error(covariances: Covariances, factors: Separable, energy: float) -> float:
    xp = array_namespace(factors.depthwise)
    inner, right = _pointwise_equations(covariances, factors.depthwise)  # cheaper than by the whole weight
    mixed = factors.pointwise
    error = energy + float(xp.sum((mixed @ inner - 2 * right) * mixed))
    return max(error, 0.0) / energy if energy > 0 else 0.0


def _balanced(factors: Separable) -> Separable:
    """Give each filter and its column of the 1 x 1 the same norm, so that neither holds all of the scale."""
    xp = array_namespace(factors.depthwise)
    filters = xp.sqrt(xp.sum(factors.depthwise**2, axis=2))
    columns = xp.sqrt(xp.reshape(xp.sum(factors.pointwise**2, axis=0), filters.shape))
    both = (filters > 0) & (columns > 0)
    one = xp.ones_like(filters)
    scale = xp.where(both, xp.sqrt(columns / xp.where(both, filters, one)), one)
    pointwise = factors.pointwise / xp.reshape(xp.where(scale > 0, scale, one), (1, -1))
    return Separable(factors.depthwise * scale[:, :, None], pointwise)


def _padded(factor: Array, missing: int) -> Array:
    xp = array_namespace(factor)
    channels, _, length = factor.shape
    nothing = xp.zeros((channels, missing, length), dtype=factor.dtype, device=device(factor))
    return xp.concat([factor, nothing], axis=1)
