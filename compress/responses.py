"""Responses of layers: streaming moments over all positions, and samples at a few of them.

A response is a layer's output before its activation. Positions are drawn from the image's index and
the seed, so that the original and the compressed network are sampled at the same places, whatever
the batch size, the order or the number of processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as nnf

from cnncompress.errors import NumericsError
from cnncompress.inspect import Activation, LayerInfo
from cnncompress.solvers import Array
from cnncompress.solvers.moments import Moments

_CHUNK = 65_536  # samples whose products are summed in float32 before they go to float64


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
class Responses:
    """What a data-aware method knows about one layer.

    Attributes:
        moments: of the original network's responses over all positions of all images.
        fit: samples to fit.
        held_out: samples of other images, to judge.
        activation: what follows the layer.
    """

    moments: Moments
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
        return _wide(taken).reshape(-1, rows.shape[2]).T.contiguous()

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
        return _wide(patches).permute(4, 2, 3, 0, 1).reshape(-1, positions.numel()).contiguous()


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


def _wide(values: Tensor) -> Tensor:
    """At least float32: half precision is too coarse to solve with."""
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


class Collector:
    """Gathers moments and samples of the original network's responses, batch by batch.

    Args:
        layers: to watch.
        positions: how many positions of a layer are sampled in each image.
        seed: of the positions.
        keep: hand out samples again and again, instead of forgetting them once they were taken.

    Attributes:
        indices: positions in the list of all of the images seen so far.
    """

    def __init__(
        self,
        layers: Iterable[LayerInfo],
        *,
        positions: Callable[[LayerInfo], int],
        seed: int,
        keep: bool = False,
    ) -> None:
        self._samplers = {layer.name: Sampler(layer, positions(layer), seed) for layer in layers}
        self._keep = keep
        self._moments: dict[str, Moments] = {}
        self._samples: dict[str, list[Tensor]] = {name: [] for name in self._samplers}
        self._indices: Sequence[int] = ()
        self.indices: list[int] = []

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[Callable[[Sequence[int]], None]]:
        """Hooks on all layers, removed on leaving.

        Args:
            model: the original network.

        Yields:
            A function to call before each batch with the positions of its images in the list of all.
        """
        handles = [
            model.get_submodule(name).register_forward_hook(self._hook(name)) for name in self._samplers
        ]
        try:
            yield self._begin
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, indices: Sequence[int]) -> None:
        self._indices = indices
        self.indices.extend(indices)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        sampler = self._samplers[name]

        def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            del module, inputs
            # taken at once: the rectifier that follows may overwrite the output in place
            rows = flatten_positions(sampler.layer, output).flatten(0, 1)
            for chunk in torch.split(rows, _CHUNK):
                moments = Moments.of(_wide(chunk).T)
                known = self._moments.get(name)
                self._moments[name] = moments if known is None else known + moments
            self._samples[name].append(sampler.outputs(output, self._indices))

        return collect

    def moments(self, name: str) -> Moments:
        """Moments of one layer's responses.

        Args:
            name: of the layer.

        Returns:
            Sums as float64 tensors.

        Raises:
            NumericsError: the responses held NaN or infinity.
        """
        moments = self._moments[name]
        if not bool(torch.isfinite(moments.outer).all()):
            raise NumericsError(
                f"{name}: its responses hold NaN or infinity; check the weights and the preprocessing"
            )
        return moments

    def numpy_moments(self, name: str) -> Moments | None:
        """Moments of one layer's responses on the host.

        Args:
            name: of the layer.

        Returns:
            Sums as NumPy arrays; None if the layer wasn't watched.
        """
        if name not in self._samplers:
            return None
        return self.moments(name).map(lambda tensor: tensor.cpu().numpy())

    def take_samples(self, name: str) -> Tensor:
        """Sampled responses of one layer, which are then forgotten here unless they are to be kept.

        Args:
            name: of the layer.

        Returns:
            Shape (out_channels, samples), images in the order in which they came.
        """
        batches = self._samples[name] if self._keep else self._samples.pop(name)
        return torch.cat(batches, dim=1)

    def sampler(self, name: str) -> Sampler:
        """The positions of one layer.

        Args:
            name: of the layer.

        Returns:
            The sampler that was used.
        """
        return self._samplers[name]
