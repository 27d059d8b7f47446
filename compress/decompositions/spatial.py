"""The split of a kernel's two axes, k x 1 -> 1 x k, on the weight alone."""

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from cnncompress.decompositions.base import Decomposition, Factors, Ranks
from cnncompress.decompositions.chains import Link, Step, unsupported
from cnncompress.decompositions.registry import register
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses, Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.spatial import fold, spatial_split
from cnncompress.solvers.svd import squared_singular_values


@register
@dataclass(frozen=True, kw_only=True)
class Spatial(Decomposition):
    """k x 1 then 1 x k (Jaderberg et al., scheme 2): rank (k c h W + k d h w) multiply-accumulates."""

    name: ClassVar[str] = "spatial"
    fallback: ClassVar[str | None] = "svd-out"

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        return unsupported(layer, spatial=True)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        height, width = layer.kernel_size
        return (min(height * layer.in_channels, width * layer.out_channels),)

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        return (squared_singular_values(fold(weight)),)

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        (rank,) = ranks
        return (
            Link("vertical", layer.in_channels, rank),
            Link("horizontal", rank, layer.out_channels, bias=True),
        )

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        return Factors(spatial_split(weight, rank=ranks[0]), bias)
