"""Splits of the kernel's two axes: k x 1 -> 1 x k (spatial) and k x 1 -> 1 x k -> 1 x 1 (gsvd3d)."""

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace
from torch import nn

from cnncompress.decompositions.base import Factors, Ranks, register
from cnncompress.decompositions.chains import (
    factor,
    horizontal_macs,
    pointwise_macs,
    unsupported,
    vertical_macs,
)
from cnncompress.decompositions.solutions import Regressors, best_map
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses
from cnncompress.solvers import Array
from cnncompress.solvers.moments import Moments
from cnncompress.solvers.reduced_rank import LowRankMap, descending_eigh
from cnncompress.solvers.spatial import fold, spatial_split
from cnncompress.solvers.svd import squared_singular_values


def spatial_rank_limit(layer: LayerInfo) -> int:
    """Number of vertical filters at which the split of the two axes is exact.

    Args:
        layer: the layer.

    Returns:
        The smaller side of the folded weight.
    """
    height, width = layer.kernel_size
    return min(height * layer.in_channels, width * layer.out_channels)


@register
@dataclass(frozen=True, kw_only=True)
class Spatial:
    """k x 1 then 1 x k from the weight alone (Jaderberg et al., scheme 2; Zhang et al., section 3.5)."""

    name: ClassVar[str] = "spatial"
    needs_data: ClassVar[bool] = False
    fallback: ClassVar[str | None] = "svd"

    def obstacle(self, layer: LayerInfo) -> str:
        """Why this method can't replace the layer.

        Args:
            layer: the layer.

        Returns:
            The reason, or an empty string.
        """
        return unsupported(layer, spatial=True)

    def full_ranks(self, layer: LayerInfo) -> Ranks:
        """The rank at which the replacement is exact.

        Args:
            layer: the layer.

        Returns:
            The number of vertical filters.
        """
        return (spatial_rank_limit(layer),)

    def macs(self, layer: LayerInfo, ranks: Ranks) -> int:
        """Multiply-accumulates: rank (k c h W + k d h w).

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            For one image.
        """
        (rank,) = ranks
        return vertical_macs(layer, rank) + horizontal_macs(layer, rank, layer.out_channels)

    def energies(self, layer: LayerInfo, weight: Array, moments: Moments | None) -> tuple[Array, ...]:
        """What each further rank adds to the energy of the weight.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            moments: not used.

        Returns:
            Squared singular values of the folded weight, descending.
        """
        return (squared_singular_values(fold(weight)),)

    def build(self, layer: LayerInfo, ranks: Ranks) -> nn.Sequential:
        """The replacement with untrained weights.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Two convolutions.
        """
        (rank,) = ranks
        return nn.Sequential(
            factor(layer, "vertical", layer.in_channels, rank, bias=False),
            factor(layer, "horizontal", rank, layer.out_channels, bias=True),
        )

    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        """Truncate the singular value decomposition of the folded weight.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            bias: shape (out_channels,).
            responses: not used.
            ranks: of the replacement.

        Returns:
            The factors.
        """
        return Factors(spatial_split(weight, rank=ranks[0]), bias)


@register
@dataclass(frozen=True, kw_only=True)
class GSVD3D:
    """k x 1, 1 x k and 1 x 1, the last two solved asymmetrically (Zhang et al., section 3.5).

    The vertical filters come from the weight and the second moment of what they read. The rest is a
    nonlinear low-rank map from their outputs to the true responses: its two factors are the
    horizontal and the 1 x 1 filters.

    Attributes:
        symmetric: solve the channel split on the true responses, as if the prefix were exact.
        nonlinear: take the rectifier that follows the layer into account.
        judge: keep the solution that is best on held-out images; without it the one that the two options
            above name, however bad.
        horizontal: ``"refit"`` solves the horizontal filters freely on the vertical ones' outputs;
            ``"weight"`` keeps those of the weight's split before the channel split, as the paper does.
    """

    symmetric: bool = False
    nonlinear: bool = True
    judge: bool = True
    horizontal: str = "refit"
    name: ClassVar[str] = "gsvd3d"
    needs_data: ClassVar[bool] = True
    fallback: ClassVar[str | None] = "gsvd"

    def obstacle(self, layer: LayerInfo) -> str:
        """Why this method can't replace the layer.

        Args:
            layer: the layer.

        Returns:
            The reason, or an empty string.
        """
        if layer.in_channels <= 3:
            return f"it has {layer.in_channels} input channels, too few to split its kernel's axes"
        return unsupported(layer, spatial=True)

    def full_ranks(self, layer: LayerInfo) -> Ranks:
        """The ranks at which the replacement is exact.

        Args:
            layer: the layer.

        Returns:
            Outputs of the vertical and of the horizontal filters.
        """
        return (spatial_rank_limit(layer), layer.out_channels)

    def macs(self, layer: LayerInfo, ranks: Ranks) -> int:
        """Multiply-accumulates: d'' k c h W + d'' k d' h w + d' d h w.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            For one image.
        """
        spatial, channel = ranks
        return (
            vertical_macs(layer, spatial)
            + horizontal_macs(layer, spatial, channel)
            + pointwise_macs(layer, channel, layer.out_channels)
        )

    def energies(self, layer: LayerInfo, weight: Array, moments: Moments | None) -> tuple[Array, ...]:
        """What each further rank adds: to the energy of the weight, and to that of the responses.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            moments: of the original network's responses.

        Returns:
            Squared singular values of the folded weight, and eigenvalues of the responses' covariance.
        """
        assert moments is not None
        return squared_singular_values(fold(weight)), descending_eigh(moments.covariance)[0]

    def build(self, layer: LayerInfo, ranks: Ranks) -> nn.Sequential:
        """The replacement with untrained weights.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Three convolutions.
        """
        spatial, channel = ranks
        return nn.Sequential(
            factor(layer, "vertical", layer.in_channels, spatial, bias=False),
            factor(layer, "horizontal", spatial, channel, bias=False),
            factor(layer, "pointwise", channel, layer.out_channels, bias=True),
        )

    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        """Split the weight's axes, then solve for the rest on the responses.

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
        spatial, channel = ranks
        outputs, inputs, height, width = weight.shape
        moment = None
        if self.horizontal == "refit":
            moment = _column_moment(responses.fit.patches, inputs, height, width)
        vertical, horizontal = spatial_split(weight, rank=spatial, column_moment=moment)
        lift = xp.reshape(horizontal, (outputs, -1))
        fit = _columns(vertical, responses.fit.patches, width)
        held_out = _columns(vertical, responses.held_out.patches, width)
        if self.horizontal == "refit":
            regressors = Regressors(fit, held_out, lift, bias)
        else:
            regressors = Regressors(
                lift @ fit + bias[:, None],
                lift @ held_out + bias[:, None],
                xp.eye(outputs, dtype=weight.dtype),
                xp.zeros_like(bias),
            )
        solution = best_map(
            responses,
            regressors,
            rank=channel,
            symmetric=self.symmetric,
            nonlinear=self.nonlinear and layer.activation == "relu",
            judge=self.judge,
        )
        mapping = solution.map
        if self.horizontal != "refit":
            mapping = LowRankMap(
                mapping.left, mapping.right @ lift, mapping.bias + mapping.left @ (mapping.right @ bias)
            )
        mapping = mapping.balanced()
        kept = mapping.right.shape[0]
        return Factors(
            (
                vertical,
                xp.reshape(mapping.right, (kept, -1, 1, width)),
                xp.reshape(mapping.left, (outputs, kept, 1, 1)),
            ),
            mapping.bias,
            solution.errors,
            solution.chosen,
        )


def _columns(vertical: Array, patches: Array, width: int) -> Array:
    """Outputs of the vertical filters at the kernel's columns, shape (rank * width, samples)."""
    xp = array_namespace(patches)
    rank, inputs, height, _ = vertical.shape
    samples = patches.shape[1]
    by_column = xp.reshape(patches, (inputs * height, width * samples))
    filtered = xp.reshape(vertical, (rank, inputs * height)) @ by_column
    return xp.reshape(filtered, (rank * width, samples))


def _column_moment(patches: Array, inputs: int, height: int, width: int) -> Array:
    """Second moment of the columns that the vertical filters read, (inputs * height) squared."""
    xp = array_namespace(patches)
    by_column = xp.reshape(patches, (inputs * height, width * patches.shape[1]))
    return (by_column @ by_column.T) / by_column.shape[1]
