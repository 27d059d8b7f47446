"""Splits in two whose second factor is solved on the responses: k x 1 -> 1 x k and 1 x 1 -> k x k."""

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace
from typing_extensions import override

from cnncompress.decompositions.base import Decomposition, Factors, Need, Ranks, multiples
from cnncompress.decompositions.chains import Link, Step, unsupported
from cnncompress.decompositions.projections import ISOTROPIC, Projection, projection_split, regressors_behind
from cnncompress.decompositions.registry import register
from cnncompress.decompositions.solutions import Regressors, Solution, best_map
from cnncompress.decompositions.spatial import Spatial
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses, Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.channel_projection import channel_energies
from cnncompress.solvers.spatial import fold
from cnncompress.solvers.svd import squared_singular_values


def too_few_channels(layer: LayerInfo) -> str:
    """Why a layer's input channels can't be projected to fewer, with a gain.

    Args:
        layer: the layer.

    Returns:
        The reason, or an empty string.
    """
    if layer.patch_size == layer.in_channels:
        return "its kernel is 1 x 1, so that a projection of its inputs is all that there is to it"
    if layer.in_channels <= 3:
        return f"it has {layer.in_channels} input channels, too few to project them"
    return unsupported(layer)


@dataclass(frozen=True, kw_only=True)
class Projected(Decomposition):
    """A projection of what the layer reads, then a map from its outputs to the true responses.

    The projection comes from the weight and the second moment of what it reads, the map is solved as that of
    Zhang et al., section 3.2 and 3.3.

    Attributes:
        symmetric: solve on the true responses, as if the prefix were exact.
        nonlinear: take the rectifier that follows the layer into account.
        judge: keep the solution that is best on held-out images; without it the one that the two options
            above name, however bad.
    """

    symmetric: bool = False
    nonlinear: bool = True
    judge: bool = True
    name: ClassVar[str]
    fallback: ClassVar[str | None] = "gsvd"

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return frozenset({"responses"})

    def solved(self, layer: LayerInfo, features: Regressors, responses: Responses, rank: int) -> Solution:
        """The map behind the projection.

        Args:
            layer: the layer.
            features: outputs of the projection.
            responses: of the layer.
            rank: greatest rank of the map.

        Returns:
            The best of the solutions that the options allow.
        """
        return best_map(
            responses,
            features,
            rank=rank,
            symmetric=self.symmetric,
            nonlinear=self.nonlinear and layer.activation == "relu",
            judge=self.judge,
        )

    def fit_in_two(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        """The projection and one convolution behind it.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            bias: shape (out_channels,).
            responses: of the layer.
            ranks: number of the projection's filters.

        Returns:
            The factors.
        """
        assert responses is not None
        assert self.projection is not None
        xp = array_namespace(weight)
        filters, rest = projection_split(self.projection, weight, responses.fit.patches, ranks[0])
        features = regressors_behind(self.projection, filters, rest, bias, responses)
        solution = self.solved(layer, features, responses, layer.out_channels)
        last = xp.reshape(solution.map.left @ solution.map.right, rest.shape)
        return Factors((filters, last), solution.map.bias, solution.errors, solution.chosen)


@register
@dataclass(frozen=True, kw_only=True)
class GSpatial(Projected):
    """k x 1 then 1 x k, the second solved on the responses: rank (k c h W + k d h w) multiply-accumulates."""

    name: ClassVar[str] = "gspatial"
    rank_names: ClassVar[tuple[str, ...]] = ("spatial",)
    projection: ClassVar[Projection | None] = "vertical"

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if layer.in_channels <= 3:
            return f"it has {layer.in_channels} input channels, too few to split its kernel's axes"
        return unsupported(layer, spatial=True)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return Spatial().full_ranks(layer)

    @override
    def rank_step(self, layer: LayerInfo, step: int) -> int:
        return multiples(step, self.full_ranks(layer)[0])[0]

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        return (squared_singular_values(fold(weight)),)

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        return Spatial().steps(layer, ranks)

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        return self.fit_in_two(layer, weight, bias, responses, ranks)


@register
@dataclass(frozen=True, kw_only=True)
class GSVDIn(Projected):
    """1 x 1 to fewer channels, then k x k, solved on the responses: rank (c H W + k² d h w) MACs."""

    name: ClassVar[str] = "gsvd-in"
    projection: ClassVar[Projection | None] = "pointwise"

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
        return (min(layer.in_channels, positions * layer.out_channels),)

    @override
    def rank_step(self, layer: LayerInfo, step: int) -> int:
        return multiples(step, self.full_ranks(layer)[0])[0]

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        assert statistics is not None
        assert statistics.inputs is not None
        return (channel_energies(weight, channel_moment=statistics.inputs.second, isotropic=ISOTROPIC),)

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        (rank,) = ranks
        return (
            Link("pointwise", layer.in_channels, rank),
            Link("whole", rank, layer.out_channels, bias=True),
        )

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        return self.fit_in_two(layer, weight, bias, responses, ranks)
