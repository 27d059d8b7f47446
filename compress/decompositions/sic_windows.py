"""What the methods made of single intra-channel convolutions share: kernels, crops and layers."""

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace, device
from typing_extensions import override

from cnncompress.decompositions.base import Decomposition, Need
from cnncompress.decompositions.chains import unsupported
from cnncompress.decompositions.registry import check_options, option
from cnncompress.decompositions.solutions import RIDGE
from cnncompress.decompositions.weighted import folded
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Samples
from cnncompress.sampling import paddings
from cnncompress.solvers import Array
from cnncompress.solvers.separable import separate
from cnncompress.solvers.sic import LayerSettings
from cnncompress.solvers.sic_layers import Crops, IntraChannel

REACH = 4
"""Pixels that stacked filters may look to each side: crops of the samples grow with its square."""


@dataclass(frozen=True, kw_only=True)
class IntraChannelMethod(Decomposition):
    """A method whose filters may be larger than the layer's kernel, and may be stacked.

    Attributes:
        kernel: rows and columns of the filters (the papers' k), odd; None for the layer's own.
        residual: add the layer's input to the first convolution too. Layers that were trained without lose by
            it: a single filter a channel has to take away the input first (conv3_3 of a VGG-16, CIFAR-10: an
            error of .33 instead of .20).
        rounds: fits of a convolution to targets that follow the rectifier, at most.
        sweeps: alternations of filters and 1 x 1 in each of them, at most.
    """

    kernel: int | None = option(None, symbol="k", least=3)
    residual: bool = False
    rounds: int = option(3, least=0)
    sweeps: int = option(20, least=1)
    name: ClassVar[str]
    fallback: ClassVar[str | None] = "svd-out"
    convolves: ClassVar[bool] = False
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.kernel is not None and self.kernel % 2 == 0:
            raise OptionError(f"{self.name}: option kernel (k) is an odd number, got {self.kernel}")

    @property
    @override
    def needs(self) -> frozenset[Need]:
        return frozenset({"responses"})

    @property
    @override
    def exact(self) -> bool:
        return False

    def filter_size(self, layer: LayerInfo) -> int:
        """Rows and columns of the filters.

        Args:
            layer: with a square kernel.

        Returns:
            The option's value, or the layer's.
        """
        return layer.kernel_size[0] if self.kernel is None else self.kernel

    def misshapen(self, layer: LayerInfo) -> str:
        """Why filters can't take the kernel's place.

        Args:
            layer: the layer.

        Returns:
            The reason, or an empty string.
        """
        rows, columns = layer.kernel_size
        if layer.patch_size == layer.in_channels:
            return "its kernel is 1 x 1: there is nothing to filter"
        if rows != columns or rows % 2 == 0:
            return f"its kernel is {rows} x {columns}; only odd squares are supported (unravel takes others)"
        if self.kernel is not None and self.kernel < rows:
            return f"its kernel is {rows} x {columns}; kernel (k) must be at least that, got {self.kernel}"
        if self.filter_size(layer) // 2 > REACH:
            return f"filters of {self.filter_size(layer)} pixels are supported up to {2 * REACH + 1}"
        return unsupported(layer)

    def layer_settings(self, layer: LayerInfo, *, bases: int = 1) -> LayerSettings:
        """How convolutions are fitted.

        Args:
            layer: the layer.
            bases: filters of each channel.

        Returns:
            Settings of the solvers.
        """
        return LayerSettings(
            kernel=self.filter_size(layer),
            filters=bases,
            rectified=layer.activation == "relu",
            ridge=RIDGE,
            rounds=self.rounds,
            sweeps=self.sweeps,
        )

    def prior(self, layer: LayerInfo, weight: Array) -> Array:
        """The weight that the convolutions stand for, at the size of the filters.

        Args:
            layer: the layer.
            weight: shape (out_channels, in_channels, kernel, kernel).

        Returns:
            Shape (out_channels, in_channels, filter size, filter size); without what a residual gives.
        """
        xp, size = array_namespace(weight), self.filter_size(layer)
        margin = (size - weight.shape[2]) // 2
        whole = xp.zeros((*weight.shape[:2], size, size), dtype=weight.dtype, device=device(weight))
        whole[:, :, margin : size - margin, margin : size - margin] = weight
        if self.residual:
            whole[:, :, size // 2, size // 2] -= xp.eye(
                weight.shape[0], dtype=weight.dtype, device=device(weight)
            )
        return whole


def moved(layer: LayerInfo) -> str:
    """Why a layer's input and output don't lie on each other, as stacks and larger filters need.

    Args:
        layer: with an odd, square kernel.

    Returns:
        The reason, or an empty string.
    """
    if layer.stride != (1, 1):
        return f"its stride is {layer.stride[0]} x {layer.stride[1]}; it must be 1"
    if layer.dilation != (1, 1):
        return f"its dilation is {layer.dilation[0]} x {layer.dilation[1]}; it must be 1"
    if layer.padding_mode != "zeros":
        return f"its padding is {layer.padding_mode}; it must be of zeros"
    half = layer.kernel_size[0] // 2
    if paddings(layer) != (half,) * 4:
        return f"its padding is {layer.padding}; it must be {half}, which keeps the map's size"
    return ""


def unmatched(layer: LayerInfo) -> str:
    """Why a residual is impossible.

    Args:
        layer: the layer.

    Returns:
        The reason, or an empty string.
    """
    if layer.in_channels == layer.out_channels:
        return ""
    return (
        f"it has {layer.in_channels} inputs and {layer.out_channels} outputs; "
        "a residual needs as many of one as of the other"
    )


def crops_of(samples: Samples, channels: int) -> Crops:
    """Samples with a margin as crops.

    Args:
        samples: of the layer.
        channels: of its input.

    Returns:
        The crops.
    """
    xp = array_namespace(samples.patches)
    entries, count = samples.patches.shape
    side = round((entries // channels) ** 0.5)
    inside = None if samples.inside is None else xp.reshape(samples.inside, (side, side, count))
    return Crops(xp.reshape(samples.patches, (channels, side, side, count)), inside)


def on_weight(prior: Array, bias: Array, *, bases: int = 1, residual: bool = False) -> IntraChannel:
    """The convolution that comes closest to a weight.

    Args:
        prior: the weight, without what a residual gives, shape (outputs, channels, kernel, kernel).
        bias: shape (outputs,).
        bases: filters of each channel.
        residual: whether the input is added.

    Returns:
        Leading singular vectors of each channel.
    """
    xp, factors = array_namespace(prior), separate(folded(prior), bases=bases)
    filters = xp.reshape(factors.depthwise, (prior.shape[1], bases, *prior.shape[2:]))
    return IntraChannel(filters, factors.pointwise, bias, residual)


def passing(channels: int, kernel: int, *, like: Array) -> IntraChannel:
    """A convolution that adds nothing to its input; its filter lets fine-tuning begin.

    Args:
        channels: of input and output.
        kernel: rows and columns of the filters.
        like: gives library, type and device.

    Returns:
        The convolution.
    """
    xp, kind = array_namespace(like), {"dtype": like.dtype, "device": device(like)}
    delta = xp.zeros((channels, 1, kernel, kernel), **kind)
    delta[:, :, kernel // 2, kernel // 2] = 1.0
    return IntraChannel(
        delta, xp.zeros((channels, channels), **kind), xp.zeros(channels, **kind), residual=True
    )


def parameters(convolution: IntraChannel) -> tuple[Array, Array]:
    """Weights of the two torch layers that a convolution is made of.

    Args:
        convolution: as it was fitted.

    Returns:
        Shapes (channels * bases, 1, kernel, kernel) and (outputs, channels * bases, 1, 1).
    """
    xp, filters = array_namespace(convolution.depthwise), convolution.depthwise
    return xp.reshape(filters, (-1, 1, *filters.shape[2:])), convolution.pointwise[:, :, None, None]


def fitted_line(history: tuple[float, ...]) -> str:
    """What a user reads of a fit.

    Args:
        history: squared errors after the activation, relative.

    Returns:
        One sentence.
    """
    return "squared error on the fitted samples: " + ", ".join(f"{error:.4f}" for error in history)
