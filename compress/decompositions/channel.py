"""The k x k -> 1 x 1 split, solved on the weight (svd) or on the responses (pca, gsvd)."""

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace
from torch import nn

from cnncompress.decompositions.base import Factors, Ranks, register
from cnncompress.decompositions.chains import factor, pointwise_macs, unsupported, whole_macs
from cnncompress.decompositions.solutions import Regressors, best_map
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses
from cnncompress.solvers import Array
from cnncompress.solvers.moments import Moments
from cnncompress.solvers.reduced_rank import LowRankMap, descending_eigh, principal_map
from cnncompress.solvers.svd import squared_singular_values, truncated_svd


@dataclass(frozen=True, kw_only=True)
class ChannelSplit:
    """Shape and cost of the split: a k x k convolution to ``rank`` channels, then a 1 x 1."""

    def obstacle(self, layer: LayerInfo) -> str:
        """Why this method can't replace the layer.

        Args:
            layer: the layer.

        Returns:
            The reason, or an empty string.
        """
        return unsupported(layer)

    def full_ranks(self, layer: LayerInfo) -> Ranks:
        """The rank at which the replacement is exact.

        Args:
            layer: the layer.

        Returns:
            The number of outputs.
        """
        return (layer.out_channels,)

    def macs(self, layer: LayerInfo, ranks: Ranks) -> int:
        """Multiply-accumulates: rank (k² c + d) h w.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            For one image.
        """
        (rank,) = ranks
        return whole_macs(layer, layer.in_channels, rank) + pointwise_macs(layer, rank, layer.out_channels)

    def energies(self, layer: LayerInfo, weight: Array, moments: Moments | None) -> tuple[Array, ...]:
        """What each further rank adds to the energy of the responses.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            moments: of the original network's responses.

        Returns:
            Eigenvalues of the covariance, descending.
        """
        assert moments is not None
        return (descending_eigh(moments.covariance)[0],)

    def build(self, layer: LayerInfo, ranks: Ranks) -> nn.Sequential:
        """The replacement with untrained weights.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Two layers.
        """
        (rank,) = ranks
        return nn.Sequential(
            factor(layer, "whole", layer.in_channels, rank, bias=False),
            factor(layer, "pointwise", rank, layer.out_channels, bias=True),
        )

    @staticmethod
    def _factors(layer: LayerInfo, weight: Array, bias: Array, mapping: LowRankMap) -> tuple[Array, ...]:
        """Weights and bias of y -> mapping(y), for y = weight * x + bias."""
        xp = array_namespace(weight)
        balanced = mapping.balanced()
        folded = xp.reshape(weight, (weight.shape[0], -1))
        first = balanced.right @ folded
        last_bias = balanced.bias + balanced.left @ (balanced.right @ bias)
        rank, outputs = first.shape[0], weight.shape[0]
        if layer.kind == "linear":
            return first, balanced.left, last_bias
        return (
            xp.reshape(first, (rank, *weight.shape[1:])),
            xp.reshape(balanced.left, (outputs, rank, 1, 1)),
            last_bias,
        )


@register
@dataclass(frozen=True, kw_only=True)
class SVD(ChannelSplit):
    """Truncated singular value decomposition of the folded weight (Denton et al., section 3.2)."""

    name: ClassVar[str] = "svd"
    needs_data: ClassVar[bool] = False
    fallback: ClassVar[str | None] = None

    def full_ranks(self, layer: LayerInfo) -> Ranks:
        """The rank at which the replacement is exact.

        Args:
            layer: the layer.

        Returns:
            The smaller side of the folded weight.
        """
        return (min(layer.out_channels, layer.patch_size),)

    def energies(self, layer: LayerInfo, weight: Array, moments: Moments | None) -> tuple[Array, ...]:
        """What each further rank adds to the energy of the weight.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            moments: not used.

        Returns:
            Squared singular values, descending.
        """
        folded = array_namespace(weight).reshape(weight, (weight.shape[0], -1))
        return (squared_singular_values(folded),)

    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        """Project the weight on its leading left singular vectors.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            bias: shape (out_channels,).
            responses: not used.
            ranks: of the replacement.

        Returns:
            The factors.
        """
        xp = array_namespace(weight)
        left, _, _ = truncated_svd(xp.reshape(weight, (weight.shape[0], -1)), rank=ranks[0])
        keep = LowRankMap(left, left.T, bias - left @ (left.T @ bias))
        first, last, last_bias = self._factors(layer, weight, bias, keep)
        return Factors((first, last), last_bias)


@register
@dataclass(frozen=True, kw_only=True)
class PCA(ChannelSplit):
    """Projection of the responses on their principal components (Zhang et al., section 3.1)."""

    name: ClassVar[str] = "pca"
    needs_data: ClassVar[bool] = True
    fallback: ClassVar[str | None] = None

    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        """Keep the leading principal components of the original network's responses.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            bias: shape (out_channels,).
            responses: of the layer.
            ranks: of the replacement.

        Returns:
            The factors.
        """
        assert responses is not None
        xp = array_namespace(weight)
        mapping = principal_map(responses.moments.covariance, responses.moments.mean, rank=ranks[0])
        regressor = Regressors.of_weight(weight, bias, responses)
        error = regressor.error(mapping, responses)
        mapping = LowRankMap(
            *(xp.astype(a, weight.dtype) for a in (mapping.left, mapping.right, mapping.bias))
        )
        first, last, last_bias = self._factors(layer, weight, bias, mapping)
        return Factors((first, last), last_bias, {"symmetric linear": error}, "symmetric linear")


@register
@dataclass(frozen=True, kw_only=True)
class GSVD(ChannelSplit):
    """Nonlinear asymmetric reconstruction of the responses (Zhang et al., sections 3.2 and 3.3).

    Attributes:
        symmetric: regress the true responses on themselves, as if the prefix were exact.
        nonlinear: take the rectifier that follows the layer into account.
        judge: keep the solution that is best on held-out images; without it the one that the two options
            above name, however bad.
    """

    symmetric: bool = False
    nonlinear: bool = True
    judge: bool = True
    name: ClassVar[str] = "gsvd"
    needs_data: ClassVar[bool] = True
    fallback: ClassVar[str | None] = None

    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        """Find the low-rank map from the layer's responses on the compressed prefix to its true ones.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            bias: shape (out_channels,).
            responses: of the layer.
            ranks: of the replacement.

        Returns:
            The factors.
        """
        assert responses is not None
        regressors = Regressors.of_weight(weight, bias, responses)
        solution = best_map(
            responses,
            regressors,
            rank=ranks[0],
            symmetric=self.symmetric,
            nonlinear=self.nonlinear and layer.activation == "relu",
            judge=self.judge,
        )
        first, last, last_bias = self._factors(layer, weight, bias, solution.map)
        return Factors((first, last), last_bias, solution.errors, solution.chosen)
