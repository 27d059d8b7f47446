"""Responses of layers at a few sampled positions.

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

from cnncompress.inspect import Activation, LayerInfo
from cnncompress.solvers import Array
from cnncompress.solvers.moments import Moments


@dataclass(frozen=True)
class Samples:
    """One set of sampled positions.

    Attributes:
        target: the original network's responses, shape (out_channels, samples).
        patches: the layer's inputs on the compressed prefix, shape (patch entries, samples).
    """

    target: Array
    patches: Array


@dataclass(frozen=True)
class Statistics:
    """What is known of one layer of the original network, over all positions of all images.

    Attributes:
        outputs: moments of its responses.
        inputs: moments of its input channels; None unless a method needs them.
        gradients: mean squared derivative of the loss by each weight, shape (out_channels, in_channels,
            kernel height, kernel width); None unless a method needs it.
    """

    outputs: Moments
    inputs: Moments | None = None
    gradients: Array | None = None


@dataclass(frozen=True)
class Responses:
    """What a data-aware method knows about one layer.

    Attributes:
        statistics: of the original network.
        fit: samples to fit.
        held_out: samples of other images, to judge.
        activation: what follows the layer.
    """

    statistics: Statistics
    fit: Samples
    held_out: Samples
    activation: Activation


@dataclass(frozen=True)
class Sampler:
    """Draws the positions of one layer.

    Attributes:
        layer: whose output grid is sampled.
        count: positions an image; all of them where the grid has fewer.
        seed: of the run.
    """

    layer: LayerInfo
    count: int
    seed: int

    def positions(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Positions in the flattened output grid.

        Args:
            indices: position of each image in the list of all.

        Returns:
            Shape (images, count).
        """
        cells = prod(self.layer.output_size)
        count = min(self.count, cells)
        salt = int.from_bytes(self.layer.name.encode()[-8:], "little")
        return np.stack(
            [
                np.sort(np.random.default_rng((self.seed, salt, int(i))).choice(cells, count, replace=False))
                for i in indices
            ]
        )

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

    def patches(self, inputs: Tensor, indices: Sequence[int]) -> Tensor:
        """The inputs that the layer reads at the sampled positions; no other patch is formed.

        Args:
            inputs: of the layer, shape (images, channels, H, W), or (images, ..., channels) if linear.
            indices: position of each image in the list of all.

        Returns:
            Shape (patch entries, images * count), entries ordered as the weight's.
        """
        layer = self.layer
        if layer.kind == "linear":
            return self.outputs(inputs, indices)
        positions = torch.from_numpy(self.positions(indices)).to(inputs.device)
        padded = _pad(layer, inputs)
        width = layer.output_size[1]
        rows = (positions // width) * layer.stride[0]
        columns = (positions % width) * layer.stride[1]
        down = torch.arange(layer.kernel_size[0], device=inputs.device) * layer.dilation[0]
        right = torch.arange(layer.kernel_size[1], device=inputs.device) * layer.dilation[1]
        image = torch.arange(len(indices), device=inputs.device)[:, None, None, None]
        patches = padded.permute(0, 2, 3, 1)[
            image,
            (rows[:, :, None] + down)[:, :, :, None],
            (columns[:, :, None] + right)[:, :, None, :],
        ]  # images, count, kh, kw, channels
        return at_least_float32(patches).permute(4, 2, 3, 0, 1).reshape(-1, positions.numel()).contiguous()


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


def _pad(layer: LayerInfo, inputs: Tensor) -> Tensor:
    """Pad a map as the layer would."""
    if layer.padding == "valid":
        return inputs
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        top, left = total[0] // 2, total[1] // 2
        sides = (left, total[1] - left, top, total[0] - top)
    else:
        sides = (layer.padding[1], layer.padding[1], layer.padding[0], layer.padding[0])
    if not any(sides):
        return inputs
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return nnf.pad(inputs, sides, mode=mode)


def enough_positions(layer: LayerInfo, *, images: int, samples_per_channel: int = 30) -> int:
    """Positions an image that give the solver enough samples of a layer, and no more.

    Args:
        layer: the layer.
        images: that are sampled.
        samples_per_channel: how many samples are enough for each output channel.

    Returns:
        At least 10, at most 100: positions of one image resemble each other.
    """
    return min(max(-(-samples_per_channel * layer.out_channels // images), 10), 100)
