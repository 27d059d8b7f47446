"""Biclustering with two SVDs for each pair of clusters (Denton et al., section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Ranks, cumulative_share
from cnncompress.decompositions.blockwise import Biclustering, each, joined_last, weighed_blocks
from cnncompress.decompositions.chains import Step
from cnncompress.decompositions.clustered import ClusteredChain
from cnncompress.decompositions.registry import option, register
from cnncompress.decompositions.weighted import folded
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.biclustering import tucker2, tucker_energies
from cnncompress.solvers.metric import SeparableMetric


@register
@dataclass(frozen=True, kw_only=True)
class BiclusteringSVD(Biclustering):
    """Grouped 1 x 1, k x k within each pair of clusters, grouped 1 x 1.

    Ranks are (K1, K2), behind the first and in front of the last factor;
    G H (c/G K1 H W + k² K1 K2 h w + K2 d/H h w) multiply-accumulates.

    Attributes:
        input_rank: K1; None, for both, leaves the choice to the planner.
        output_rank: K2.
        sweeps: of higher-order orthogonal iteration after the two decompositions.
    """

    input_rank: int | None = option(None, symbol="K1", least=1)
    output_rank: int | None = option(None, symbol="K2", least=1)
    sweeps: int = option(0, least=0)
    name: ClassVar[str] = "biclustering-svd"
    descends: ClassVar[bool] = False
    rank_names: ClassVar[tuple[str, ...]] = ("K1", "K2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.input_rank is None) != (self.output_rank is None):
            raise OptionError("biclustering-svd: give both K1 and K2, or neither")

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        inputs, outputs, positions = self._block(layer)
        return min(inputs, positions * outputs), min(positions * inputs, outputs)

    def _block(self, layer: LayerInfo) -> tuple[int, int, int]:
        positions = layer.patch_size // layer.in_channels
        return layer.in_channels // self.input_clusters, layer.out_channels // self.output_clusters, positions

    @override
    def unfit(self, layer: LayerInfo, ranks: Ranks) -> str:
        *_, positions = self._block(layer)
        if ranks[1] > positions * ranks[0]:
            most = positions * ranks[0]
            return f"K2 = {ranks[1]} exceeds the {most} that K1 = {ranks[0]} allows ({positions} each)"
        return ""

    @override
    def asked(self, layer: LayerInfo) -> Ranks | None:
        if self.input_rank is None or self.output_rank is None:
            return None
        return self.input_rank, self.output_rank

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        return self.chain(layer, read=ranks[0], written=ranks[1], depthwise=False)

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        tensor = folded(weight)
        metric = self.metric_of(tensor, statistics)
        blocks, _ = weighed_blocks(tensor, self.grouped(tensor, metric), metric)
        return tucker_energies(blocks)

    @override
    def kept(
        self, layer: LayerInfo, weight: Array, statistics: Statistics | None, settings: Sequence[Ranks]
    ) -> NDArray[np.float64]:
        # what both truncations lose adds up to at least the error: a bound that never flatters
        read, written = (1 - cumulative_share(e) for e in self.energies(layer, weight, statistics))
        return np.array([max(0.0, 1 - read[k1 - 1] - written[k2 - 1]) for k1, k2 in settings])

    @override
    def solve(self, tensor: Array, metric: SeparableMetric, ranks: Ranks) -> ClusteredChain:
        xp = array_namespace(tensor)
        grouping = self.grouped(tensor, metric)
        blocks, metrics = weighed_blocks(tensor, grouping, metric)
        found = tucker2(blocks, input_rank=ranks[0], output_rank=ranks[1], sweeps=self.sweeps)
        pairs, read, positions, written = found.core.shape
        inputs = each(SeparableMetric.unweigh_inputs, metrics, found.inputs)
        outputs = each(SeparableMetric.unweigh_outputs, metrics, found.outputs)
        core = xp.reshape(xp.permute_dims(found.core, (0, 2, 1, 3)), (pairs, positions, read * written))
        core = xp.reshape(
            each(SeparableMetric.unweigh_spatial, metrics, core), (pairs, positions, read, written)
        )
        return ClusteredChain(
            grouping,
            xp.permute_dims(inputs, (0, 2, 1)),
            xp.permute_dims(core, (0, 3, 2, 1)),
            joined_last(grouping, outputs),
        )
