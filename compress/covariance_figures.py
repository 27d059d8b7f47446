"""Pictures of correlations within layers and between neighbouring ones, as PNG."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncompress.covariance import LayerCorrelation, PairCovariance
from cnncompress.png import to_png
from cnncompress.solvers.grouping import Grouping
from cnncompress.svg import drawing

Floats = NDArray[np.float64]

_COLORS = "magma"
_LINE = "#35c4c4"  # of the blocks; stands out from all colours of the map
_SHOWN = 99.5  # percentile at which the colours end, so that a few strong pairs don't darken all others
_MOST_LINES = 64


def layer_picture(layer: LayerCorrelation) -> bytes:
    """Absolute correlations within a layer (Ioannou et al., figure 11), and the same with channels grouped.

    Args:
        layer: what was measured.

    Returns:
        A PNG file.
    """
    strengths = layer.correlation.copy()
    np.fill_diagonal(strengths, 0.0)  # always 1, it would only dazzle
    title = f"{layer.name}: absolute correlation of its {layer.channels} channels"
    return _picture(title, strengths, layer, layer.name, layer.name)


def pair_picture(pair: PairCovariance) -> bytes:
    """Whitened covariances of two layers (Ioannou et al., figure 6), and the same with channels grouped.

    Args:
        pair: what was measured.

    Returns:
        A PNG file.
    """
    title = f"absolute covariance of the whitened responses of {pair.first} and {pair.second}"
    strengths = np.abs(pair.whitened)
    return _picture(title, strengths, pair, pair.first, pair.second, own_groups=pair.own_groups)


def _picture(
    title: str,
    strengths: Floats,
    measured: LayerCorrelation | PairCovariance,
    rows: str,
    columns: str,
    *,
    own_groups: int = 1,
) -> bytes:
    suggested = measured.suggested
    grouping = _shown(measured.groupings, suggested)
    highest = float(np.percentile(strengths, _SHOWN)) or float(strengths.max()) or 1.0
    with drawing(10.4, 5.4) as figure:
        panels = figure.subplots(1, 2 if grouping else 1, squeeze=False)[0]
        figure.suptitle(title, fontsize=11)
        draw = _drawer(highest, rows, columns)
        image = draw(panels[0], strengths, "channels as they stand" + _own(measured.groupings, own_groups))
        if own_groups > 1:
            _blocks(panels[0], strengths.shape, own_groups)
        if grouping:
            ordered = strengths[np.ix_(grouping.rows.order, grouping.columns.order)]
            draw(panels[1], ordered, _caption(grouping, suggested))
            _blocks(panels[1], strengths.shape, grouping.groups)
        bar = figure.colorbar(image, ax=panels, shrink=0.8, extend="max", pad=0.02)
        bar.outline.set_visible(False)
        return to_png(figure)


def _shown(groupings: tuple[Grouping, ...], suggested: int) -> Grouping | None:
    """The suggested grouping, or the one that comes nearest to being suggested."""
    for grouping in groupings:
        if grouping.groups == suggested:
            return grouping
    return max(groupings, key=lambda grouping: grouping.gain, default=None)


def _own(groupings: tuple[Grouping, ...], own_groups: int) -> str:
    scores = (one.contiguous for one in groupings if one.groups == own_groups)
    return "".join(f", {score:.2f} within the convolution's {own_groups} groups" for score in scores)


def _caption(grouping: Grouping, suggested: int) -> str:
    kind = "suggested" if grouping.groups == suggested else "no grouping suggested; the best:"
    return f"{kind} {grouping.groups} groups: {grouping.score:.2f} within, by chance {grouping.chance:.2f}"


def _drawer(highest: float, rows: str, columns: str) -> Callable[[Any, Floats, str], Any]:
    def draw(axes: Any, strengths: Floats, title: str) -> Any:
        # few channels keep sharp edges; many are averaged where a pixel of the picture holds several
        smooth = "none" if max(strengths.shape) <= 256 else "antialiased"
        image = axes.imshow(
            strengths, cmap=_COLORS, vmin=0, vmax=highest, interpolation=smooth, aspect="auto"
        )
        axes.set_box_aspect(1)
        axes.set_title(title)
        axes.set_xlabel(f"channels of {columns}")
        axes.set_ylabel(f"channels of {rows}")
        axes.grid(visible=False)
        return image

    return draw


def _blocks(axes: Any, shape: tuple[int, ...], groups: int) -> None:
    from matplotlib.patches import Rectangle  # noqa: PLC0415  # loads slowly

    if groups > _MOST_LINES:
        return
    height, width = shape[0] / groups, shape[1] / groups
    for number in range(groups):
        corner = (number * width - 0.5, number * height - 0.5)
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=_LINE, linewidth=0.8))
