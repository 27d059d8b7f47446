"""The layers that replacements are made of, and what they cost."""

from math import prod
from typing import Any, Literal

from torch import nn

from cnncompress.inspect import LayerInfo

Part = Literal["whole", "vertical", "horizontal", "pointwise"]


def factor(
    layer: LayerInfo, part: Part, in_channels: int, out_channels: int, *, bias: bool
) -> nn.Conv2d | nn.Linear:
    """One layer of a replacement.

    Args:
        layer: the layer that is replaced.
        part: which of its spatial axes this factor covers.
        in_channels: of the factor.
        out_channels: of the factor.
        bias: whether it has one.

    Returns:
        A linear layer for a linear one, else a convolution that takes stride, padding, dilation and
        padding mode along the axes that it covers.
    """
    if layer.kind == "linear":
        return nn.Linear(in_channels, out_channels, bias=bias)
    covers = {"whole": (1, 1), "vertical": (1, 0), "horizontal": (0, 1), "pointwise": (0, 0)}[part]

    def along(values: tuple[int, int], neutral: int) -> tuple[int, int]:
        return (values[0] if covers[0] else neutral, values[1] if covers[1] else neutral)

    padding: Any = layer.padding
    if isinstance(padding, tuple):
        padding = along(padding, 0)
    elif part == "pointwise":
        padding = 0
    return nn.Conv2d(
        in_channels,
        out_channels,
        along(layer.kernel_size, 1),
        stride=along(layer.stride, 1),
        padding=padding,
        dilation=along(layer.dilation, 1),
        bias=bias,
        padding_mode="zeros" if part == "pointwise" else layer.padding_mode,
    )


def whole_macs(layer: LayerInfo, in_channels: int, out_channels: int) -> int:
    """Multiply-accumulates of a factor with the layer's own kernel and stride.

    Args:
        layer: the layer that is replaced.
        in_channels: of the factor.
        out_channels: of the factor.

    Returns:
        For one image.
    """
    return in_channels * out_channels * prod(layer.kernel_size) * prod(layer.output_size)


def vertical_macs(layer: LayerInfo, out_channels: int) -> int:
    """Multiply-accumulates of the k x 1 factor, which strides vertically only.

    Args:
        layer: the layer that is replaced.
        out_channels: of the factor.

    Returns:
        For one image.
    """
    width = _columns(layer)
    return layer.in_channels * out_channels * layer.kernel_size[0] * layer.output_size[0] * width


def _columns(layer: LayerInfo) -> int:
    """Width of the map between the k x 1 and the 1 x k factor: nothing is padded along it yet."""
    return layer.input_size[1]


def horizontal_macs(layer: LayerInfo, in_channels: int, out_channels: int) -> int:
    """Multiply-accumulates of the 1 x k factor.

    Args:
        layer: the layer that is replaced.
        in_channels: of the factor.
        out_channels: of the factor.

    Returns:
        For one image.
    """
    return in_channels * out_channels * layer.kernel_size[1] * prod(layer.output_size)


def pointwise_macs(layer: LayerInfo, in_channels: int, out_channels: int) -> int:
    """Multiply-accumulates of a 1 x 1 factor after the striding ones.

    Args:
        layer: the layer that is replaced.
        in_channels: of the factor.
        out_channels: of the factor.

    Returns:
        For one image.
    """
    return in_channels * out_channels * prod(layer.output_size)


def unsupported(layer: LayerInfo, *, spatial: bool = False) -> str:
    """What all chain-shaped replacements refuse.

    Args:
        layer: the layer.
        spatial: whether the method splits the kernel's two axes.

    Returns:
        The reason, or an empty string.
    """
    if layer.groups > 1:
        return f"it has {layer.groups} groups, only 1 is supported"
    if spatial and min(layer.kernel_size) == 1:
        return f"its kernel is {layer.kernel_size[0]} x {layer.kernel_size[1]}, both sides must exceed 1"
    return ""
