"""Truncated singular value decompositions of the folded weight (Denton et al., section 3.2, eq. 4)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Factors, Need, Ranks, multiples
from cnncompress.decompositions.chains import Link, Step, unsupported
from cnncompress.decompositions.registry import register
from cnncompress.decompositions.weighted import ISOTROPIC, Branch, Weighted, folded
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses, Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.metric import SeparableMetric
from cnncompress.solvers.reduced_rank import descending_eigh
from cnncompress.solvers.svd import leading_vectors, squared_singular_values

_MOST_INPUTS = 8192


@dataclass(frozen=True)
class OutputFold:
    """``rank`` filters of the layer's own kernel, then a 1 x 1.

    Attributes:
        reader: the filters, shape (rank, in_channels * positions).
        last: the 1 x 1, shape (out_channels, rank).
        inputs: number of input channels.
    """

    reader: Array
    last: Array
    inputs: int

    @property
    def outputs(self) -> NDArray[np.int64]:
        """All outputs."""
        return np.arange(self.last.shape[0])

    @property
    def branches(self) -> Sequence[Branch]:
        """The only one is the chain itself."""
        return (self,)

    def features(self, patches: Array) -> Array:
        """Outputs of the filters; shapes as in `Branch`."""
        return self.reader @ patches

    def with_last(self, last: Sequence[Array]) -> "OutputFold":
        """The same filters with another 1 x 1."""
        return replace(self, last=last[0])

    def factors(self, kernel_size: tuple[int, int], bias: Array) -> Factors:
        """Weights of both convolutions."""
        xp = array_namespace(self.last)
        first = xp.reshape(self.reader, (-1, self.inputs, *kernel_size))
        return Factors((first, self.last[:, :, None, None]), bias)


@dataclass(frozen=True)
class InputFold:
    """A 1 x 1 to ``rank`` channels, then the layer's own kernel.

    Attributes:
        first: the 1 x 1, shape (rank, in_channels).
        last: the filters, shape (out_channels, rank * positions).
    """

    first: Array
    last: Array

    @property
    def outputs(self) -> NDArray[np.int64]:
        """All outputs."""
        return np.arange(self.last.shape[0])

    @property
    def branches(self) -> Sequence[Branch]:
        """The only one is the chain itself."""
        return (self,)

    def features(self, patches: Array) -> Array:
        """Patches of the 1 x 1's outputs; shapes as in `Branch`."""
        xp = array_namespace(patches)
        samples = patches.shape[1]
        by_channel = xp.reshape(patches, (self.first.shape[1], -1))
        return xp.reshape(self.first @ by_channel, (-1, samples))

    def with_last(self, last: Sequence[Array]) -> "InputFold":
        """The same 1 x 1 with other filters."""
        return replace(self, last=last[0])

    def factors(self, kernel_size: tuple[int, int], bias: Array) -> Factors:
        """Weights of both convolutions."""
        xp = array_namespace(self.last)
        last = xp.reshape(self.last, (self.last.shape[0], -1, *kernel_size))
        return Factors((self.first[:, :, None, None], last), bias)


@register
@dataclass(frozen=True, kw_only=True)
class SVDOut(Weighted):
    """k x k with fewer filters, then 1 x 1: rank (k² c + d) h w multiply-accumulates."""

    name: ClassVar[str] = "svd-out"
    aliases: ClassVar[tuple[str, ...]] = ("svd",)

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return super().needs - {"inputs"}  # patches tell more than their channels

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        return unsupported(layer)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (min(layer.out_channels, layer.patch_size),)

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        (rank,) = ranks
        return (
            Link("whole", layer.in_channels, rank),
            Link("pointwise", rank, layer.out_channels, bias=True),
        )

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        if self.metric == "data":
            assert statistics is not None
            return (statistics.outputs.spectrum[0][: self.full_ranks(layer)[0]],)
        tensor = folded(weight)
        weighed = self.metric_of(tensor, statistics).weigh(tensor)
        xp = array_namespace(weighed)
        return (squared_singular_values(xp.reshape(weighed, (-1, tensor.shape[2]))),)

    @override
    def on_data(self, tensor: Array, responses: Responses, ranks: Ranks) -> OutputFold:
        """Denton et al., eq. 3, with the covariance of whole patches: principal axes of what they give."""
        xp = array_namespace(tensor)
        inputs, positions, outputs = tensor.shape
        weight = xp.reshape(tensor, (inputs * positions, outputs)).T
        patches = responses.fit.patches
        given = weight @ patches
        moment = (given @ given.T) / patches.shape[1]
        plain = ISOTROPIC * xp.mean(patches * patches) * (weight @ weight.T)
        _, axes = descending_eigh(xp.astype(moment + plain, xp.float64))
        leading = xp.astype(axes[:, : ranks[0]], tensor.dtype)
        return OutputFold(leading.T @ weight, leading, inputs)

    @override
    def solve(self, tensor: Array, metric: SeparableMetric, ranks: Ranks) -> OutputFold:
        xp = array_namespace(tensor)
        inputs, positions, outputs = tensor.shape
        weighed = xp.reshape(metric.weigh(tensor), (inputs * positions, outputs))
        axes = leading_vectors(weighed.T, rank=ranks[0])
        # W A V V' / A: projecting on the leading vectors of the outputs leaves no root of the inputs to undo
        scale = xp.astype(xp.sqrt(metric.outputs), tensor.dtype)
        reader = xp.reshape(tensor, (inputs * positions, outputs)) @ (scale[:, None] * axes)
        return OutputFold(*_balanced(reader.T, axes / scale[:, None]), inputs)


@register
@dataclass(frozen=True, kw_only=True)
class SVDIn(Weighted):
    """1 x 1 to fewer channels, then k x k: rank (c H W + k² d h w) multiply-accumulates."""

    name: ClassVar[str] = "svd-in"

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if self.metric == "data" and layer.in_channels > _MOST_INPUTS:
            size = 8e-9 * layer.in_channels**2
            return (
                f"the moments of its {layer.in_channels} inputs take {size:.1f} GB; the data metric is for "
                f"at most {_MOST_INPUTS}; use svd-out or another metric"
            )
        return unsupported(layer)

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        positions = layer.patch_size // layer.in_channels
        return (min(layer.in_channels, positions * layer.out_channels),)

    @override
    def rank_step(self, layer: LayerInfo, step: int) -> int:
        return multiples(step, self.full_ranks(layer)[0])[0]

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        (rank,) = ranks
        return (
            Link("pointwise", layer.in_channels, rank),
            Link("whole", rank, layer.out_channels, bias=True),
        )

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        tensor = folded(weight)
        weighed = self.metric_of(tensor, statistics).weigh(tensor)
        xp = array_namespace(weighed)
        return (squared_singular_values(xp.reshape(weighed, (tensor.shape[0], -1))),)

    @override
    def solve(self, tensor: Array, metric: SeparableMetric, ranks: Ranks) -> InputFold:
        xp = array_namespace(tensor)
        inputs, positions, outputs = tensor.shape
        weighed = xp.reshape(metric.weigh(tensor), (inputs, -1))
        left = leading_vectors(weighed, rank=ranks[0])
        first = metric.unweigh_inputs(left).T
        scale = xp.sqrt(metric.spatial)[:, None] * xp.sqrt(metric.outputs)[None, :]
        rest = xp.reshape(left.T @ weighed, (-1, positions, outputs)) / xp.astype(scale, tensor.dtype)
        last = xp.reshape(xp.permute_dims(rest, (2, 0, 1)), (outputs, -1))
        return InputFold(first, last)


def _balanced(first: Array, last: Array) -> tuple[Array, Array]:
    """Give both vectors of each component the same norm, so that neither factor holds all of the scale."""
    xp = array_namespace(first, last)
    tiny = xp.finfo(first.dtype).tiny
    norms = xp.sqrt(xp.sum(first * first, axis=1) / xp.maximum(xp.sum(last * last, axis=0), xp.asarray(tiny)))
    root = xp.sqrt(xp.where(norms > 0, norms, xp.ones_like(norms)))
    return first / root[:, None], last * root[None, :]
