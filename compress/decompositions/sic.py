"""Single intra-channel convolutions, one after the other or side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from cnncompress.decompositions.base import Factors, Need, Ranks, cumulative_share
from cnncompress.decompositions.chains import Block, Step
from cnncompress.decompositions.registry import option, register
from cnncompress.decompositions.sic_windows import (
    REACH,
    IntraChannelMethod,
    crops_of,
    fitted_line,
    moved,
    on_weight,
    parameters,
    passing,
    unmatched,
)
from cnncompress.decompositions.solutions import relative_error
from cnncompress.decompositions.weighted import folded
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.layers.sic import SICConv2d
from cnncompress.layers.unraveled import UnraveledConv2d
from cnncompress.responses import Responses, Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.separable import separable_energies
from cnncompress.solvers.sic import fit_stack
from cnncompress.solvers.sic_layers import IntraChannel, stacked

Kind = Literal["sequential", "parallel"]
KINDS = get_args(Kind)


@register
@dataclass(frozen=True, kw_only=True)
class SIC(IntraChannelMethod):
    """Layers r(x + P (B * x)) in sequence (Wang et al., https://arxiv.org/abs/1608.04337, section 2.2.2).

    Each of the ``bases`` layers costs (k² + d) d h w multiply-accumulates, the first one (k² + d) c h w. They
    are fitted one after the other to what is left of the true responses behind the rectifier; where no
    rectifier follows the layer, there is none between them either. As many of them are used as held-out
    images gain by; the others pass their input on, until fine-tuning changes that.

    ``"parallel"`` bases are those of `Unravel`, in one layer, fitted behind the rectifier; exact at k² of
    them. Before fine-tuning they come closer: on conv3_3 of a VGG-16 (CIFAR-10, 4.3x) two in sequence leave a
    squared error of .18, two side by side .10.

    Attributes:
        bases: layers, or filters side by side (the paper's b); None lets the planner choose.
        kind: ``"sequential"`` or ``"parallel"``.
        data: fit to the true responses, on what the compressed prefix delivers; without it no image is read.
    """

    bases: int | None = option(None, symbol="b", least=1)
    kind: Kind = "sequential"
    data: bool = True
    name: ClassVar[str] = "sic"
    rank_names: ClassVar[tuple[str, ...]] = ("bases",)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise OptionError(f"sic: option kind is one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind == "parallel" and self.residual:
            raise OptionError("sic: option residual goes with kind sequential")

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return super().needs if self.data else frozenset()

    @property
    @override
    def exact(self) -> bool:
        return self.kind == "parallel"

    def _length(self, ranks: Ranks) -> int:
        """Convolutions that follow each other."""
        return ranks[0] if self.kind == "sequential" else 1

    @override
    def margin(self, layer: LayerInfo, ranks: Ranks) -> int:
        return self._length(ranks) * (self.filter_size(layer) // 2) - layer.kernel_size[0] // 2

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if reason := self.misshapen(layer):
            return reason
        larger = self.filter_size(layer) > layer.kernel_size[0]
        sequence = self._length((self.bases or 1,)) > 1
        if (larger or sequence or self.residual) and (reason := moved(layer)):
            return reason
        return unmatched(layer) if self.residual else ""

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        if self.kind == "parallel":
            return (min(self.filter_size(layer) ** 2, layer.out_channels),)
        most = REACH // (self.filter_size(layer) // 2)
        return (1 if moved(layer) else max(1, most),)

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
        return (separable_energies(folded(weight))[: self.full_ranks(layer)[0]],)

    @override
    def kept(
        self, layer: LayerInfo, weight: Array, statistics: Statistics | None, settings: Sequence[Ranks]
    ) -> NDArray[np.float64]:
        # what as many bases side by side keep: the sequence has no linear counterpart
        share = cumulative_share(separable_energies(folded(weight)))
        return np.array([share[min(ranks[0], len(share)) - 1] for ranks in settings])

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        wide = self._widened(layer)
        inputs, outputs, size = layer.in_channels, layer.out_channels, wide.kernel_size
        window = (size, wide.stride, wide.padding, wide.dilation, True, wide.padding_mode)
        if self.kind == "parallel":
            return (Block(lambda: UnraveledConv2d(inputs, outputs, *window, bases=ranks[0])),)
        rectified, last = layer.activation == "relu", ranks[0] - 1

        def first() -> nn.Module:
            return SICConv2d(
                inputs, outputs, *window, residual=self.residual, activation=rectified and last > 0
            )

        def following(index: int) -> Block:
            return Block(lambda: SICConv2d(outputs, outputs, size, activation=rectified and index < last))

        return (Block(first), *(following(index) for index in range(1, ranks[0])))

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        prior, length = self.prior(layer, weight), self._length(ranks)
        filters = ranks[0] if self.kind == "parallel" else 1
        on_weights = on_weight(prior, bias, bases=filters, residual=self.residual)
        stacks = {"weight": _filled((on_weights,), length)}
        if responses is None or not self.data:
            return _factors(stacks["weight"])
        xp = array_namespace(prior)
        found = fit_stack(
            crops_of(responses.fit, layer.in_channels),
            responses.fit.target,
            bases=length,
            settings=self.layer_settings(layer, bases=filters),
            residual=self.residual,
            prior=xp.reshape(prior, (prior.shape[0], -1)),
        )
        for count in range(1, length + 1):
            stacks[_counted(count)] = _filled(found.layers[:count], length)
        judged, rectified = crops_of(responses.held_out, layer.in_channels), layer.activation == "relu"
        errors = {
            kind: relative_error(responses, stacked(stack, judged, rectified=rectified))
            for kind, stack in stacks.items()
        }
        chosen = min(errors, key=lambda kind: errors[kind])
        notes = (fitted_line(found.history),)
        return replace(_factors(stacks[chosen]), errors=errors, chosen=chosen, notes=notes)

    def _widened(self, layer: LayerInfo) -> LayerInfo:
        """The layer with a kernel as large as the filters."""
        size = self.filter_size(layer)
        if size == layer.kernel_size[0]:
            return layer
        return replace(layer, kernel_size=(size, size), padding=(size // 2, size // 2))


def _filled(convolutions: Sequence[IntraChannel], length: int) -> tuple[IntraChannel, ...]:
    """As many as there shall be: the last ones pass on what they read."""
    first, missing = convolutions[0], length - len(convolutions)
    rest = passing(first.pointwise.shape[0], first.kernel, like=first.pointwise)
    return (*convolutions, *(rest,) * missing)


def _counted(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _factors(stack: Sequence[IntraChannel]) -> Factors:
    weights = tuple(weight for convolution in stack for weight in parameters(convolution))
    biases = tuple(convolution.bias for convolution in stack)
    return Factors(weights, biases[-1], inner_biases=biases[:-1])
