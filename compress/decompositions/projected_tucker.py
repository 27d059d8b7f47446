"""The split 1 x 1 -> k x k -> 1 x 1 (Tucker-2), solved on the responses."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Factors, Need, Ranks, cumulative_share, multiples
from cnncompress.decompositions.chains import Link, Step
from cnncompress.decompositions.projected import Projected, too_few_channels
from cnncompress.decompositions.projections import ISOTROPIC, Projection, projection_split, regressors_behind
from cnncompress.decompositions.registry import register
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses, Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.channel_projection import channel_energies
from cnncompress.solvers.tucker_start import tucker_split

INPUT_WEIGHT = 0.5
"""How much the log share of energy that the input channels keep counts against that of the responses.

The refit wins part of it back. On three convolutions of VGG-16 at 2x and 4x this weight finds the best of six
pairs of ranks each time; 1 keeps too many input channels (2 to 41 % more error), 0.1 too few (12 to 76 %)."""

STARTS = ("moment", "tensorly")

_MOST_VALUES = 64  # of each rank that are chosen among: all pairs are listed


@register
@dataclass(frozen=True, kw_only=True)
class GTucker(Projected):
    """1 x 1, k x k, 1 x 1, the last two a low-rank map that is solved on the responses.

    Tucker-2 of Kim et al. (https://arxiv.org/abs/1511.06530, section 3.1) with the objective of Zhang et al.
    Ranks are (c', d'), the channels that the k x k convolution reads and writes;
    c c' H W + k² c' d' h w + d' d h w multiply-accumulates.

    Attributes:
        start: ``"moment"`` chooses the first 1 x 1 by the weight and the second moment of the inputs;
            ``"tensorly"`` by the Tucker decomposition of the weight, whose filters of a rank aren't the first
            of those of a greater one.
    """

    start: str = "moment"
    name: ClassVar[str] = "gtucker"
    descends: ClassVar[bool] = False
    rank_names: ClassVar[tuple[str, ...]] = ("input", "output")
    principal: ClassVar[bool] = True
    projection: ClassVar[Projection | None] = "pointwise"
    truncates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise OptionError(f"gtucker: option start is moment or tensorly, got {self.start!r}")

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return frozenset({"responses", "inputs"})

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        return too_few_channels(layer)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        positions = layer.patch_size // layer.in_channels
        return min(layer.in_channels, positions * layer.out_channels), layer.out_channels

    @override
    def unfit(self, layer: LayerInfo, ranks: Ranks) -> str:
        positions = layer.patch_size // layer.in_channels
        if ranks[1] > positions * ranks[0]:
            most = positions * ranks[0]
            return f"output rank {ranks[1]} exceeds the {most} that input rank {ranks[0]} allows"
        return ""

    @override
    def settings(self, layer: LayerInfo, step: int) -> tuple[Ranks, ...]:
        choices = [_spread(multiples(step, limit)) for limit in self.full_ranks(layer)]
        return tuple(ranks for ranks in product(*choices) if not self.unfit(layer, ranks))

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        assert statistics is not None
        assert statistics.inputs is not None
        read = channel_energies(weight, channel_moment=statistics.inputs.second, isotropic=ISOTROPIC)
        return read, statistics.outputs.spectrum[0]

    @override
    def kept(
        self, layer: LayerInfo, weight: Array, statistics: Statistics | None, settings: Sequence[Ranks]
    ) -> NDArray[np.float64]:
        read, written = map(cumulative_share, self.energies(layer, weight, statistics))
        return np.array([read[r - 1] ** INPUT_WEIGHT * written[w - 1] for r, w in settings])

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        read, written = ranks
        return (
            Link("pointwise", layer.in_channels, read),
            Link("whole", read, written),
            Link("pointwise", written, layer.out_channels, bias=True),
        )

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        assert responses is not None
        xp = array_namespace(weight)
        read, written = ranks
        if self.start == "tensorly":
            filters, rest = tucker_split(weight, input_rank=read, output_rank=written)
        else:
            filters, rest = projection_split("pointwise", weight, responses.fit.patches, read)
        features = regressors_behind("pointwise", filters, rest, bias, responses)
        solution = self.solved(layer, features, responses, written)
        mapping = solution.map.balanced()
        kept = mapping.right.shape[0]
        weights = (
            filters,
            xp.reshape(mapping.right, (kept, read, *layer.kernel_size)),
            xp.reshape(mapping.left, (layer.out_channels, kept, 1, 1)),
        )
        return Factors(weights, mapping.bias, solution.errors, solution.chosen)


def _spread(values: Sequence[int]) -> Sequence[int]:
    """So many of equally spaced values as can be combined, the greatest among them."""
    every = -(-len(values) // _MOST_VALUES)
    return values[(len(values) - 1) % every :: every]
