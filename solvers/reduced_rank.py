"""Reduced rank regression: the best linear map of a given rank from one response to another.

With centred responses Y (target) and X (regressor), both of shape (channels, samples), minimise
||Y - M X|| over rank(M) <= rank. Zhang et al. solve it by a generalised singular value decomposition
("Accelerating Very Deep Convolutional Networks for Classification and Detection", eq. 7 and 8). The
same solution needs nothing but moments: with S = cov(X) and C = cov(Y, X),

    M = U U' C S^+,   U = the leading eigenvectors of C S^+ C'.

S is never inverted: it is whitened by its eigenvectors, those with vanishing eigenvalues left out,
so that dead channels and fewer samples than channels are harmless.
"""

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace, device

from cnncompress.solvers import Array


@dataclass(frozen=True)
class LowRankMap:
    """The affine map y = left @ (right @ x) + bias.

    Attributes:
        left: shape (outputs, rank).
        right: shape (rank, inputs).
        bias: shape (outputs,).
    """

    left: Array
    right: Array
    bias: Array

    def __call__(self, regressor: Array) -> Array:
        """Apply the map.

        Args:
            regressor: shape (inputs, samples).

        Returns:
            Shape (outputs, samples).
        """
        rank, inputs = self.right.shape
        outputs = self.left.shape[0]
        if rank * (inputs + outputs) < inputs * outputs:
            return self.left @ (self.right @ regressor) + self.bias[:, None]
        return (self.left @ self.right) @ regressor + self.bias[:, None]

    def astype(self, kind: Any) -> "LowRankMap":
        """The same map in another floating type.

        Args:
            kind: a type of the arrays' library.

        Returns:
            The map.
        """
        xp = array_namespace(self.left)
        return LowRankMap(xp.astype(self.left, kind), xp.astype(self.right, kind), xp.astype(self.bias, kind))

    def balanced(self) -> "LowRankMap":
        """The same map with the scale shared equally between its factors (M = U S^½ · S^½ V').

        Returns:
            Factors of equal singular values, which fine-tune and quantise best.
        """
        xp = array_namespace(self.left)
        q_left, r_left = xp.linalg.qr(self.left)
        q_right, r_right = xp.linalg.qr(self.right.T)
        u, s, vt = xp.linalg.svd(r_left @ r_right.T, full_matrices=False)
        root = xp.sqrt(s)
        return LowRankMap(q_left @ (u * root[None, :]), (root[:, None] * vt) @ q_right.T, self.bias)


def descending_eigh(symmetric: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors, the largest first.

    Args:
        symmetric: shape (n, n); made exactly symmetric first.

    Returns:
        Eigenvalues of shape (n,), descending, and eigenvectors as the columns of shape (n, n).
    """
    xp = array_namespace(symmetric)
    values, vectors = xp.linalg.eigh((symmetric + symmetric.T) / 2)
    return xp.flip(values), xp.flip(vectors, axis=1)


def whitener(covariance: Array, *, cutoff: float = 1e-10) -> Array:
    """A matrix W with W' S W = identity on the range of the covariance S.

    Args:
        covariance: shape (channels, channels).
        cutoff: eigenvalues at or below this share of the largest count as zero.

    Returns:
        Shape (channels, q), where q is the numerical rank; q may be 0.
    """
    xp = array_namespace(covariance)
    values, vectors = descending_eigh(covariance)
    kept = int(xp.count_nonzero(values > cutoff * xp.max(values))) if float(values[0]) > 0 else 0
    return vectors[:, :kept] / xp.sqrt(values[:kept])[None, :]


def principal_map(components: Array, mean: Array, *, rank: int) -> LowRankMap:
    """Projection of a response onto its principal components (Zhang et al., eq. 4).

    Args:
        components: eigenvectors of the response's covariance as columns, the leading first.
        mean: of the response, shape (channels,).
        rank: number of components kept.

    Returns:
        The map U U' (y - mean) + mean.

    Example:
        >>> import numpy as np
        >>> _, components = descending_eigh(np.diag([4.0, 1.0]))
        >>> principal_map(components, np.array([1.0, 5.0]), rank=1)(np.array([[3.0], [7.0]])).ravel().tolist()
        [3.0, 5.0]
    """
    leading = components[:, :rank]
    return LowRankMap(leading, leading.T, mean - leading @ (leading.T @ mean))


@dataclass(frozen=True)
class Regression:
    """Reduced rank regression on samples of one regressor, prepared once for many targets.

    Attributes:
        centred: regressor less its mean, shape (inputs, samples).
        mean: of the regressor, shape (inputs,).
        whitening: `whitener` of its regularised covariance, shape (inputs, q).
        pull: what the regularisation adds to the whitened cross moment, shape (outputs, q).
    """

    centred: Array
    mean: Array
    whitening: Array
    pull: Array

    @classmethod
    def on(cls, regressor: Array, *, prior: Array, ridge: float = 0.0, cutoff: float = 1e-10) -> "Regression":
        """Prepare the regression on one regressor.

        The penalty ``ridge`` draws the matrix M towards a prior one, most where the regressor hardly
        varies and samples tell least. Unlike a ridge towards zero it doesn't shrink the output.

        Args:
            regressor: shape (inputs, samples).
            prior: matrix that is right if nothing was compressed, shape (outputs, inputs).
            ridge: strength, relative to the mean variance of the regressor's entries.
            cutoff: see `whitener`.

        Returns:
            The regression.
        """
        xp = array_namespace(regressor, prior)
        kind, inputs = regressor.dtype, regressor.shape[0]
        mean = xp.mean(regressor, axis=1)
        centred = regressor - mean[:, None]
        covariance = xp.astype(centred @ centred.T, xp.float64) / regressor.shape[1]
        strength = ridge * float(xp.sum(xp.linalg.diagonal(covariance))) / inputs
        identity = xp.eye(inputs, dtype=xp.float64, device=device(regressor))
        whitening = whitener(covariance + strength * identity, cutoff=cutoff)
        pull = strength * (xp.astype(prior, xp.float64) @ whitening)
        return cls(centred, mean, xp.astype(whitening, kind), pull)

    def solve(self, target: Array, *, rank: int) -> LowRankMap:
        """The best map of a given rank (Zhang et al., eq. 7 and 8).

        Args:
            target: shape (outputs, samples).
            rank: greatest rank of the map.

        Returns:
            The map that minimises ||target - M regressor - b||² + the penalty.
        """
        xp = array_namespace(target, self.centred)
        samples = target.shape[1]
        cross = xp.astype((target @ self.centred.T) / samples, xp.float64)
        whitened = cross @ xp.astype(self.whitening, xp.float64) + self.pull
        # eigh, not svd: one side's vectors are enough, so that the smaller product will do
        if whitened.shape[0] <= whitened.shape[1]:
            left = descending_eigh(whitened @ whitened.T)[1][:, :rank]
            inner = left.T @ whitened
        else:
            inner = descending_eigh(whitened.T @ whitened)[1][:, :rank].T
            left = whitened @ inner.T
        left, inner = xp.astype(left, target.dtype), xp.astype(inner, target.dtype)
        right = inner @ self.whitening.T
        return LowRankMap(left, right, xp.mean(target, axis=1) - left @ (right @ self.mean))
