"""The picture of several networks side by side: speed against loss of quality."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnncompress.formats import format_times
from cnncompress.svg import SERIES, drawable, drawing, to_svg


def front_curve(points: Sequence[Mapping[str, Any]]) -> str:
    """Speedup against accuracy drop, or against the output's error where no accuracy is known.

    Args:
        points: of ``front.json``. Where speed was measured, the ratio of MACs is a second series.

    Returns:
        An ``<svg>`` element; an empty string without points. Each point bears the speedup that was asked.
    """
    if not points:
        return ""
    quality = "drop" if all(point.get("drop") is not None for point in points) else "output_error"
    measured = [point for point in points if point.get("latency_speedup") is not None]
    with drawing(9.5, 4.2) as figure:
        axes = figure.subplots()
        if measured:
            _series(axes, points, ("macs_speedup", quality), style="s--", color=SERIES[1], label="fewer MACs")
            _series(
                axes, measured, ("latency_speedup", quality), style="o-", color=SERIES[0], label="measured"
            )
            _name(axes, measured, ("latency_speedup", quality))
            _name(axes, [point for point in points if point not in measured], ("macs_speedup", quality))
        else:
            _series(axes, points, ("macs_speedup", quality), style="o-", color=SERIES[0], label="fewer MACs")
            _name(axes, points, ("macs_speedup", quality))
        axes.set_xlabel("speedup")
        axes.set_ylabel("top-1 drop, points" if quality == "drop" else "output error, relative")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axes.margins(x=0.08, y=0.14)
        if quality != "drop":
            axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2)
        return to_svg(figure, "Speedup against loss of quality")


def _series(
    axes: Any,
    points: Sequence[Mapping[str, Any]],
    keys: tuple[str, str],
    *,
    style: str,
    color: str,
    label: str,
) -> None:
    ordered = sorted(points, key=lambda point: drawable(point[keys[0]]))
    across, up = ([drawable(point[key]) for point in ordered] for key in keys)
    axes.plot(across, up, style, color=color, markersize=6, label=label)


def _name(axes: Any, points: Sequence[Mapping[str, Any]], keys: tuple[str, str]) -> None:
    for point in points:
        if point[keys[1]] is None:
            continue
        axes.annotate(
            point["folder"] if point["asked"] is None else format_times(point["asked"]),
            (point[keys[0]], point[keys[1]]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            va="bottom",
        )
