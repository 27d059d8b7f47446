"""Blocks of pixels reduced to one and brought back, with a 1 x 1 between."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Decomposition, Factors, Need, Ranks
from cnncompress.decompositions.chains import Block, Step, unsupported
from cnncompress.decompositions.registry import check_options, option, register
from cnncompress.decompositions.sic_windows import fitted_line, unmatched
from cnncompress.decompositions.solutions import RIDGE, relative_error
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.layers.spatial_bottleneck import SpatialBottleneck2d
from cnncompress.responses import Responses, Samples, Statistics
from cnncompress.sampling import Blocks, paddings
from cnncompress.solvers import Array
from cnncompress.solvers.pixel_blocks import BlockFactors, block_means
from cnncompress.solvers.spatial_bottleneck import BlockSettings, fit_spatial_bottleneck


@register
@dataclass(frozen=True, kw_only=True)
class SpatialBottleneck(Decomposition):
    """A 1 x 1 at a lower resolution (Wang et al., https://arxiv.org/abs/1608.04337v1, section 2.4).

    c + d + c d / k² multiply-accumulates a pixel, for blocks of k x k pixels. It sees nothing beyond a block
    and answers a block with one number an output: for high resolutions and smooth maps, and never without
    fine-tuning. There is nothing to choose by a rank. Errors are those of whole blocks: rows and columns that
    fill none, and blocks that begin before the image, fare worse and are neither fitted nor judged.

    Attributes:
        kernel: rows and columns of a block (the paper's k).
        padding: how far the first block begins before the image; of two layers in sequence the paper pads the
            second, so that edges of blocks don't coincide.
        residual: add the layer's input.
        rounds: fits to targets that follow the rectifier, at most.
        sweeps: alternations of the three factors in each of them, at most.
    """

    kernel: int = option(2, symbol="k", least=2)
    padding: int = option(0, symbol="p", least=0)
    residual: bool = False
    rounds: int = option(5, least=0)
    sweeps: int = option(30, least=1)
    name: ClassVar[str] = "spatial-bottleneck"
    fallback: ClassVar[str | None] = None
    rank_names: ClassVar[tuple[str, ...]] = ("setting",)
    descends: ClassVar[bool] = False
    convolves: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.padding >= self.kernel:
            raise OptionError(
                f"{self.name}: option padding (p) must be less than kernel (k), {self.kernel}, "
                f"got {self.padding}"
            )

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return frozenset({"responses"})

    @property
    @override
    def exact(self) -> bool:
        return False

    @property
    @override
    def blocks(self) -> Blocks:
        return Blocks(self.kernel, self.padding)

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if layer.kind == "linear":
            return "it is linear: it has no pixels"
        if layer.stride != (1, 1):
            return f"its stride is {layer.stride[0]} x {layer.stride[1]}; it must be 1"
        if self.padding and layer.padding_mode != "zeros":
            return f"its padding is {layer.padding_mode}; blocks that begin before the image need zeros"
        first = (self.kernel - self.padding) % self.kernel
        if min(layer.output_size) < first + self.kernel:
            rows, columns = layer.output_size
            return f"its map of {rows} x {columns} is too small for a whole block (k = {self.kernel})"
        return unsupported(layer) or _displaced(layer) or (unmatched(layer) if self.residual else "")

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (1,)

    @override
    def asked(self, layer: LayerInfo) -> Ranks | None:
        return (1,)

    @override
    def rank_step(self, layer: LayerInfo, step: int) -> int:
        return 1

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        return (np.ones(1),)

    @override
    def kept(
        self, layer: LayerInfo, weight: Array, statistics: Statistics | None, settings: Sequence[Ranks]
    ) -> NDArray[np.float64]:
        # outputs of a block are alike: of white inputs it keeps what kernels have in common with their mean
        mean, square = weight.sum((2, 3)) ** 2, (weight**2).sum()
        share = float(mean.sum() / square / np.prod(layer.kernel_size)) if square > 0 else 1.0
        return np.full(len(settings), share)

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        def make() -> SpatialBottleneck2d:
            return SpatialBottleneck2d(
                layer.in_channels,
                layer.out_channels,
                self.kernel,
                self.padding,
                residual=self.residual,
                activation=False,
            )

        return (Block(make),)

    @override
    def fit(
        self, layer: LayerInfo, weight: Array, bias: Array, responses: Responses | None, ranks: Ranks
    ) -> Factors:
        assert responses is not None
        xp, positions = array_namespace(weight), self.kernel**2
        prior = xp.sum(weight, axis=(2, 3))
        if self.residual:
            prior = prior - xp.eye(prior.shape[0], dtype=prior.dtype, device=device(prior))
        settings = BlockSettings(
            residual=self.residual,
            rectified=layer.activation == "relu",
            ridge=RIDGE,
            rounds=self.rounds,
            sweeps=self.sweeps,
        )
        read, target = (_by_block(values, positions) for values in _places(layer, responses.fit))
        found = fit_spatial_bottleneck(read, target, settings, prior=prior)
        tried = {"weight": block_means(prior, bias, positions=positions), "responses": found.factors}
        judged = _by_block(_places(layer, responses.held_out)[0], positions)
        errors = {
            kind: relative_error(responses, _by_sample(self._answer(factors, judged)))
            for kind, factors in tried.items()
        }
        chosen = min(errors, key=lambda kind: errors[kind])
        notes = (fitted_line(found.history), *self._left_out(layer))
        return replace(self._factors(tried[chosen]), errors=errors, chosen=chosen, notes=notes)

    def _answer(self, factors: BlockFactors, blocks: Array) -> Array:
        return factors(blocks) + blocks if self.residual else factors(blocks)

    def _left_out(self, layer: LayerInfo) -> tuple[str, ...]:
        first = (self.kernel - self.padding) % self.kernel
        rows, columns = ((size - first) // self.kernel * self.kernel for size in layer.output_size)
        share = 1 - rows * columns / (layer.output_size[0] * layer.output_size[1])
        if share == 0:
            return ()
        return (f"errors are those of whole blocks; {share:.0%} of the map, at its border, is in none",)

    def _factors(self, factors: BlockFactors) -> Factors:
        xp, side = array_namespace(factors.down), (1, self.kernel, self.kernel)
        down, up = (xp.reshape(part, (part.shape[0], *side)) for part in (factors.down, factors.up))
        return Factors((down, factors.pointwise[:, :, None, None], up), factors.bias)


def _displaced(layer: LayerInfo) -> str:
    """Why outputs don't lie on the inputs of the same place."""
    (rows, columns), (down, across) = layer.kernel_size, layer.dilation
    above, left = down * (rows // 2), across * (columns // 2)
    if rows % 2 and columns % 2 and paddings(layer) == (left, left, above, above):
        return ""
    return (
        f"its kernel is {rows} x {columns} with padding {layer.padding}; "
        "sides must be odd and padded so that the map keeps its size"
    )


def _places(layer: LayerInfo, samples: Samples) -> tuple[Array, Array]:
    """What a layer reads at the sampled places themselves, and the true responses there."""
    xp, (rows, columns) = array_namespace(samples.patches), layer.kernel_size
    by_place = xp.reshape(samples.patches, (layer.in_channels, rows * columns, -1))
    return by_place[:, rows // 2 * columns + columns // 2, :], samples.target


def _by_block(values: Array, positions: int) -> Array:
    """(channels, samples) to (channels, positions of a block, blocks)."""
    xp = array_namespace(values)
    return xp.permute_dims(xp.reshape(values, (values.shape[0], -1, positions)), (0, 2, 1))


def _by_sample(blocks: Array) -> Array:
    """(channels, positions of a block, blocks) to (channels, samples)."""
    xp = array_namespace(blocks)
    return xp.reshape(xp.permute_dims(blocks, (0, 2, 1)), (blocks.shape[0], -1))
