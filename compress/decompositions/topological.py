"""Channels on a grid, each output reading a window of it: topological subdivisioning."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from typing_extensions import override

from cnncompress.decompositions.base import Ranks
from cnncompress.decompositions.chains import Block, Step, unsupported
from cnncompress.decompositions.divisibility import divisors
from cnncompress.decompositions.placed import Mask, Placed, on_entries
from cnncompress.decompositions.registry import option, register
from cnncompress.errors import OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.layers.topological import TopologicalConv2d
from cnncompress.solvers import Array
from cnncompress.solvers.assignment import Placement
from cnncompress.solvers.blocks import reordered
from cnncompress.solvers.joint_moments import Covariances
from cnncompress.solvers.masked import masked_least_squares
from cnncompress.solvers.topology import neighbourhood, neighbourhood_mask, tile_channels

Axes = tuple[int, ...]
_STEPS = 16  # between windows to choose among, each this share of the channels or twice the last


@register
@dataclass(frozen=True, kw_only=True)
class Topological(Placed):
    """A `TopologicalConv2d` between two permutations.

    Wang et al., https://arxiv.org/abs/1608.04337, section 2.3. The rank is the number of inputs that an
    output reads, the product t of the window's sides: k² d t h w multiply-accumulates by the paper's count.
    More are executed, and that is what ``macs`` tells.

    Sides are written ``"16x32"``, or given as tuples.

    Attributes:
        grid: of the channels, its sides' product their number; None for a grid that is nearly square, of as
            many axes as ``neighbours`` or two.
        neighbours: sides of the window; None lets the planner choose among windows
            that take in whole rows of the grid: the paper's, in the grid's proportions, execute more.
        tile: sides of the blocks of outputs that are computed together, divisors of the grid's; None for
            those with the least work.
        iterations: of conjugate gradients on responses, at most.
    """

    grid: str | None = None
    neighbours: str | None = None
    tile: str | None = None
    iterations: int = option(50, least=1)
    name: ClassVar[str] = "topological"
    aliases: ClassVar[tuple[str, ...]] = ("tps",)
    rank_names: ClassVar[tuple[str, ...]] = ("neighbours",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("grid", "neighbours", "tile"):
            # one form for all, so that methods that do the same are equal and plans can be saved
            object.__setattr__(self, key, _written(key, getattr(self, key)))

    @override
    def obstacle(self, layer: LayerInfo) -> str:
        if layer.kind == "linear":
            return "it is linear; svd-out splits it"
        if reason := unsupported(layer):
            return reason
        if layer.in_channels != layer.out_channels:
            return (
                f"it has {layer.in_channels} inputs and {layer.out_channels} outputs; "
                "only as many of one as of the other lie on one grid"
            )
        return self._misfit(layer)

    def _misfit(self, layer: LayerInfo) -> str:
        """Why the options don't go together on a layer."""
        channels, grid = layer.in_channels, self._grid(layer)
        if prod(grid) != channels:
            valid = ", ".join(f"{side}x{channels // side}" for side in divisors(channels))
            return f"grid {self.grid} has {prod(grid)} places for its {channels} channels; valid: {valid}"
        try:
            if self.neighbours is not None:
                neighbourhood(grid, _sides(self.neighbours))
            if self.tile is not None:
                tile_channels(grid, (1,) * len(grid), _sides(self.tile))
        except ValueError as error:
            return str(error)
        return ""

    @override
    def full_ranks(self, layer: LayerInfo) -> Ranks:
        return (layer.in_channels,)

    @override
    def unfit(self, layer: LayerInfo, ranks: Ranks) -> str:
        windows = self._windows(layer)
        if ranks[0] in windows:
            return ""
        valid = ", ".join(f"{count} ({_joined(sides)})" for count, sides in windows.items())
        return f"no window of its grid {_joined(self._grid(layer))} has {ranks[0]} neighbours; valid: {valid}"

    @override
    def asked(self, layer: LayerInfo) -> Ranks | None:
        return None if self.neighbours is None else (prod(_sides(self.neighbours)),)

    @override
    def rank_step(self, layer: LayerInfo, step: int) -> int:
        return 1  # the valid windows are few and none is better aligned

    @override
    def settings(self, layer: LayerInfo, step: int) -> tuple[Ranks, ...]:
        return tuple((count,) for count in self._windows(layer))

    @override
    def mask(self, layer: LayerInfo, ranks: Ranks) -> Mask:
        return neighbourhood_mask(self._grid(layer), self._windows(layer)[ranks[0]])

    @override
    def convolution(self, layer: LayerInfo, ranks: Ranks) -> Step:
        return Block(lambda: self._module(layer, ranks))

    @override
    def compact(self, weight: Array, ranks: Ranks) -> Array:
        xp = array_namespace(weight)
        channels, _, positions = weight.shape
        grid = self._grid_of(channels)
        columns = neighbourhood(grid, self._windows_of(grid)[ranks[0]])
        places = columns + channels * np.arange(channels)[:, None]
        connections = reordered(xp.reshape(weight, (-1, positions)), places.ravel(), axis=0)
        return xp.reshape(connections, (channels, ranks[0], positions))

    @override
    def on_mask(
        self, weight: Array, covariances: Covariances, placement: Placement, mask: Mask, ranks: Ranks
    ) -> Array:
        inside = on_entries(mask, like=covariances.cross)
        return masked_least_squares(covariances, inside, weight, iterations=self.iterations).weight

    @override
    def notes(self, layer: LayerInfo, ranks: Ranks) -> tuple[str, ...]:
        module = Block(lambda: self._module(layer, ranks)).outline()
        executed, theoretical = (count(*layer.input_size) for count in (module.macs, module.theoretical_macs))
        return (
            f"grid {_joined(module.grid)}, window {_joined(module.neighbours)}, tile {_joined(module.tile)}: "
            f"{executed} multiply-accumulates are executed, {theoretical} by connections that exist",
        )

    def _module(self, layer: LayerInfo, ranks: Ranks) -> TopologicalConv2d:
        return TopologicalConv2d(
            self._grid(layer),
            self._windows(layer)[ranks[0]],
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            padding_mode=layer.padding_mode,
            tile=None if self.tile is None else _sides(self.tile),
        )

    def _grid(self, layer: LayerInfo) -> Axes:
        return self._grid_of(layer.in_channels)

    def _grid_of(self, channels: int) -> Axes:
        if self.grid is not None:
            return _sides(self.grid)
        return _nearly_square(channels, 2 if self.neighbours is None else len(_sides(self.neighbours)))

    def _windows(self, layer: LayerInfo) -> dict[int, Axes]:
        return self._windows_of(self._grid(layer))

    def _windows_of(self, grid: Axes) -> dict[int, Axes]:
        """Windows to choose among, and the one asked for, by their number of neighbours."""
        windows = _row_by_row(grid)
        if self.neighbours is not None:
            windows.append(_sides(self.neighbours))
        return {prod(sides): sides for sides in sorted(windows, key=prod)}


def _row_by_row(grid: Axes) -> list[Axes]:
    """Windows from one place to the whole grid, each axis filled before the one in front of it grows."""
    # what goes all round an axis overlaps exactly there: tiles execute little beside what exists
    windows = [(1,) * len(grid)]
    for axis in reversed(range(len(grid))):
        for side in range(2, grid[axis] + 1):
            window = (*windows[-1][:axis], side, *grid[axis + 1 :])
            # finer ones would only be more to choose among
            if side == grid[axis] or prod(window) - prod(windows[-1]) >= min(
                prod(windows[-1]), prod(grid) / _STEPS
            ):
                windows.append(window)
    return windows


def _nearly_square(channels: int, axes: int) -> Axes:
    if axes == 1:
        return (channels,)
    side = max(divisor for divisor in divisors(channels) if divisor**axes <= channels)
    return (side, *_nearly_square(channels // side, axes - 1))


def _sides(written: str) -> Axes:
    return tuple(int(side) for side in written.split("x"))


def _joined(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _written(key: str, sides: object) -> str | None:
    if sides is None:
        return None
    written = _joined(sides) if isinstance(sides, list | tuple) else str(sides)
    if not all(side.isascii() and side.isdigit() and int(side) > 0 for side in written.split("x")):
        raise OptionError(
            f'topological: option {key} is whole numbers joined by x, as "8x16", or a tuple; got {sides!r}'
        )
    return written
