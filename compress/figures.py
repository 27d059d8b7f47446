"""The report's curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cnncompress.svg import INK, SERIES, drawable, drawing, shortened, to_svg

_MARKERS = "osD^vPX*"
_COLUMNS = 5
_ERROR_CEILING = 2.0  # beyond it a layer is lost anyway, and the other curves would be squeezed


def energy_curves(
    energy: Mapping[str, Sequence[Sequence[float]]], layers: Sequence[Mapping[str, Any]]
) -> str:
    """One small panel for each layer: energy kept against rank, with the rank that was chosen.

    Args:
        energy: for each layer, pairs of rank and cumulative share of the energy.
        layers: the report's lines of layers, for the chosen ranks.

    Returns:
        An ``<svg>`` element; an empty string where there is nothing to draw.
    """
    known = {name: [point for point in points if None not in point] for name, points in energy.items()}
    curves = {name: points for name, points in known.items() if len(points) > 1}
    if not curves:
        return ""
    lines = {line["name"]: line for line in layers}
    columns = min(_COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    with drawing(1.9 * columns, 1.55 * rows + 0.2) as figure:
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        lowest = min(share for points in curves.values() for _, share in points)
        for panel in panels.flat[len(curves) :]:
            panel.set_visible(False)
        for panel, (name, points) in zip(panels.flat, curves.items(), strict=False):
            ranks, shares = zip(*points, strict=True)
            panel.fill_between(ranks, shares, lowest, color=SERIES[0], alpha=0.15, linewidth=0)
            panel.plot(ranks, shares, color=SERIES[0])
            panel.set_xlim(0, max(ranks))
            panel.set_xticks([0, max(ranks)])
            panel.set_ylim(math.floor(lowest * 10) / 10, 1.02)
            panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
            panel.set_title(shortened(name, 26))
            chosen = _chosen_rank(lines.get(name, {}), points)
            if chosen is not None:
                panel.plot([chosen[0]], [chosen[1]], "o", color=SERIES[1], markersize=5)
                # curves bend upwards to the left: the lower right corner is always free
                panel.text(
                    0.96,
                    0.06,
                    f"{chosen[0]:.0f}: {100 * chosen[1]:.1f} %",
                    transform=panel.transAxes,
                    ha="right",
                )
        return to_svg(figure, "Energy kept against rank, layer by layer")


def error_curves(layers: Sequence[Mapping[str, Any]]) -> str:
    """Held-out error along depth, one line for each kind of solution that was tried.

    Kinds that were run throughout the network are drawn as such; else what each would have done at a layer
    behind the kept solutions of the layers before it.

    Args:
        layers: the report's lines of layers, in the order of the network.

    Returns:
        An ``<svg>`` element; an empty string where no error is known.
    """
    solved = [line for line in layers if line.get("error_heldout") is not None or line.get("errors")]
    if not solved:
        return ""
    source = "errors_alone" if any(line.get("errors_alone") for line in solved) else "errors"
    kinds = list(dict.fromkeys(kind for line in solved for kind in line.get(source) or {}))
    at = range(len(solved))
    with drawing(9.5, 3.6 + _label_height(solved)) as figure:
        axes = figure.subplots()
        highest = 0.0
        for number, kind in enumerate(kinds):
            values = [drawable((line.get(source) or {}).get(kind)) for line in solved]
            highest = max([highest, *(value for value in values if value == value)])  # noqa: PLR0124 - NaN
            color, marker = SERIES[number % len(SERIES)], _MARKERS[number % len(_MARKERS)]
            axes.plot(at, values, color=color, marker=marker, markersize=4, label=kind)
        chosen = [drawable(line.get("error_heldout")) for line in solved]
        highest = max([highest, *(value for value in chosen if value == value)])  # noqa: PLR0124 - NaN
        axes.plot(
            at,
            chosen,
            "o",
            color=INK,
            markerfacecolor="none",
            markersize=9,
            markeredgewidth=1.2,
            label="kept",
        )
        axes.set_ylim(0, min(1.08 * highest, _ERROR_CEILING) or 1.0)
        axes.set_ylabel("relative error, held-out")
        axes.set_xticks(at, [shortened(line["name"], 20) for line in solved], rotation=45, ha="right")
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside upper left", ncols=min(len(kinds) + 1, 5), columnspacing=1.5)
        return to_svg(figure, "Held-out error along depth, for each kind of solution")


def cost_bars(layers: Sequence[Mapping[str, Any]], planner: Mapping[str, Any] | None = None) -> str:
    """Multiply-accumulates of each layer before and after, and beside them milliseconds where they are known.

    Args:
        layers: the report's lines of layers, in the order of the network.
        planner: the report's part on the planner; where it budgeted time, all times are those of its setting.

    Returns:
        An ``<svg>`` element; an empty string without layers.
    """
    if not layers:
        return ""
    times = _times(layers, planner or {})
    timed = any(after == after for _, after in times)  # noqa: PLR0124 - NaN
    title = (
        "MACs and milliseconds of each layer before and after"
        if timed
        else "MACs of each layer before and after"
    )
    with drawing(9.5, 0.9 + 0.24 * len(layers)) as figure:
        panels = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
        macs = [(line["macs_before"] / 1e6, line["macs_after"] / 1e6) for line in layers]
        _before_and_after(panels[0], macs, "million MACs an image")
        if timed:
            _before_and_after(panels[1], times, "ms")
        panels[0].set_yticks(range(len(layers)), [shortened(line["name"], 30) for line in layers])
        panels[0].set_ylim(len(layers) - 0.4, -0.6)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        return to_svg(figure, title)


def _before_and_after(axes: Any, pairs: Sequence[tuple[float, float]], label: str) -> None:
    before, after = zip(*pairs, strict=True)
    axes.barh(range(len(pairs)), before, height=0.78, color=SERIES[0], alpha=0.3, label="before")
    axes.barh(range(len(pairs)), after, height=0.42, color=SERIES[0], label="after")
    axes.set_xlabel(label)
    axes.grid(visible=False, axis="y")


def _times(layers: Sequence[Mapping[str, Any]], planner: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Milliseconds before and after of every layer, all of one setting; NaN where unknown."""
    if planner.get("unit") != "ms":
        return [(drawable(line.get("ms_before")), drawable(line.get("ms_after"))) for line in layers]
    planned = {line["name"]: line for line in planner.get("layers") or []}
    lines = [planned.get(line["name"], {}) for line in layers]
    return [(drawable(line.get("ms_before")), drawable(_after(line))) for line in lines]


def _after(line: Mapping[str, Any]) -> float | None:
    measured: float | None = line.get("measured_ms")
    return line.get("ms") if measured is None else measured


def _chosen_rank(line: Mapping[str, Any], points: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    ranks = line.get("ranks") or []
    if not ranks:
        return None
    on_curve = [(float(rank), _interpolated(points, rank)) for rank in ranks if rank <= points[-1][0]]
    if not on_curve:
        return None
    kept = line.get("energy_kept")
    if kept is None:
        return on_curve[-1]
    # a layer with two ranks has one that the energy belongs to
    return min(on_curve, key=lambda point: abs(point[1] - kept))


def _interpolated(points: Sequence[Sequence[float]], rank: float) -> float:
    left = (0.0, 0.0)
    for right_rank, right_share in points:
        if rank <= right_rank:
            weight = (rank - left[0]) / (right_rank - left[0]) if right_rank > left[0] else 1.0
            return float(left[1] + weight * (right_share - left[1]))
        left = (right_rank, right_share)
    return float(left[1])


def _label_height(lines: Sequence[Mapping[str, Any]]) -> float:
    return 0.045 * max(min(len(line["name"]), 20) for line in lines)
