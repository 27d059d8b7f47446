"""What torch lacks, in plain torch; the sources of these classes are copied into model.py where needed.

They hold the parameters and buffers of the classes they stand for, under the same names.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F  # noqa: N812  # as the generated file has it
from torch import Tensor, nn


class Block(nn.Module):
    """Holds layers, parameters and buffers under the names they are given by."""

    def __init__(self, /, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.register_buffer(name, part)


class ChannelOrder(nn.Module):
    """Puts channels into another order: channel i of the output is channel ``order[i]`` of the input."""

    order: Tensor

    def __init__(self, channels: int, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("order", torch.arange(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Reorder the channels."""
        return x.index_select(self.dim, self.order)


class StochasticDepth(nn.Module):
    """Leaves out whole images of a residual branch ("row") or the whole batch ("batch") while training."""

    def __init__(self, p: float, mode: str = "row", *, scaled: bool = True) -> None:
        super().__init__()
        self.p, self.mode, self.scaled = p, mode, scaled

    def forward(self, x: Tensor) -> Tensor:
        """Zero at random, in training mode only; what is left is scaled up, so that the mean stays."""
        if not self.training or self.p == 0:
            return x
        kept = 1 - self.p
        size = [x.shape[0] if self.mode == "row" else 1] + [1] * (x.ndim - 1)
        noise = x.new_empty(size).bernoulli_(kept)
        return x * (noise / kept if self.scaled and kept > 0 else noise)


class SameConv2d(nn.Conv2d):
    """Pads as TensorFlow does: by what this image size needs, the odd pixel below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve."""
        padding: list[int] = []
        for axis in (1, 0):
            size, stride = x.shape[2 + axis], self.stride[axis]
            extent = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            missing = max((-(-size // stride) - 1) * stride + extent - size, 0)
            padding += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, padding), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class TopologicalConv2d(nn.Module):
    """A convolution whose channels lie on a grid; each output reads only a window of ``neighbours`` of them.

    Outputs are computed in tiles, blocks of the grid: each is one group of a grouped convolution on all
    inputs that some output of it reads. ``weight`` has only the weights that exist.
    """

    inputs: Tensor
    order: Tensor
    restored: Tensor
    places: Tensor

    def __init__(
        self,
        grid: Sequence[int],
        neighbours: Sequence[int],
        tile: Sequence[int],
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.padding_mode = "constant" if padding_mode == "zeros" else padding_mode
        self.weight = nn.Parameter(torch.empty(prod(grid), prod(neighbours), *kernel_size))
        self.bias = nn.Parameter(torch.empty(prod(grid))) if bias else None
        bound = self.weight[0].numel() ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        outputs, inputs, places, spans = [], [], [], []
        for size, window, block in zip(grid, neighbours, tile, strict=True):
            span = min(size, block + window - 1)
            start = torch.arange(0, size, block)
            first = torch.zeros_like(start) if span == size else start
            own = torch.arange(size)[:, None] - first.repeat_interleave(block)[:, None]
            outputs.append(start[:, None] + torch.arange(block))
            inputs.append((first[:, None] + torch.arange(span)) % size)
            places.append((own + torch.arange(window)) % size)
            spans.append(span)
        order = self._on_grid(outputs, grid)
        restored = order.flatten().argsort()
        self.groups, self.union = len(order), prod(spans)
        found = self._on_grid(places, spans) + self.union * restored[:, None]
        # these follow from the arguments, so they aren't part of the state
        self.register_buffer("inputs", self._on_grid(inputs, grid).flatten(), persistent=False)
        self.register_buffer("order", order.flatten(), persistent=False)
        self.register_buffer("restored", restored, persistent=False)
        self.register_buffer("places", found.flatten(), persistent=False)
        self.regroups = not torch.equal(self.inputs, torch.arange(prod(grid)))
        self.reorders = not torch.equal(self.order, torch.arange(prod(grid)))

    @staticmethod
    def _on_grid(axes: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
        table = torch.zeros(1, 1, dtype=torch.int64)
        for axis, size in zip(axes, sizes, strict=True):
            table = table[:, None, :, None] * size + axis[None, :, None, :]
            table = table.flatten(2).flatten(0, 1)
        return table

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, tile by tile."""
        kernels = self.weight.flatten(0, 1)
        weight = kernels.new_zeros(len(self.order) * self.union, *self.kernel_size)
        weight = weight.index_copy(0, self.places, kernels).view(
            len(self.order), self.union, *self.kernel_size
        )
        bias: Tensor | None = self.bias
        if self.regroups:
            x = x.index_select(1, self.inputs)
        if self.reorders and bias is not None:
            bias = bias.index_select(0, self.order)
        above, below, left, right = self.padding
        if self.padding_mode == "constant" and (above, left) == (below, right):
            y = F.conv2d(x, weight, bias, self.stride, (above, left), self.dilation, self.groups)
        else:
            x = F.pad(x, (left, right, above, below), self.padding_mode)
            y = F.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)
        return y.index_select(1, self.restored) if self.reorders else y
