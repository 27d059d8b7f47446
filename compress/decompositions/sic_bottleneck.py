"""Two single intra-channel convolutions with fewer channels between them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Factors, Ranks, cumulative_share
from cnncompress.decompositions.chains import Block, Step
from cnncompress.decompositions.registry import option, register
from cnncompress.decompositions.sic_windows import (
    IntraChannelMethod,
    crops_of,
    fitted_line,
    moved,
    on_weight,
    parameters,
    unmatched,
)
from cnncompress.decompositions.solutions import relative_error
from cnncompress.decompositions.weighted import folded
from cnncompress.inspect import LayerInfo
from cnncompress.layers.sic_bottleneck import SICBottleneck2d
from cnncompress.responses import Responses, Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.separable import separable_energies
from cnncompress.solvers.sic_bottleneck import Bottleneck, fit_bottleneck, split


@register
@dataclass(frozen=True, kw_only=True)
class SICBottleneck(IntraChannelMethod):
    """A layer with few channels between two depthwise filters (Wang et al., section 3.3).

    https://arxiv.org/abs/1608.04337. (c + n) k² + 2 c n multiply-accumulates a pixel for c channels and n
    between them; the paper has half as many there. The first convolution is the best single one, its 1 x 1
    split along the directions in which its responses vary most; the second is then fitted to the responses.

    Attributes:
        hidden: channels between the two; None lets the planner choose.
        inner_activation: rectify the channels between, as the paper does. A bias keeps that rectifier silent
            on the calibration images until fine-tuning changes it.
    """

    hidden: int | None = option(None, least=1)
    inner_activation: bool = True
    name: ClassVar[str] = "sic-bottleneck"
    rank_names: ClassVar[tuple[str, ...]] = ("hidden",)

    @override
    def margin(self, layer: LayerInfo, ranks: Ranks) -> int:
        return 2 * (self.filter_size(layer) // 2) - layer.kernel_size[0] // 2

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        return self.misshapen(layer) or moved(layer) or unmatched(layer)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (layer.in_channels,)

    @override
    def asked(self, layer: LayerInfo) -> Ranks | None:
        return None if self.hidden is None else (self.hidden,)

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        xp = array_namespace(weight)
        prior = self.prior(layer, weight)
        pointwise = on_weight(prior, prior[:, 0, 0, 0], residual=self.residual).pointwise
        return (xp.linalg.svdvals(xp.astype(pointwise, xp.float64)) ** 2,)

    @override
    def kept(
        self, layer: LayerInfo, weight: Array, statistics: Statistics | None, settings: Sequence[Ranks]
    ) -> NDArray[np.float64]:
        # of what a single filter a channel keeps
        single = cumulative_share(separable_energies(folded(weight)))[0]
        return np.asarray(single * super().kept(layer, weight, statistics, settings))

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        def make() -> SICBottleneck2d:
            return SICBottleneck2d(
                layer.in_channels,
                self.filter_size(layer),
                hidden=ranks[0],
                residual=self.residual,
                activation=False,
                inner_activation=self.inner_activation,
            )

        return (Block(make),)

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        assert responses is not None
        xp, prior = array_namespace(weight), self.prior(layer, weight)
        crops = crops_of(responses.fit, layer.in_channels)
        found = fit_bottleneck(
            crops,
            responses.fit.target,
            hidden=ranks[0],
            settings=self.layer_settings(layer),
            residual=self.residual,
            inner_rectified=self.inner_activation,
            prior=xp.reshape(prior, (prior.shape[0], -1)),
        )
        single = on_weight(prior, bias, residual=self.residual)
        pairs = {
            "weight": split(single, crops, hidden=ranks[0], inner_rectified=self.inner_activation),
            "responses": found.pair,
        }
        judged = crops_of(responses.held_out, layer.in_channels)
        errors = {kind: relative_error(responses, pair(judged)) for kind, pair in pairs.items()}
        chosen = min(errors, key=lambda kind: errors[kind])
        notes = (fitted_line(found.history),)
        return replace(_factors(pairs[chosen]), errors=errors, chosen=chosen, notes=notes)


def _factors(pair: Bottleneck) -> Factors:
    weights = (*parameters(pair.first), *parameters(pair.second))
    return Factors(weights, pair.second.bias, inner_biases=(pair.first.bias,))
