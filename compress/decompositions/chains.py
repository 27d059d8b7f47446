"""The layers that replacements are made of, and what they cost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import nn

from cnncompress.inspect import LayerInfo
from cnncompress.layers.channel_order import ChannelOrder

Part = Literal["whole", "vertical", "horizontal", "pointwise"]

_COVERS: dict[Part, tuple[bool, bool]] = {
    "whole": (True, True),
    "vertical": (True, False),
    "horizontal": (False, True),
    "pointwise": (False, False),
}


@dataclass(frozen=True)
class Link:
    """A convolution of a chain.

    Attributes:
        part: which spatial axes of the replaced kernel it covers; stride, padding, dilation and padding mode
            go with them.
        inputs: channels that it reads.
        outputs: channels that it writes.
        groups: of the convolution.
        bias: whether it has one.
    """

    part: Part
    inputs: int
    outputs: int
    groups: int = 1
    bias: bool = False

    @property
    def covers(self) -> tuple[bool, bool]:
        """Whether it covers the kernel's height and its width."""
        return _COVERS[self.part]


@dataclass(frozen=True)
class Reorder:
    """A permutation of channels.

    Attributes:
        channels: how many.
    """

    channels: int


@dataclass(frozen=True)
class Shuffle:
    """Channels (groups, n) become (n, groups).

    Attributes:
        groups: of channels before.
    """

    groups: int


@dataclass(frozen=True)
class Block:
    """One of `cnncompress.layers` that takes the place of a convolution; it does the layer's striding.

    Attributes:
        make: builds it with untrained weights; the module is a `cnncompress.layers.costs.Costed`.
    """

    make: Callable[[], nn.Module]

    def outline(self) -> Any:
        """The module without memory for its weights.

        Returns:
            As ``make`` gives it.
        """
        with torch.device("meta"):
            return self.make()


Step = Link | Reorder | Shuffle | Block


def build_chain(layer: LayerInfo, steps: Sequence[Step]) -> nn.Sequential:
    """A chain with untrained weights.

    Args:
        layer: the layer that is replaced.
        steps: of the chain.

    Returns:
        Convolutions, or linear layers for a linear one, and permutations of channels.
    """
    return nn.Sequential(*(_module(layer, step) for step in steps))


def _module(layer: LayerInfo, step: Step) -> nn.Module:
    match step:
        case Reorder(channels):
            return ChannelOrder(channels)
        case Shuffle(groups):
            return nn.ChannelShuffle(groups)
        case Block(make):
            return make()
        case Link() if layer.kind == "linear":
            return nn.Linear(step.inputs, step.outputs, bias=step.bias)
        case Link():
            return _convolution(layer, step)


def _convolution(layer: LayerInfo, link: Link) -> nn.Conv2d:
    def along(values: tuple[int, int], neutral: int) -> tuple[int, int]:
        vertical, horizontal = link.covers
        return (values[0] if vertical else neutral, values[1] if horizontal else neutral)

    padding: Any = layer.padding
    pointwise = link.part == "pointwise"
    if isinstance(padding, tuple):
        padding = along(padding, 0)
    elif pointwise:
        padding = 0
    return nn.Conv2d(
        link.inputs,
        link.outputs,
        along(layer.kernel_size, 1),
        stride=along(layer.stride, 1),
        padding=padding,
        dilation=along(layer.dilation, 1),
        groups=link.groups,
        bias=link.bias,
        padding_mode="zeros" if pointwise else layer.padding_mode,
    )


def chain_macs(layer: LayerInfo, steps: Sequence[Step]) -> int:
    """Multiply-accumulates of a chain.

    Each convolution runs on the grid that those before it have left: only along the axes that were covered
    the map has been strided and padded.

    Args:
        layer: the layer that is replaced.
        steps: of the chain.

    Returns:
        For one image.
    """
    total, rows, columns = 0, layer.input_size[0], layer.input_size[1]
    for step in _weighted(steps):
        vertical, horizontal = step.covers if isinstance(step, Link) else (True, True)
        if isinstance(step, Block):
            total += int(step.outline().macs(rows, columns))
        rows = layer.output_size[0] if vertical else rows
        columns = layer.output_size[1] if horizontal else columns
        if isinstance(step, Link):
            total += _weights(layer, step) * rows * columns
    return total


def chain_params(layer: LayerInfo, steps: Sequence[Step]) -> int:
    """Weights and biases of a chain; the indices of permutations don't count.

    Args:
        layer: the layer that is replaced.
        steps: of the chain.

    Returns:
        Their number.
    """
    return sum(
        _weights(layer, step) + step.bias * step.outputs
        if isinstance(step, Link)
        else sum(parameter.numel() for parameter in step.outline().parameters())
        for step in _weighted(steps)
    )


def _weighted(steps: Sequence[Step]) -> Iterator[Link | Block]:
    return (step for step in steps if isinstance(step, Link | Block))


def _weights(layer: LayerInfo, link: Link) -> int:
    kernel = prod(side for side, covered in zip(layer.kernel_size, link.covers, strict=True) if covered)
    return link.inputs // link.groups * link.outputs * kernel


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
