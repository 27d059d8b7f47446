"""Pictures of filters: what a decomposition does to those that look at colours, and those of one channel."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnncompress.png import to_png
from cnncompress.svg import FAINT, drawing, to_svg

_TITLES = ("original", "replaced")
_GOLDEN = 0.618034  # steps of the hue that keep neighbouring filters apart
_DPI = 110  # of the clouds, which would be megabytes as vectors
_TILE, _GAP = 27, 3  # pixels, at least
_PANELS = 2  # mosaics in a row
_GAP_COLOR = (150, 190, 230, 255)  # no grey, so that a tile's edge is never in doubt


def color_clouds(before: np.ndarray, after: np.ndarray) -> str:
    """Every entry of every filter as a point in colour space, the original's beside the replaced ones'.

    Args:
        before: shape (out_channels, 3, kernel height, kernel width).
        after: of the same shape.

    Returns:
        An ``<svg>`` element; points of one filter share a colour.
    """
    limit = float(max(np.abs(before).max(), np.abs(after).max())) or 1.0
    with drawing(9.5, 4.4) as figure:
        for place, (title, kernel) in enumerate(zip(_TITLES, (before, after), strict=True), 1):
            axes: Any = figure.add_subplot(1, 2, place, projection="3d")
            points = kernel.transpose(1, 0, 2, 3).reshape(3, -1)
            axes.scatter(
                *points,
                s=6,
                c=np.repeat(_hues(len(kernel)), kernel[0, 0].size, axis=0),
                alpha=0.75,
                linewidths=0,
                depthshade=False,
                rasterized=True,
            )
            axes.set_title(title)
            _frame(axes, limit)
        return to_svg(figure, "Filter entries in colour space, original and replaced", dpi=_DPI)


def filter_tiles(before: np.ndarray, after: np.ndarray) -> str:
    """The filters as small pictures, each scaled to its own range, originals beside replaced ones.

    Args:
        before: shape (out_channels, 3, kernel height, kernel width).
        after: of the same shape.

    Returns:
        An ``<svg>`` element.
    """
    mosaics = [_mosaic(_stretched(kernel)) for kernel in (before, after)]
    height, width = mosaics[0].shape[:2]
    with drawing(9.5, 4.6 * height / width + 0.3) as figure:
        panels = figure.subplots(1, 2, gridspec_kw={"wspace": 0.04})
        for axes, title, mosaic in zip(panels, _TITLES, mosaics, strict=True):
            axes.imshow(mosaic, interpolation="none")
            axes.set_title(title)
            axes.set_axis_off()
        return to_svg(figure, "Filters as pictures, original and replaced")


def kernel_tiles(kernels: np.ndarray, caption: str, energies: Sequence[float] = ()) -> bytes:
    """Filters of single channels as grey tiles, a panel for each basis (Wang et al., figure 4).

    Each tile is scaled to its own largest entry, and mid-grey is zero, so that a sign can be seen.

    Args:
        kernels: shape (bases, channels, kernel height, kernel width).
        caption: written above.
        energies: share of the energy that each basis keeps, for the titles; none if unknown.

    Returns:
        A PNG file.
    """
    mosaics = [_mosaic(_grey(basis)) for basis in kernels]
    columns = min(len(mosaics), _PANELS)
    rows = math.ceil(len(mosaics) / columns)
    height, width = mosaics[0].shape[:2]
    panel = 9.5 / columns
    with drawing(9.5, rows * (panel * height / width + 0.25) + 0.35) as figure:
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        figure.suptitle(caption, fontsize=10)
        for axes in panels:
            axes.set_axis_off()
        for number, (axes, mosaic) in enumerate(zip(panels, mosaics, strict=False)):
            mosaic[mosaic[:, :, 3] == 0] = _GAP_COLOR
            axes.imshow(mosaic, interpolation="antialiased")
            kept = f": {100 * energies[number]:.1f} % of the energy" if len(energies) else ""
            axes.set_title(f"filter {number + 1} of each channel{kept}")
        return to_png(figure)


def _grey(kernels: np.ndarray) -> np.ndarray:
    """Three equal colours in [0, 1], one half where a kernel is zero; shape (channels, 3, h, w)."""
    largest = np.abs(kernels).max(axis=(1, 2), keepdims=True)
    scaled = np.divide(kernels, largest, out=np.zeros_like(kernels), where=largest > 0)
    grey: np.ndarray = np.repeat((0.5 + scaled / 2)[:, None], 3, axis=1)
    return grey


def _frame(axes: Any, limit: float) -> None:
    # one round number on each side of zero: more would touch where the axes slant
    tick = float(f"{0.8 * limit:.0e}")
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), zlim=(-limit, limit))
    for axis, name in zip((axes.xaxis, axes.yaxis, axes.zaxis), ("red", "green", "blue"), strict=True):
        axis.set_pane_color((0.0, 0.0, 0.0, 0.0))
        axis.pane.set_edgecolor(FAINT)
        axis.set_label_text(name)
        axis.labelpad = -6  # beside the middle tick, which has no number
        axis.set_ticks([-tick, 0, tick], [f"-{tick:g}", "", f"{tick:g}"])
    axes.set_box_aspect((1, 1, 1), zoom=1.08)


def _hues(count: int) -> np.ndarray:
    from matplotlib.colors import hsv_to_rgb  # noqa: PLC0415 - half a second, only where it is drawn

    hue = np.arange(count) * _GOLDEN % 1
    return hsv_to_rgb(np.stack([hue, np.full(count, 0.78), np.full(count, 0.85)], axis=1))


def _stretched(kernel: np.ndarray) -> np.ndarray:
    """Each filter scaled to [0, 1] by its own range."""
    low = kernel.min(axis=(1, 2, 3), keepdims=True)
    span = kernel.max(axis=(1, 2, 3), keepdims=True) - low
    stretched: np.ndarray = np.divide(kernel - low, span, out=np.full_like(kernel, 0.5), where=span > 0)
    return stretched


def _mosaic(shown: np.ndarray) -> np.ndarray:
    """Tiles with see-through gaps between them: 8-bit RGBA, shape (height, width, 4)."""
    count, _, height, width = shown.shape
    colors = (255 * shown).round().astype(np.uint8).transpose(0, 2, 3, 1)
    # whole pixels for each entry, so that the gap may be narrower than an entry
    enlarged = math.ceil(_TILE / max(height, width))
    colors = colors.repeat(enlarged, axis=1).repeat(enlarged, axis=2)
    columns = _columns(count)
    rows = math.ceil(count / columns)
    tall, wide = colors.shape[1] + _GAP, colors.shape[2] + _GAP
    canvas = np.zeros((rows * tall - _GAP, columns * wide - _GAP, 4), np.uint8)
    for number, tile in enumerate(colors):
        top, left = number // columns * tall, number % columns * wide
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = np.dstack(
            [tile, np.full(tile.shape[:2], 255, np.uint8)]
        )
    return canvas


def _columns(count: int) -> int:
    """Columns of a mosaic that is about square and, where that is possible, full."""
    least = math.ceil(math.sqrt(count))
    return next((columns for columns in range(least, 2 * least) if count % columns == 0), least)
