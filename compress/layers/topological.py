"""Convolutions whose channels lie on a grid, each output reading a window of it."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from cnncompress.errors import OptionError
from cnncompress.layers.channel_order import ChannelOrder, reordered
from cnncompress.layers.window import Pair, Window
from cnncompress.solvers.topology import Tiles, best_tile, neighbourhood, tile_channels


class TopologicalConv2d(nn.Module):
    """A convolution in which every output reads, and every input feeds, only ``prod(neighbours)`` channels.

    Input and output channels form the same grid, row by row. Output j reads the inputs i whose offset
    (i_a - j_a) mod d_a is below t_a along every axis a. Wang et al., "Factorized Convolutional Neural
    Networks", https://arxiv.org/abs/1608.04337, section 2.3, equation 8; algorithm 3 of its first version.

    Outputs are computed in tiles, blocks of the grid: each is one group of a grouped convolution on all
    inputs that some output of it reads. So ``macs``, what is executed, lies above ``theoretical_macs``, the
    paper's count, but never above a dense convolution's.

    ``weight`` has only the weights that exist, shape (n, prod(neighbours), kernel rows, kernel columns), its
    second axis ordered as `cnncompress.solvers.topology.neighbourhood`. They are put into their places within
    the tiles in each forward pass. Were the tiles' weights stored, with zeros between, an optimizer, an
    initialisation or a loaded state could fill the zeros, and parameters would be counted wrong. Where maps
    are small and images few, that takes longer than the convolution: for inference in torch use `grouped`,
    whose layers need none of it. In an exported ONNX file it is a constant, folded as the file is loaded.

    Which channels go where follows from the arguments and isn't in the state.

    Args:
        grid: channels along each axis, (d_1, ..., d_s); their product n is the number of channels.
        neighbours: window along each axis, (t_1, ..., t_s), each from 1 to d_a.
        kernel_size: rows and columns of the filters.
        stride: of the filters.
        padding: of the input; a number, ``"same"`` or ``"valid"``.
        dilation: of the filters.
        bias: whether there is one, shape (n,).
        padding_mode: as in torch's Conv2d.
        tile: outputs of one tile along each axis, divisors of the grid's; None for the one with the least
            work, `cnncompress.solvers.topology.best_tile`. The whole grid is a dense convolution, masked.

    Raises:
        OptionError: an argument is out of its range.
    """

    inputs: Tensor
    order: Tensor
    restored: Tensor
    places: Tensor

    def __init__(
        self,
        grid: Sequence[int],
        neighbours: Sequence[int],
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        tile: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.neighbours = tuple(grid), tuple(neighbours)
        self.window = Window.of(kernel_size, stride, padding, dilation, padding_mode)
        try:
            self.tile = (
                best_tile(grid, neighbours, positions=prod(self.window.kernel_size))
                if tile is None
                else tuple(tile)
            )
            tiles = tile_channels(grid, neighbours, self.tile)
        except ValueError as error:
            raise OptionError(str(error)) from None
        self.in_channels = self.out_channels = prod(self.grid)
        self.groups = len(tiles.outputs)
        self._register_indices(tiles)
        self.weight = nn.Parameter(
            torch.empty(self.out_channels, prod(self.neighbours), *self.window.kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(self.out_channels)) if bias else None
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, tile by tile.

        Args:
            x: shape (images, n, rows, columns).

        Returns:
            Shape (images, n, rows, columns), sized as by Conv2d.
        """
        bias: Tensor | None = self.bias
        if self._regroups:
            x = reordered(x, self.inputs, 1)
        if self._reorders and bias is not None:
            bias = bias.index_select(0, self.order)
        y = self.window.convolve(x, self._tiles_weight(), bias, groups=self.groups)
        return reordered(y, self.restored, 1) if self._reorders else y

    def reference(self, x: Tensor) -> Tensor:
        """The same by a dense convolution with zeros where there is no connection.

        Args:
            x: shape (images, n, rows, columns).

        Returns:
            What `forward` returns, up to rounding.
        """
        return self.window.convolve(x, self.dense_weight(), self.bias)

    def dense_weight(self) -> Tensor:
        """The weight of a Conv2d that does the same.

        Returns:
            Shape (n, n, kernel rows, kernel columns), outputs first; zero where there is no connection.
        """
        channels = self.out_channels
        columns = neighbourhood(self.grid, self.neighbours)
        places = columns + channels * np.arange(channels)[:, None]
        return self._placed(torch.as_tensor(places.ravel(), device=self.weight.device), channels)

    def grouped(self) -> nn.Sequential:
        """Torch's own layers that do the same, without copying weights each time.

        Returns:
            A choice of input channels, a grouped Conv2d and the outputs' order; the first and the last only
            where they are needed. For inference: trained further, the zeros within its groups would fill.
        """
        convolution = self.window.convolution(
            self.groups * self._union, self.out_channels, groups=self.groups, bias=self.bias is not None
        ).to(self.weight)
        with torch.no_grad():
            convolution.weight.copy_(self._tiles_weight())
            if convolution.bias is not None and self.bias is not None:
                convolution.bias.copy_(self.bias[self.order])
        layers: list[nn.Module] = [convolution]
        if self._regroups:
            layers.insert(0, _order(self.inputs))
        if self._reorders:
            layers.append(_order(self.restored))
        return nn.Sequential(*layers).train(self.training)

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of one image that are executed.

        Args:
            height: rows of the input.
            width: its columns.

        Returns:
            What torch's flop counter finds, halved.
        """
        products = self.out_channels * self._union * prod(self.window.kernel_size)
        return products * prod(self.window.output_size(height, width))

    def theoretical_macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of one image by connections that exist, as the paper counts.

        Args:
            height: rows of the input.
            width: its columns.

        Returns:
            The share prod(neighbours) / n of a dense convolution's.
        """
        return self.weight.numel() * prod(self.window.output_size(height, width))

    def reset_parameters(self) -> None:
        """Initialise as torch does a convolution of as many inputs an output."""
        bound = (prod(self.neighbours) * prod(self.window.kernel_size)) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """The constructor's arguments, for printing.

        Returns:
            As they would be written in code.
        """
        return (
            f"{self.grid}, {self.neighbours}, {self.window.arguments()}, bias={self.bias is not None}, "
            f"tile={self.tile}"
        )

    def _tiles_weight(self) -> Tensor:
        return self._placed(self.places, self._union)

    def _placed(self, places: Tensor, inputs: int) -> Tensor:
        kernels = self.weight.flatten(0, 1)
        empty = kernels.new_zeros(self.out_channels * inputs, *self.window.kernel_size)
        return empty.index_copy_(0, places, kernels).view(self.out_channels, inputs, *self.window.kernel_size)

    def _register_indices(self, tiles: Tiles, device: torch.device | None = None) -> None:
        order, inputs = tiles.outputs.ravel(), tiles.inputs.ravel()
        restored = np.argsort(order)
        self._union = int(tiles.inputs.shape[1])
        self._regroups = not np.array_equal(inputs, np.arange(self.in_channels))
        self._reorders = not np.array_equal(order, np.arange(self.out_channels))
        places = tiles.places + self._union * restored[:, None]
        for name, indices in (
            ("inputs", inputs),
            ("order", order),
            ("restored", restored),
            ("places", places.ravel()),
        ):
            self.register_buffer(name, torch.as_tensor(indices, device=device), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        forgotten = self.inputs.is_meta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no types for it
        if forgotten and not self.inputs.is_meta:  # to_empty: no state will bring the indices back
            tiles = tile_channels(self.grid, self.neighbours, self.tile)
            self._register_indices(tiles, self.inputs.device)
        return self


def _order(channels: Tensor) -> ChannelOrder:
    layer = ChannelOrder(len(channels)).to(channels.device)
    layer.order = channels.clone()
    return layer


fx.wrap("reordered")
