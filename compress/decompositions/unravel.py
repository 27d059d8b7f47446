"""Depthwise filters, then a 1 x 1: unravelled convolution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace
from typing_extensions import override

from cnncompress.decompositions.base import Factors, Ranks
from cnncompress.decompositions.chains import Link, Step, unsupported
from cnncompress.decompositions.from_moments import Fitted, FromMoments
from cnncompress.decompositions.registry import option, register
from cnncompress.decompositions.weighted import folded
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.joint_moments import Covariances
from cnncompress.solvers.separable import Separable, fit_separable, separable_energies, separate


@register
@dataclass(frozen=True, kw_only=True)
class Unravel(FromMoments):
    """Filters of each input channel alone, then a 1 x 1 (Wang et al., section 2.2.1).

    ``bases`` (k² + d) c h w multiply-accumulates. Exact once every channel has as many bases as its filters
    have ranks: at k² of them always.

    Attributes:
        bases: filters of each input channel (the paper's b); None lets the planner choose.
        sweeps: alternations of the two factors on responses, at most.
    """

    bases: int | None = option(None, symbol="b", least=1)
    sweeps: int = option(20, least=1)
    name: ClassVar[str] = "unravel"
    fallback: ClassVar[str | None] = "svd-out"
    rank_names: ClassVar[tuple[str, ...]] = ("bases",)

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if layer.patch_size == layer.in_channels:
            return "its kernel is 1 x 1: there is nothing to unravel"
        return unsupported(layer)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (min(layer.patch_size // layer.in_channels, layer.out_channels),)

    @override
    def asked(self, layer: LayerInfo) -> Ranks | None:
        return None if self.bases is None else (self.bases,)

    @override
    def rank_step(self, layer: LayerInfo, step: int) -> int:
        return 1  # each basis is a filter of every channel

    @override
    def settings(self, layer: LayerInfo, step: int) -> tuple[Ranks, ...]:
        return super().settings(layer, 1)

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        return (separable_energies(folded(weight)),)

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        filters = layer.in_channels * ranks[0]
        return (
            Link("whole", layer.in_channels, filters, groups=layer.in_channels),
            Link("pointwise", filters, layer.out_channels, bias=True),
        )

    @override
    def on_weight(self, layer: LayerInfo, weight: Array, bias: Array, ranks: Ranks) -> Fitted:
        return _fitted(layer, separate(folded(weight), bases=ranks[0]), bias)

    @override
    def on_moments(
        self, layer: LayerInfo, weight: Array, covariances: Covariances, ranks: Ranks, start: Fitted
    ) -> Mapping[str, Fitted]:
        first = separate(folded(weight), bases=ranks[0])
        factors = fit_separable(covariances, first, sweeps=self.sweeps).factors
        return {"responses": _fitted(layer, factors, covariances.bias(factors.weight))}


def _fitted(layer: LayerInfo, factors: Separable, bias: Array) -> Fitted:
    xp = array_namespace(bias)
    depthwise = xp.reshape(factors.depthwise, (-1, 1, *layer.kernel_size))
    return Fitted(Factors((depthwise, factors.pointwise[:, :, None, None]), bias), factors.weight, bias)
