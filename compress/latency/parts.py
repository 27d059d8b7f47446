"""What is timed: one convolution, linear layer or other module on one shape of input."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any, Literal

import torch
from torch import nn

from cnncompress.decompositions.chains import Block, Link, Reorder, Shuffle, Step, build_chain
from cnncompress.inspect import LayerInfo

Sides = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing to time; equal parts take equal time.

    Attributes:
        kind: ``"module"`` for anything but a convolution or a linear layer.
        in_channels: channels of the input.
        out_channels: channels of the output.
        input_size: height and width of the input; rows of a linear layer's are (1, rows).
        kernel_size: height and width.
        stride: vertical and horizontal.
        padding: zeros before and after the rows, before and after the columns.
        dilation: vertical and horizontal.
        groups: of the convolution.
        padding_mode: as torch has it.
        bias: whether there is one.
        label: what tells a module from others.
        make: builds the module; not compared, and unknown of parts that come from a file.
    """

    kind: Literal["conv2d", "linear", "module"]
    in_channels: int
    out_channels: int
    input_size: Sides
    kernel_size: Sides = (1, 1)
    stride: Sides = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Sides = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"
    bias: bool = False
    label: str = ""
    make: Callable[[], nn.Module] | None = field(default=None, compare=False, repr=False)

    @property
    def family(self) -> "Part":
        """The part without its numbers of channels, by which alone members of a family differ."""
        return replace(self, in_channels=0, out_channels=0, make=None)

    @property
    def output_size(self) -> Sides:
        """Height and width of the output; a module's are taken to be those of its input."""
        before, after = self.padding[::2], self.padding[1::2]
        axes = zip(self.input_size, before, after, self.dilation, self.kernel_size, self.stride, strict=True)
        height, width = (
            (size + low + high - spread * (side - 1) - 1) // step + 1
            for size, low, high, spread, side, step in axes
        )
        return (height, width)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; meaningless for modules."""
        weights = self.in_channels // self.groups * self.out_channels * prod(self.kernel_size)
        return weights * prod(self.output_size)

    @property
    def bytes(self) -> int:
        """Memory of its weights and of one image in and out, four bytes a number."""
        weights = self.in_channels // self.groups * self.out_channels * prod(self.kernel_size)
        images = self.in_channels * prod(self.input_size) + self.out_channels * prod(self.output_size)
        return 4 * (weights + images)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            One entry for each compared field.
        """
        return {key: value for key, value in asdict(replace(self, make=None)).items() if key != "make"}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Part":
        """Read what `to_json` gave.

        Args:
            values: with lists for tuples; other fields are a `TypeError`.

        Returns:
            The part, without the means to build a module.
        """
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


def layer_part(layer: LayerInfo) -> Part:
    """The layer itself.

    Args:
        layer: the layer.

    Returns:
        What to time.
    """
    whole = Link("whole", layer.in_channels, layer.out_channels, groups=layer.groups, bias=layer.bias)
    return step_part(layer, whole, layer.input_size, layer.in_channels, layer.out_channels)


Placed = tuple[Step, Sides, int, int]


def placed_steps(layer: LayerInfo, steps: Sequence[Step]) -> Iterator[Placed]:
    """The steps of a chain with the inputs that they get.

    Only along the axes that a step covers has the map been strided and padded behind it.

    Args:
        layer: the layer that is replaced.
        steps: of the chain.

    Yields:
        Each step, the height and width of its input, its input channels and output channels.
    """
    size, channels = layer.input_size, layer.in_channels
    for place, step in enumerate(steps):
        after = step.outputs if isinstance(step, Link) else channels
        if isinstance(step, Block):
            after = _read_by(steps[place + 1 :], layer)
        yield step, size, channels, after
        vertical, horizontal = (False, False)
        if isinstance(step, Link):
            vertical, horizontal = step.covers
        elif isinstance(step, Block):
            vertical, horizontal = True, True
        size = (
            layer.output_size[0] if vertical else size[0],
            layer.output_size[1] if horizontal else size[1],
        )
        channels = after


def _read_by(steps: Sequence[Step], layer: LayerInfo) -> int:
    """Channels that the next step with a number of its own reads; the layer's outputs behind the last."""
    for step in steps:
        if isinstance(step, Link):
            return step.inputs
        if isinstance(step, Reorder):
            return step.channels
    return layer.out_channels


def step_part(layer: LayerInfo, step: Step, size: Sides, inputs: int, outputs: int) -> Part:
    """What to time for a step of a chain.

    Args:
        layer: the layer that is replaced.
        step: of the chain.
        size: height and width of the step's input.
        inputs: its input channels.
        outputs: its output channels.

    Returns:
        What to time.
    """
    if not isinstance(step, Link):
        return Part(
            kind="module",
            in_channels=inputs,
            out_channels=outputs,
            input_size=size,
            label=_label(step),
            make=lambda: build_chain(layer, (step,))[0],
        )
    if layer.kind == "linear":
        return Part(kind="linear", in_channels=inputs, out_channels=outputs, input_size=size, bias=step.bias)
    with torch.device("meta"):
        convolution: Any = build_chain(layer, (step,))[0]
    return Part(
        kind="conv2d",
        in_channels=inputs,
        out_channels=outputs,
        input_size=size,
        kernel_size=convolution.kernel_size,
        stride=convolution.stride,
        padding=_zeros(convolution),
        dilation=convolution.dilation,
        groups=convolution.groups,
        padding_mode=convolution.padding_mode,
        bias=step.bias,
    )


def _zeros(convolution: nn.Conv2d) -> tuple[int, int, int, int]:
    padding: Any = convolution.padding
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":  # where the sum is odd, torch pads more behind
        top, left = (
            spread * (side - 1)
            for spread, side in zip(convolution.dilation, convolution.kernel_size, strict=True)
        )
        return (top // 2, top - top // 2, left // 2, left - left // 2)
    return (padding[0], padding[0], padding[1], padding[1])


def _label(step: Reorder | Shuffle | Block) -> str:
    if isinstance(step, Block):
        module = step.outline()
        shapes = [tuple(tensor.shape) for tensor in module.state_dict().values()]
        return f"{module!r} {shapes}"
    return type(step).__name__ if isinstance(step, Reorder) else repr(step)
