"""Channels on a grid: which inputs an output reads, and how outputs fall into tiles.

Topological subdivisioning lays n channels out as a grid of s axes, row by row, and output j reads the inputs
i whose offset (i_a - j_a) mod d_a is below t_a along every axis a: a window that starts at its own place and
goes round at the edge. Wang et al., "Factorized Convolutional Neural Networks",
https://arxiv.org/abs/1608.04337, section 2.3 and equation 8.

Outputs of one tile, a block of the grid, read much the same inputs: tile + neighbours - 1 along each axis,
the axis at most. A tile is therefore one group of a grouped convolution on these inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Products in whose time a channel is copied to another place, on one core. With it the choice was among the
# fastest at the paper's grids: a dense 1 x 1 up to 256 channels, tiles for 512 and for 3 x 3.
COPYING = 56


@dataclass(frozen=True, eq=False)
class Tiles:
    """A division of the outputs into tiles.

    Attributes:
        outputs: channels of each tile, shape (tiles, outputs of one).
        inputs: channels that some output of the tile reads, shape (tiles, inputs of one).
        places: where in its tile's ``inputs`` each output finds its neighbours, shape (n, t_1 ... t_s),
            ordered as by `neighbourhood`.
    """

    outputs: Indices
    inputs: Indices
    places: Indices

    @property
    def multiplications(self) -> int:
        """Products of all outputs with all inputs of their tile."""
        return int(self.outputs.size * self.inputs.shape[1])


def neighbourhood(grid: Sequence[int], neighbours: Sequence[int]) -> Indices:
    """The inputs of each output.

    Args:
        grid: channels along each axis, (d_1, ..., d_s).
        neighbours: window along each axis, (t_1, ..., t_s), each from 1 to d_a.

    Returns:
        Shape (n, t_1 ... t_s); offsets go up row by row, so the first neighbour is the output's own place.

    Raises:
        ValueError: the axes don't fit.
    """  # noqa: DOC502  # raised by _check
    _check(grid, neighbours)
    axes = [
        (np.arange(size)[:, None] + np.arange(window)) % size
        for size, window in zip(grid, neighbours, strict=True)
    ]
    return _combined(axes, grid)


def neighbourhood_mask(grid: Sequence[int], neighbours: Sequence[int]) -> Mask:
    """Which output reads which input.

    Args:
        grid: channels along each axis, (d_1, ..., d_s).
        neighbours: window along each axis, (t_1, ..., t_s), each from 1 to d_a.

    Returns:
        Shape (n, n), outputs by inputs; t_1 ... t_s entries are true in each row and in each column.

    Raises:
        ValueError: the axes don't fit.
    """  # noqa: DOC502  # raised by neighbourhood
    mask = np.zeros((prod(grid), prod(grid)), dtype=bool)
    np.put_along_axis(mask, neighbourhood(grid, neighbours), values=True, axis=1)
    return mask


def tile_channels(grid: Sequence[int], neighbours: Sequence[int], tile: Sequence[int]) -> Tiles:
    """Divide the outputs into blocks of the grid.

    Args:
        grid: channels along each axis, (d_1, ..., d_s).
        neighbours: window along each axis, (t_1, ..., t_s), each from 1 to d_a.
        tile: outputs of one tile along each axis, divisors of the grid's.

    Returns:
        The tiles, row by row. Along an axis that a tile reads as a whole the inputs keep their own order.

    Raises:
        ValueError: the axes don't fit, or a tile doesn't divide its axis.
    """
    _check(grid, neighbours)
    if len(tile) != len(grid) or any(b < 1 or size % b for size, b in zip(grid, tile, strict=True)):
        raise ValueError(f"tile {tuple(tile)} must divide the grid {tuple(grid)} along every axis")
    spans = _spans(grid, neighbours, tile)
    starts, outputs, inputs, places = [], [], [], []
    for size, window, block, span in zip(grid, neighbours, tile, spans, strict=True):
        start = np.arange(0, size, block)
        start_of_inputs = np.zeros_like(start) if span == size else start
        starts.append(start_of_inputs)
        outputs.append(start[:, None] + np.arange(block))
        inputs.append((start_of_inputs[:, None] + np.arange(span)) % size)
        own = np.arange(size)[:, None] + np.arange(window) - np.repeat(start_of_inputs, block)[:, None]
        places.append(own % size)
    return Tiles(_combined(outputs, grid), _combined(inputs, grid), _combined(places, spans))


def best_tile(grid: Sequence[int], neighbours: Sequence[int], *, positions: int = 1) -> tuple[int, ...]:
    """The tile with the least work: products, and copying of each tile's inputs side by side.

    By products alone it would always be a tile of one output, each with all its neighbours copied for it. The
    whole grid needs no copies.

    Args:
        grid: channels along each axis, (d_1, ..., d_s).
        neighbours: window along each axis, (t_1, ..., t_s), each from 1 to d_a.
        positions: of the kernel; the more, the less copying counts.

    Returns:
        Outputs of one tile along each axis; the whole grid where every output reads every input.

    Raises:
        ValueError: the axes don't fit.
    """  # noqa: DOC502  # raised by _check
    _check(grid, neighbours)
    divisors = [[block for block in range(1, size + 1) if size % block == 0] for size in grid]

    def work(tile: tuple[int, ...]) -> int:
        tiles, inputs = prod(grid) // prod(tile), prod(_spans(grid, neighbours, tile))
        copies = tiles * inputs + (0 if _in_order(grid, tile) else prod(grid))
        return prod(grid) * inputs * positions + (COPYING * copies if tiles > 1 else 0)

    return min(product(*divisors), key=work)


def _in_order(grid: Sequence[int], tile: Sequence[int]) -> bool:
    # Whether outputs listed tile by tile are in their own order: after the first axis that isn't cut into
    # single places, all must be whole.
    first = next((axis for axis, block in enumerate(tile) if block > 1), len(tile))
    return tuple(tile[first + 1 :]) == tuple(grid[first + 1 :])


def _spans(grid: Sequence[int], neighbours: Sequence[int], tile: Sequence[int]) -> list[int]:
    # Inputs that a tile reads along each axis: none is read twice where the windows meet round the edge.
    return [min(d, b + t - 1) for d, t, b in zip(grid, neighbours, tile, strict=True)]


def _combined(axes: Sequence[Indices], sizes: Sequence[int]) -> Indices:
    # Tables of (row, item) of each axis to one of (all rows, all items), flat indices on a grid of the sizes.
    table = np.zeros((1, 1), dtype=np.int64)
    for axis, size in zip(axes, sizes, strict=True):
        table = table[:, None, :, None] * size + axis[None, :, None, :]
        table = table.reshape(table.shape[0] * table.shape[1], -1)
    return table


def _check(grid: Sequence[int], neighbours: Sequence[int]) -> None:
    if not grid or len(grid) != len(neighbours):
        raise ValueError(
            f"grid {tuple(grid)} and neighbours {tuple(neighbours)} must have equally many axes, at least one"
        )
    for size, window in zip(grid, neighbours, strict=True):
        if not 1 <= window <= size:
            raise ValueError(
                f"neighbours {tuple(neighbours)} must be from 1 to the grid's {tuple(grid)} along every axis"
            )
