"""The split k x k -> k x 1 -> 1 x k -> 1 x 1, solved on the responses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Decomposition, Factors, Need, Ranks, cumulative_share
from cnncompress.decompositions.chains import Link, Step, unsupported
from cnncompress.decompositions.projections import Projection, projection_split, regressors_behind
from cnncompress.decompositions.registry import register
from cnncompress.decompositions.solutions import best_map
from cnncompress.decompositions.spatial import Spatial
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses, Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.spatial import fold, spatial_split
from cnncompress.solvers.svd import squared_singular_values

HORIZONTAL = ("refit", "weight")

SPATIAL_WEIGHT = 0.1
"""How much the log energy of the weight, which the spatial split loses, counts against that of the responses.

On VGG-16 the energy of the weight, whose split is refitted on responses, says little; 1 would all but forbid
the split in three."""


@register
@dataclass(frozen=True, kw_only=True)
class GSVD3D(Decomposition):
    """k x 1, 1 x k and 1 x 1, the last two solved asymmetrically (Zhang et al., section 3.5).

    The vertical filters come from the weight and the second moment of what they read. The rest is a
    nonlinear low-rank map from their outputs to the true responses: its two factors are the horizontal
    and the 1 x 1 filters. Ranks are (d'', d'), the outputs of the vertical and of the horizontal filters;
    k c d'' h W + k d'' d' h w + d' d h w multiply-accumulates.

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
    fallback: ClassVar[str | None] = "gsvd"
    rank_names: ClassVar[tuple[str, ...]] = ("spatial", "channel")
    principal: ClassVar[bool] = True
    projection: ClassVar[Projection | None] = "vertical"
    truncates: ClassVar[bool] = True

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return frozenset({"responses"})

    def __post_init__(self) -> None:
        if self.horizontal not in HORIZONTAL:
            raise OptionError(f"gsvd3d: option horizontal is refit or weight, got {self.horizontal!r}")

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if layer.in_channels <= 3:
            return f"it has {layer.in_channels} input channels, too few to split its kernel's axes"
        return unsupported(layer, spatial=True)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (*Spatial().full_ranks(layer), layer.out_channels)

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        assert statistics is not None
        return squared_singular_values(fold(weight)), statistics.outputs.spectrum[0]

    @override
    def kept(
        self, layer: LayerInfo, weight: Array, statistics: Statistics | None, settings: Sequence[Ranks]
    ) -> NDArray[np.float64]:
        spatial, channel = map(cumulative_share, self.energies(layer, weight, statistics))
        return np.array([spatial[s - 1] ** SPATIAL_WEIGHT * channel[c - 1] for s, c in settings])

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        spatial, channel = ranks
        return (
            Link("vertical", layer.in_channels, spatial),
            Link("horizontal", spatial, channel),
            Link("pointwise", channel, layer.out_channels, bias=True),
        )

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        assert responses is not None
        xp = array_namespace(weight)
        spatial, channel = ranks
        free = self.horizontal == "refit"
        if free:
            vertical, horizontal = projection_split("vertical", weight, responses.fit.patches, spatial)
        else:
            vertical, horizontal = spatial_split(weight, rank=spatial)
        features = regressors_behind("vertical", vertical, horizontal, bias, responses)
        solution = best_map(
            responses,
            features if free else features.responses(),
            rank=channel,
            symmetric=self.symmetric,
            nonlinear=self.nonlinear and layer.activation == "relu",
            judge=self.judge,
        )
        mapping = (solution.map if free else features.lifted(solution.map)).balanced()
        kept = mapping.right.shape[0]
        weights = (
            vertical,
            xp.reshape(mapping.right, (kept, -1, 1, layer.kernel_size[1])),
            xp.reshape(mapping.left, (layer.out_channels, kept, 1, 1)),
        )
        return Factors(weights, mapping.bias, solution.errors, solution.chosen)
