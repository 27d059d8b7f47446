"""Streams the same pixels of two neighbouring layers' outputs into their joint moments."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnncompress.errors import DataError, ModelError, NumericsError, OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.solvers.moments import Moments


@dataclass(frozen=True)
class Pair:
    """Two convolutions whose outputs are compared pixel by pixel.

    Attributes:
        first: that runs first.
        second: that runs next.
        grid: height and width that both maps are brought to by nearest neighbour.
    """

    first: LayerInfo
    second: LayerInfo
    grid: tuple[int, int]

    @classmethod
    def of(cls, first: LayerInfo, second: LayerInfo) -> "Pair":
        """A pair at the larger of both layers' heights and widths.

        Args:
            first: that runs first.
            second: that runs next.

        Returns:
            The pair.
        """
        height, width = (max(sizes) for sizes in zip(first.output_size, second.output_size, strict=True))
        return cls(first, second, (height, width))

    def drawn(self, indices: Sequence[int], *, pixels: int, seed: int) -> NDArray[np.int64]:
        """Pixels of the common grid, drawn for each image by its position in the list of all.

        Args:
            indices: position of each image.
            pixels: wanted; all of them where the grid has no more.
            seed: of the run.

        Returns:
            Positions in the flattened grid, shape (images, pixels).
        """
        total = prod(self.grid)
        if total <= pixels:
            return np.tile(np.arange(total), (len(indices), 1))
        draws = (
            np.random.default_rng((seed, index)).choice(total, pixels, replace=False) for index in indices
        )
        return np.stack(list(draws))

    def taken(self, output: Tensor, drawn: NDArray[np.int64]) -> Tensor:
        """A layer's responses at drawn pixels, as if its map had been resized; no resized map is formed.

        Args:
            output: of one of the two layers, shape (images, channels, h, w).
            drawn: what `drawn` returned.

        Returns:
            A copy in float64, shape (channels, images * pixels).
        """
        height, width = output.shape[2:]
        # the centre of a pixel of the grid lies in this pixel of the map
        rows = (2 * (drawn // self.grid[1]) + 1) * height // (2 * self.grid[0])
        columns = (2 * (drawn % self.grid[1]) + 1) * width // (2 * self.grid[1])
        places = torch.from_numpy(rows * width + columns).to(output.device)
        flat = output.flatten(2)
        found = torch.gather(flat, 2, places[:, None, :].expand(-1, flat.shape[1], -1))
        return found.to(torch.float64).transpose(0, 1).flatten(1)


def neighbouring_pairs(layers: Sequence[LayerInfo], patterns: Sequence[str] = ()) -> tuple[Pair, ...]:
    """Convolutions that run one after the other.

    Args:
        layers: in the order of execution.
        patterns: names of first layers that are wanted, with wildcards; none for all.

    Returns:
        The pairs. Layers that never ran, or several times in a pass, are passed over.

    Raises:
        ModelError: the network has no two convolutions.
        OptionError: a pattern matches no pair's first layer.
    """
    once = [layer for layer in layers if not layer.reason.startswith(("never called", "called "))]
    ran = [layer for layer in once if layer.kind == "conv2d"]
    if len(ran) < 2:
        raise ModelError(
            f"covariances between layers need two convolutions that run once in a pass, found {len(ran)}"
        )
    pairs = tuple(Pair.of(*both) for both in pairwise(ran))
    for pattern in patterns:
        if not any(fnmatchcase(pair.first.name, pattern) for pair in pairs):
            known = ", ".join(pair.first.name for pair in pairs[:8]) + (", …" if len(pairs) > 8 else "")
            raise OptionError(f"no pair's first layer is named like {pattern!r}; known: {known}")
    return tuple(
        pair
        for pair in pairs
        if not patterns or any(fnmatchcase(pair.first.name, pattern) for pattern in patterns)
    )


class PairMoments:
    """Joint moments of several pairs of layers, batch by batch.

    Args:
        pairs: to watch, in the order of execution.
        pixels: of each image and pair, at most.
        seed: of the pixels.

    Attributes:
        images: seen so far.
    """

    def __init__(self, pairs: Sequence[Pair], *, pixels: int, seed: int) -> None:
        self._pairs, self._pixels, self._seed = tuple(pairs), pixels, seed
        self._sums: dict[Pair, Moments] = {}
        self._waiting: dict[Pair, Tensor] = {}
        self._indices: Sequence[int] = ()
        self.images = 0

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[Callable[[Sequence[int]], None]]:
        """Hooks on all layers, removed on leaving.

        Args:
            model: the network.

        Yields:
            A function to call before each batch with the positions of its images in the list of all.
        """
        names = {layer.name for pair in self._pairs for layer in (pair.first, pair.second)}
        handles = [model.get_submodule(name).register_forward_hook(self._hook(name)) for name in names]
        try:
            yield self._begin
        finally:
            for handle in handles:
                handle.remove()

    def of(self, pair: Pair) -> Moments:
        """The joint moments of one pair, the first layer's channels before the second's.

        Args:
            pair: one of those that were watched.

        Returns:
            Sums as NumPy arrays, float64.

        Raises:
            DataError: no image was seen.
            NumericsError: responses held NaN or infinity.
        """
        if not self.images or pair not in self._sums:
            raise DataError("no image could be read, so there is nothing to measure covariances on")
        moments = self._sums[pair].map(lambda tensor: tensor.cpu().numpy())
        if not np.isfinite(moments.outer).all():
            finite = np.isfinite(np.diag(moments.outer)[: pair.first.out_channels]).all()
            name = pair.second.name if finite else pair.first.name
            raise NumericsError(
                f"{name}: its responses hold NaN or infinity; check the weights and the preprocessing"
            )
        return moments

    def _begin(self, indices: Sequence[int]) -> None:
        self._indices = indices
        self.images += len(indices)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        starting = [pair for pair in self._pairs if pair.first.name == name]
        ending = [pair for pair in self._pairs if pair.second.name == name]

        def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            del module, inputs
            # copied at once: the rectifier that follows may overwrite the output in place
            for pair in ending:
                both = torch.cat([self._waiting.pop(pair), self._taken(pair, output)])
                moments, known = Moments.of(both), self._sums.get(pair)
                self._sums[pair] = moments if known is None else known + moments
            for pair in starting:
                self._waiting[pair] = self._taken(pair, output)

        return collect

    def _taken(self, pair: Pair, output: Tensor) -> Tensor:
        return pair.taken(output, pair.drawn(self._indices, pixels=self._pixels, seed=self._seed))
