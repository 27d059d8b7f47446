"""Metrics on a convolution's weight in which errors count by what they do (Denton et al., section 3.1).

Linear Structure Within Convolutional Networks, https://arxiv.org/abs/1404.0736. The weight is a tensor
W of shape (input channels C, positions P of the kernel, outputs F), and every metric is separable,

    ||W||² = sum over p, f of spatial[p] outputs[f] W[:, p, f]' inputs W[:, p, f].

It is the Frobenius norm of the weighed tensor (inputs^½ ⊗ spatial^½ ⊗ outputs^½) W. A method that fits
factors in the Frobenius norm fits that one, and divides each factor by the root of its own axis.

Denton et al. weigh every entry of W by an α of its own, fit α ⊙ W, and divide the result by α. What they
don't say is that this undoes the fit: α⁻¹ ⊙ (a tensor of low rank) has full rank in general, so that no
factors are left to be computed one after the other. Only if α is separable, α = a(c) b(p) g(f), does
the division keep the rank, for then it scales the factors one by one. That is why α² is first replaced
by its best separable approximation (`of_sensitivity`), which is absorbed without any error, and why the
covariance of the inputs is taken between channels alone (`of_covariance`): that of whole patches mixes
channels with positions and suits only methods that leave the two folded together.
"""

from dataclasses import dataclass
from functools import cached_property

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array

# Share of the mean eigenvalue to which smaller ones are raised. On AlexNet and VGG-16 with twenty images or
# more none is as small, so that it acts on nothing but channels that are dead, doubled or hardly ever seen.
# There it bounds what dividing by the root multiplies rounding errors by, at sqrt(1000 C), and it can add
# to the metric no more than this share of an isotropic one of the same energy.
_LEAST_VARIANCE = 1e-3

# Share of the mean α to which smaller ones are raised: what no image asked for still counts.
_LEAST_ALPHA = 1e-3


@dataclass(frozen=True, eq=False)
class SeparableMetric:
    """A norm on tensors of shape (inputs, positions, outputs) that is the product of one per axis.

    Attributes:
        inputs: second moment of the input channels, shape (C, C), symmetric, positive semi-definite; or its
            diagonal, shape (C,), where channels count each for itself; float64.
        spatial: what the kernel's positions count, squared weights, positive, shape (P,), float64.
        outputs: what the outputs count, squared weights, positive, shape (F,), float64.
        least: smaller eigenvalues of ``inputs`` are raised to this; None: to a thousandth of their mean.
        explained: share of the squared norm of α² that is kept, 1 unless that wasn't separable.

    Example:
        >>> import numpy as np
        >>> metric = SeparableMetric(np.array([4.0, 1.0]), np.ones(1), np.array([9.0]))
        >>> metric.weigh(np.ones((2, 1, 1))).ravel().tolist()
        [6.0, 3.0]
        >>> metric.squared_norm(np.ones((2, 1, 1)))
        45.0
    """

    inputs: Array
    spatial: Array
    outputs: Array
    least: float | None = None
    explained: float = 1.0

    def part(self, inputs: Array | None, outputs: Array | None) -> "SeparableMetric":
        """The metric of a block of the weight: that of the whole, if the rest of the tensor is zero.

        Args:
            inputs: indices of the block's input channels; None for all.
            outputs: indices of the block's outputs; None for all.

        Returns:
            The metric of tensors of shape (block's inputs, P, block's outputs), with the floor of the
            whole's eigenvalues, so that all blocks are measured alike.
        """
        xp = array_namespace(self.inputs)
        moment, weights = self.inputs, self.outputs
        if inputs is not None:
            chosen = xp.asarray(inputs, device=device(moment))
            moment = xp.take(moment, chosen, axis=0)
            moment = xp.take(moment, chosen, axis=1) if moment.ndim == 2 else moment
        if outputs is not None:
            weights = xp.take(weights, xp.asarray(outputs, device=device(weights)), axis=0)
        return SeparableMetric(moment, self.spatial, weights, self._floor, self.explained)

    def weigh(self, tensor: Array) -> Array:
        """Into the space where the metric is the Frobenius norm.

        Args:
            tensor: shape (C, P, F).

        Returns:
            The weighed tensor, of the same shape and type.
        """
        xp = array_namespace(tensor, self.inputs)
        folded = xp.reshape(tensor, (tensor.shape[0], -1))
        weighed = xp.reshape(self._times_root(folded, inverse=False), tensor.shape)
        scale = xp.sqrt(self.spatial)[:, None] * xp.sqrt(self.outputs)[None, :]
        return weighed * xp.astype(scale, tensor.dtype)[None, :, :]

    def unweigh_inputs(self, vectors: Array) -> Array:
        """Factors of the input axis, found for the weighed tensor, back to the weight itself.

        Args:
            vectors: shape (C, K).

        Returns:
            Shape (C, K).
        """
        return self._times_root(vectors, inverse=True)

    def unweigh_spatial(self, vectors: Array) -> Array:
        """Factors of the spatial axis, found for the weighed tensor, back to the weight itself.

        Args:
            vectors: shape (P, K).

        Returns:
            Shape (P, K).
        """
        return _divide(vectors, self.spatial)

    def unweigh_outputs(self, vectors: Array) -> Array:
        """Factors of the output axis, found for the weighed tensor, back to the weight itself.

        Args:
            vectors: shape (F, K).

        Returns:
            Shape (F, K).
        """
        return _divide(vectors, self.outputs)

    def squared_norm(self, tensor: Array) -> float:
        """What a tensor, usually an error of the weight, counts.

        Args:
            tensor: shape (C, P, F).

        Returns:
            The squared Frobenius norm of the weighed tensor.
        """
        xp = array_namespace(tensor)
        weighed = self.weigh(xp.astype(tensor, xp.float64))
        return float(xp.sum(weighed * weighed))

    def _times_root(self, vectors: Array, *, inverse: bool) -> Array:
        """The root of ``inputs``, or its inverse, times the columns of a matrix (C, K)."""
        xp = array_namespace(vectors, self.inputs)
        roots, basis = self._roots
        scale = (1 / roots if inverse else roots)[:, None]
        # in float64, because the inverse magnifies rounding by the ratio of the largest to the least root
        wide = xp.astype(vectors, xp.float64)
        scaled = scale * wide if basis is None else basis @ (scale * (basis.T @ wide))
        return xp.astype(scaled, vectors.dtype)

    @property
    def diagonal(self) -> Array:
        """What each input channel counts, shape (C,)."""
        xp = array_namespace(self.inputs)
        return self.inputs if self.inputs.ndim == 1 else xp.linalg.diagonal(self.inputs)

    @cached_property
    def _floor(self) -> float:
        """``least``, resolved; 1 if all inputs are dead, for then nothing is known."""
        if self.least is not None:
            return self.least
        xp = array_namespace(self.inputs)
        mean = float(xp.mean(self.diagonal))
        return _LEAST_VARIANCE * mean if mean > 0 else 1.0

    @cached_property
    def _roots(self) -> tuple[Array, Array | None]:
        """Roots of the eigenvalues of ``inputs``, and eigenvectors; these are None if it is diagonal.

        The symmetric root and not a triangular one: it exists for dead and duplicate channels too, and
        of all roots it leaves the channels closest to what they were, so that they can be clustered.
        """
        xp = array_namespace(self.inputs)
        diagonal, basis = self.diagonal, None
        if self.inputs.ndim == 2 and int(xp.count_nonzero(self.inputs)) > int(xp.count_nonzero(diagonal)):
            diagonal, basis = xp.linalg.eigh((self.inputs + self.inputs.T) / 2)
        return xp.sqrt(_raised(diagonal, self._floor)), basis


def _divide(vectors: Array, squared: Array) -> Array:
    """Rows of a matrix over the roots of squared weights."""
    xp = array_namespace(vectors, squared)
    return vectors / xp.astype(xp.sqrt(squared), vectors.dtype)[:, None]


def euclidean(inputs: int, positions: int, outputs: int, *, like: Array) -> SeparableMetric:
    """The plain Frobenius norm.

    Args:
        inputs: number of input channels, C.
        positions: number of positions of the kernel, P.
        outputs: number of outputs, F.
        like: an array of the library and on the device where the metric is used.

    Returns:
        The metric that weighs nothing.
    """
    xp = array_namespace(like)
    place = device(like)
    return SeparableMetric(
        xp.ones(inputs, dtype=xp.float64, device=place),
        xp.ones(positions, dtype=xp.float64, device=place),
        xp.ones(outputs, dtype=xp.float64, device=place),
    )


def of_covariance(
    second_moment: Array, positions: int, outputs: int, *, isotropic: float = 0.0
) -> SeparableMetric:
    """The data metric (eq. 3), restricted to the input channels.

    It is the mean energy of the response if pixels of one patch were uncorrelated, and exactly that for
    1 x 1 kernels. It isn't centred: the error of a response's mean is an error too where the bias is kept.

    With few images, or others than the network will meet, it trusts what it has seen too much; adding the
    plain norm at equal energy (``isotropic`` 1) mends that. Moments of 100 crops of two photographs, the
    last convolutions of AlexNet and VGG-16 cut to a quarter of their input channels: errors of responses to
    other photographs were .053 and .055, with the pure metric .059 and .068, the plain norm .069 and .062.

    Args:
        second_moment: mean outer product of the inputs of one pixel, shape (C, C).
        positions: number of positions of the kernel, P.
        outputs: number of outputs, F.
        isotropic: how much of the plain norm is added, in units of the mean of the diagonal.

    Returns:
        The metric.

    Example:
        >>> import numpy as np
        >>> pixels = np.array([[1.0, 0.0], [1.0, 1.0]])  # two channels, two samples
        >>> metric = of_covariance(pixels @ pixels.T / 2, 1, 1)
        >>> round(metric.squared_norm(np.array([2.0, 1.0]).reshape(2, 1, 1)), 6)  # (3² + 1²) / 2
        5.0
    """
    xp = array_namespace(second_moment)
    plain = euclidean(second_moment.shape[0], positions, outputs, like=second_moment)
    moment = xp.astype(second_moment, xp.float64)
    identity = xp.eye(moment.shape[0], dtype=xp.float64, device=device(moment))
    added = isotropic * xp.mean(xp.linalg.diagonal(moment)) * identity
    return SeparableMetric(moment + added, plain.spatial, plain.outputs)


def of_sensitivity(squared: Array) -> SeparableMetric:
    """The gradient-weighted metric (eq. 1 and 2), made separable.

    Args:
        squared: sums (or means) of squared derivatives of the loss by each weight, α²; of shape
            (F, C, kernel height, kernel width) or (C, P, F).

    Returns:
        The metric of the best separable approximation of α²; its ``explained`` tells how much of the
        squared norm of α² that keeps. Where all derivatives vanish it is the plain Frobenius norm.

    Example:
        >>> import numpy as np
        >>> squared = np.array([1.0, 4.0])[:, None, None] * np.ones((2, 3, 1)) * np.array([1.0, 9.0])
        >>> round(of_sensitivity(squared).squared_norm(np.ones((2, 3, 2))))  # (1 + 4) 3 (1 + 9)
        150
    """
    xp = array_namespace(squared)
    squared = xp.astype(squared, xp.float64)
    if squared.ndim == 4:
        outputs, inputs = squared.shape[:2]
        squared = xp.permute_dims(xp.reshape(squared, (outputs, inputs, -1)), (1, 2, 0))
    mean = float(xp.mean(xp.sqrt(squared)))
    if not mean > 0:
        return euclidean(*squared.shape, like=squared)
    *factors, explained = _separable_fit(_raised(squared, (_LEAST_ALPHA * mean) ** 2))
    by_input, spatial, by_output = (
        _raised(weights, _LEAST_ALPHA**2 * float(xp.mean(weights))) for weights in factors
    )
    # the floor has been applied: the much higher one of covariances must not bind
    return SeparableMetric(by_input, spatial, by_output, 0.0, explained)


def _raised(values: Array, least: float) -> Array:
    xp = array_namespace(values)
    return xp.maximum(values, xp.full_like(values, least))


def _separable_fit(tensor: Array, *, sweeps: int = 200) -> tuple[Array, Array, Array, float]:
    """Positive vectors (C,), (P,), (F,) whose product is near, and its share of the squared norm."""
    # by turns (the higher-order power method): each vector is the best for the other two, so that no step
    # loses and none turns negative; started from sums along the other axes, exact if it is separable
    xp = array_namespace(tensor)
    largest = float(xp.max(tensor))
    tensor = tensor / largest
    folded = xp.reshape(tensor, (tensor.shape[0], -1))
    energy, kept = float(xp.sum(folded * folded)), 0.0
    spatial, outputs = (_unit(xp.sum(tensor, axis=axes)) for axes in ((0, 2), (0, 1)))
    for _ in range(sweeps):
        inputs = _unit(folded @ xp.reshape(spatial[:, None] * outputs[None, :], (-1,)))
        sheet = xp.reshape(inputs @ folded, tensor.shape[1:])
        spatial = _unit(sheet @ outputs)
        last = spatial @ sheet
        outputs, before, kept = _unit(last), kept, float(last @ last)
        if kept - before <= 1e-12 * energy:
            break
    means = [float(xp.mean(vector)) for vector in (spatial, outputs)]
    size = largest * kept**0.5 * means[0] * means[1]
    return inputs * size, spatial / means[0], outputs / means[1], min(kept / energy, 1.0)


def _unit(vector: Array) -> Array:
    xp = array_namespace(vector)
    return vector / xp.sqrt(xp.sum(vector * vector))
