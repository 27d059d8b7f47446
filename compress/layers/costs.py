"""Multiply-accumulates of layers, counted as torch's flop counter does."""

from math import prod
from typing import Protocol, runtime_checkable

from torch import nn

from cnncompress.errors import OptionError
from cnncompress.layers.window import Window


@runtime_checkable
class Costed(Protocol):
    """A layer that knows what it costs."""

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of one image.

        Args:
            height: rows of the input.
            width: its columns.

        Returns:
            How many.
        """


def layer_macs(layer: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of a layer for one image.

    Args:
        layer: a Conv2d or a layer with a method ``macs``.
        height: rows of the input.
        width: its columns.

    Returns:
        One for each product of an input, padding included, and a weight; none for biases and the rest.

    Raises:
        OptionError: the layer doesn't tell, or the input is too small.
    """
    if isinstance(layer, Costed):
        return layer.macs(height, width)
    if isinstance(layer, nn.Conv2d):
        return layer.weight.numel() * prod(window_of(layer).output_size(height, width))
    raise OptionError(f"{type(layer).__name__}: needs a method macs(height, width) to be counted")


def window_of(layer: nn.Conv2d) -> Window:
    """The window of a torch layer.

    Args:
        layer: any convolution.

    Returns:
        Its arguments.

    Raises:
        OptionError: it has arguments that torch's constructor wouldn't take.
    """  # noqa: DOC502  # raised by Window.of
    height, width = layer.kernel_size
    sizes = [(size[0], size[-1]) for size in (layer.stride, layer.dilation)]
    padding = layer.padding if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[-1])
    return Window.of((height, width), sizes[0], padding, sizes[1], layer.padding_mode)
