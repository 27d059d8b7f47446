"""Where the maps of a layer are sampled.

A response is a layer's output before its activation. Positions are drawn from the image's index and
the seed, so that the original and the compressed network are sampled at the same places, whatever
the batch size, the order or the number of processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from cnncompress.inspect import LayerInfo


@dataclass(frozen=True)
class Blocks:
    """Squares of the output grid that are sampled whole.

    Attributes:
        side: of a square.
        shift: how far the first square lies before the first row and column, less than ``side``; squares
            that aren't wholly on the grid are left out.
    """

    side: int = 1
    shift: int = 0


@dataclass(frozen=True)
class Sampler:
    """Draws the positions of one layer.

    Attributes:
        layer: whose output grid is sampled.
        count: positions an image; all of them where the grid has fewer.
        seed: of the run.
        blocks: squares that positions are drawn in; single positions unless a method needs more.
    """

    layer: LayerInfo
    count: int
    seed: int
    blocks: Blocks = Blocks()

    def positions(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Positions in the flattened output grid.

        Args:
            indices: position of each image in the list of all.

        Returns:
            Shape (images, positions); those of a block follow each other, row by row.
        """
        corners = self._corners()
        count = min(max(1, self.count // self.blocks.side**2), len(corners))
        salt = int.from_bytes(self.layer.name.encode()[-8:], "little")
        drawn = [
            np.sort(
                np.random.default_rng((self.seed, salt, int(i))).choice(len(corners), count, replace=False)
            )
            for i in indices
        ]
        side, width = np.arange(self.blocks.side), self.layer.output_size[-1]
        within = (side[:, None] * width + side).ravel()
        return (corners[np.stack(drawn)][:, :, None] + within).reshape(len(indices), -1)

    def _corners(self) -> NDArray[np.int64]:
        """First position of each block."""
        if self.blocks.side == 1:
            return np.arange(prod(self.layer.output_size))
        side, shift = self.blocks.side, self.blocks.shift
        first = (side - shift) % side
        rows, columns = (np.arange(first, size - side + 1, side) for size in self.layer.output_size)
        return (rows[:, None] * self.layer.output_size[1] + columns).ravel()

    def outputs(self, output: Tensor, indices: Sequence[int]) -> Tensor:
        """Responses at the sampled positions.

        Args:
            output: of the layer, shape (images, channels, h, w), or (images, ..., channels) if linear.
            indices: position of each image in the list of all.

        Returns:
            Shape (channels, images * count).
        """
        positions = torch.from_numpy(self.positions(indices)).to(output.device)
        rows = flatten_positions(self.layer, output)
        taken = torch.gather(rows, 1, positions[:, :, None].expand(-1, -1, rows.shape[2]))
        return at_least_float32(taken).reshape(-1, rows.shape[2]).T.contiguous()

    def patches(self, inputs: Tensor, indices: Sequence[int], *, margin: int = 0) -> Tensor:
        """The inputs that the layer reads at the sampled positions; no other patch is formed.

        Args:
            inputs: of the layer, shape (images, channels, H, W), or (images, ..., channels) if linear.
            indices: position of each image in the list of all.
            margin: taps beyond the kernel's on each side, as far apart as its own; zeros outside the map.

        Returns:
            Shape (patch entries, samples), entries ordered as the weight's.
        """
        layer = self.layer
        if layer.kind == "linear":
            return self.outputs(inputs, indices)
        down, right = (margin * distance for distance in layer.dilation)
        padded = nnf.pad(pad(layer, inputs), (right, right, down, down)) if margin else pad(layer, inputs)
        rows, columns = self._read_places(indices, margin, inputs.device)
        image = torch.arange(len(indices), device=inputs.device)[:, None, None, None]
        # images, positions, rows, columns, channels
        found = padded.permute(0, 2, 3, 1)[image, rows[:, :, :, None], columns[:, :, None, :]]
        taken = at_least_float32(found).permute(4, 2, 3, 0, 1)
        return taken.reshape(-1, rows.shape[0] * rows.shape[1]).contiguous()

    def inside(self, indices: Sequence[int], *, margin: int) -> Tensor:
        """Whether what patches with a margin hold lies in the image.

        Args:
            indices: position of each image in the list of all.
            margin: as in `patches`.

        Returns:
            Truth values of shape (rows * columns, samples).
        """
        layer = self.layer
        rows, columns = self._read_places(indices, margin, torch.device("cpu"))
        sides = paddings(layer)
        rows = rows - margin * layer.dilation[0] - sides[2]
        columns = columns - margin * layer.dilation[1] - sides[0]
        within = [(at >= 0) & (at < size) for at, size in zip((rows, columns), layer.input_size, strict=True)]
        both = within[0][:, :, :, None] & within[1][:, :, None, :]
        return both.permute(2, 3, 0, 1).reshape(-1, rows.shape[0] * rows.shape[1])

    def _read_places(
        self, indices: Sequence[int], margin: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Rows and columns of the padded map that each position reads, (images, positions, kernel side)."""
        layer, width = self.layer, self.layer.output_size[1]
        positions = torch.from_numpy(self.positions(indices)).to(device)
        first = positions // width, positions % width
        reach = (
            torch.arange(layer.kernel_size[axis] + 2 * margin, device=device) * layer.dilation[axis]
            for axis in (0, 1)
        )
        rows, columns = (
            (at * step)[:, :, None] + along
            for at, step, along in zip(first, layer.stride, reach, strict=True)
        )
        return rows, columns


def flatten_positions(layer: LayerInfo, output: Tensor) -> Tensor:
    """A layer's output with its positions in one axis.

    Args:
        layer: the layer.
        output: shape (images, channels, h, w), or (images, ..., channels) if linear.

    Returns:
        Shape (images, positions, channels).
    """
    if layer.kind == "conv2d":
        return output.permute(0, 2, 3, 1).flatten(1, 2)
    return output.reshape(output.shape[0], -1, output.shape[-1])


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision is too coarse to solve with.

    Args:
        values: of any floating type.

    Returns:
        The same values, as float32 if they were narrower.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def paddings(layer: LayerInfo) -> tuple[int, int, int, int]:
    """What a convolution adds to its input.

    Args:
        layer: a convolution.

    Returns:
        Columns on the left and on the right, rows above and below.
    """
    if layer.padding == "valid":
        return (0, 0, 0, 0)
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        top, left = total[0] // 2, total[1] // 2
        return (left, total[1] - left, top, total[0] - top)
    assert not isinstance(layer.padding, str)
    return (layer.padding[1], layer.padding[1], layer.padding[0], layer.padding[0])


def pad(layer: LayerInfo, inputs: Tensor) -> Tensor:
    """Pad a map as a convolution would.

    Args:
        layer: the convolution.
        inputs: shape (images, channels, H, W).

    Returns:
        The padded map; the same one if there is nothing to add.
    """
    sides = paddings(layer)
    if not any(sides):
        return inputs
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return nnf.pad(inputs, sides, mode=mode)


def enough_positions(
    layer: LayerInfo,
    *,
    images: int,
    samples_per_channel: int = 30,
    samples_per_entry: int = 0,
    most: int = 100,
) -> int:
    """Positions an image that give the solver enough samples of a layer, and no more.

    Args:
        layer: the layer.
        images: that are sampled.
        samples_per_channel: how many samples are enough for each output channel.
        samples_per_entry: how many are enough for each entry of a patch.
        most: positions of one image; they resemble each other.

    Returns:
        At least 10, at most ``most``.
    """
    wanted = max(samples_per_channel * layer.out_channels, samples_per_entry * layer.patch_size)
    return min(max(-(-wanted // images), 10), most)
