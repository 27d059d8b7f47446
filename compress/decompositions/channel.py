"""The k x k -> 1 x 1 split, solved on the responses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace
from typing_extensions import override

from cnncompress.decompositions.base import Decomposition, Factors, Need, Ranks
from cnncompress.decompositions.chains import Link, Step, unsupported
from cnncompress.decompositions.projections import Projection
from cnncompress.decompositions.registry import register
from cnncompress.decompositions.solutions import Regressors, best_map
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses, Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.reduced_rank import LowRankMap, principal_map


@dataclass(frozen=True, kw_only=True)
class ChannelSplit(Decomposition):
    """A k x k convolution to ``rank`` channels, then a 1 x 1: rank (k² c + d) h w multiply-accumulates."""

    principal: ClassVar[bool] = True

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        return unsupported(layer)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (layer.out_channels,)

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        assert statistics is not None
        return (statistics.outputs.spectrum[0],)

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        (rank,) = ranks
        return (
            Link("whole", layer.in_channels, rank),
            Link("pointwise", rank, layer.out_channels, bias=True),
        )

    @staticmethod
    def _factors(
        layer: LayerInfo, mapping: LowRankMap, errors: Mapping[str, float] | None = None, chosen: str = ""
    ) -> Factors:
        """The two filters that a map of the layer's patches amounts to."""
        xp = array_namespace(mapping.left)
        mapping = mapping.balanced()
        first = xp.reshape(mapping.right, (mapping.right.shape[0], layer.in_channels, *layer.kernel_size))
        last = xp.reshape(mapping.left, (*mapping.left.shape, 1, 1))
        return Factors((first, last), mapping.bias, errors or {}, chosen)


@register
@dataclass(frozen=True, kw_only=True)
class PCA(ChannelSplit):
    """Projection of the responses on their principal components (Zhang et al., section 3.1)."""

    name: ClassVar[str] = "pca"

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return frozenset({"responses"})

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        assert responses is not None
        patches = Regressors.of_patches(weight, bias, responses)
        exact = principal_map(
            responses.statistics.outputs.spectrum[1], responses.statistics.outputs.mean, rank=ranks[0]
        )
        mapping = patches.lifted(exact.astype(weight.dtype))
        kind = "symmetric linear"
        return self._factors(layer, mapping, {kind: patches.error(mapping, responses)}, kind)


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
    projection: ClassVar[Projection | None] = "none"
    truncates: ClassVar[bool] = True

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return frozenset({"responses"})

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        assert responses is not None
        patches = Regressors.of_patches(weight, bias, responses)
        # the layer's responses say all that matters of its patches, except where they are the longer ones
        direct = layer.patch_size < layer.out_channels
        solution = best_map(
            responses,
            patches if direct else patches.responses(),
            rank=ranks[0],
            symmetric=self.symmetric,
            nonlinear=self.nonlinear and layer.activation == "relu",
            judge=self.judge,
        )
        mapping = solution.map if direct else patches.lifted(solution.map)
        return self._factors(layer, mapping, solution.errors, solution.chosen)
