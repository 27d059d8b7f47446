"""Pictures of a plan: what was predicted against what came, and where the loss is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cnncompress.svg import FAINT, INK, SERIES, drawable, drawing, shortened, to_svg

_MARKERS = "osD^vPX*"
_NAMED = 3  # points of a scatter that carry the layer's name
_WORTH_A_NAME = 1.05  # ratio of the two values from which on a point is one to ask about
_ROOM = 1.5  # from the outermost points to the frame, as a ratio
_SETTING = ("runtime", "threads", "batch", "device")


class _Dot(NamedTuple):
    name: str
    kind: str
    predicted: float
    real: float


def time_scatter(
    planner: Mapping[str, Any],
    layers: Sequence[Mapping[str, Any]] = (),
    timing: Mapping[str, Any] | None = None,
) -> str:
    """Milliseconds that the planner counted with against those of the finished layers.

    Args:
        planner: the report's part on the planner.
        layers: the report's lines of layers, whose times stand in for those that the planner lacks.
        timing: the setting of their times; they are left out if it isn't the planner's.

    Returns:
        An ``<svg>`` element; an empty string where no time was both predicted and measured.
    """
    same = timing is not None and _setting(timing) == _setting(planner.get("setting") or {})
    alone = {line["name"]: line.get("ms_after") for line in layers} if same else {}
    dots = []
    for line in planner.get("layers") or []:
        measured = line.get("measured_ms")
        measured = alone.get(line["name"]) if measured is None else measured
        dots.append(_Dot(line["name"], line["method"], drawable(line.get("ms")), drawable(measured)))
    return _scatter(
        dots, "Predicted against measured milliseconds of each layer", "ms predicted", "ms measured"
    )


def probe_scatter(planner: Mapping[str, Any]) -> str:
    """Loss that was predicted for one replacement of each layer against the network's real one.

    Args:
        planner: the report's part on the planner.

    Returns:
        An ``<svg>`` element with both axes logarithmic; an empty string where nothing was probed.
    """
    probes = [(line["name"], line["probe"]) for line in planner.get("layers") or [] if line.get("probe")]
    dots = [
        _Dot(name, probe["method"], drawable(probe["predicted"]), drawable(probe["real"]))
        for name, probe in probes
    ]
    return _scatter(
        dots, "Predicted against real loss of each probe", "loss predicted", "loss of the network"
    )


def loss_bars(planner: Mapping[str, Any]) -> str:
    """Share of each layer in the loss that the plan is predicted to cost.

    Args:
        planner: the report's part on the planner.

    Returns:
        An ``<svg>`` element; an empty string where nothing is lost or known.
    """
    lines = [line for line in planner.get("layers") or [] if drawable(line.get("loss")) >= 0]
    total = sum(line["loss"] for line in lines)
    if not (0 < total < math.inf):
        return ""
    shares = [line["loss"] / total for line in lines]
    with drawing(9.5, 0.6 + 0.24 * len(lines)) as figure:
        axes = figure.subplots()
        bars = axes.barh(range(len(lines)), shares, height=0.6, color=SERIES[1])
        axes.bar_label(bars, [f"{100 * share:.1f} %" for share in shares], padding=4)
        axes.set_yticks(range(len(lines)), [shortened(line["name"], 30) for line in lines])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(0, 1.1 * max(shares))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel("share of the predicted loss")
        axes.grid(visible=False, axis="y")
        return to_svg(figure, "Share of each layer in the predicted loss")


def _setting(values: Mapping[str, Any]) -> list[Any]:
    return [values.get(key) for key in _SETTING]


def _scatter(dots: Sequence[_Dot], title: str, across: str, up: str) -> str:
    dots = [dot for dot in dots if 0 < dot.predicted < math.inf and 0 < dot.real < math.inf]
    if not dots:
        return ""
    kinds = list(dict.fromkeys(dot.kind for dot in dots))
    values = [value for dot in dots for value in (dot.predicted, dot.real)]
    limits = (min(values) / _ROOM, max(values) * _ROOM)
    with drawing(4.6, 4.4) as figure:
        axes = figure.subplots()
        axes.set(
            xscale="log", yscale="log", xlim=limits, ylim=limits, xlabel=across, ylabel=up, aspect="equal"
        )
        for axis in (axes.xaxis, axes.yaxis):
            _plain_ticks(axis, limits)
        axes.plot(limits, limits, color=FAINT, linestyle="--", linewidth=1)
        for place, kind in enumerate(kinds):
            group = [dot for dot in dots if dot.kind == kind]
            axes.plot(
                [dot.predicted for dot in group],
                [dot.real for dot in group],
                _MARKERS[place % len(_MARKERS)],
                color=SERIES[place % len(SERIES)],
                markersize=5,
                alpha=0.85,
                label="left alone" if kind == "none" else kind,
            )
        _name_outliers(axes, dots)
        figure.legend(
            loc="outside upper left", ncols=min(len(kinds), 4), columnspacing=1.2, handletextpad=0.2
        )
        return to_svg(figure, title)


def _plain_ticks(axis: Any, limits: tuple[float, float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415  # loads slowly

    decades = math.log10(limits[1] / limits[0])
    # ten or more decades happen: a layer that loses nothing beside one that loses much
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=7))
    # the usual labels are formulas, which the report's style switches off
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _name_outliers(axes: Any, dots: Sequence[_Dot]) -> None:
    """The names of the points farthest from the diagonal, on the side that faces it."""
    middle = math.sqrt(math.prod(axes.get_xlim()))
    by_distance = sorted(dots, key=lambda dot: -abs(math.log(dot.real / dot.predicted)))
    for dot in by_distance[:_NAMED]:
        if max(dot.real / dot.predicted, dot.predicted / dot.real) < _WORTH_A_NAME:
            return
        right = dot.predicted > middle
        axes.annotate(
            shortened(dot.name, 20),
            (dot.predicted, dot.real),
            xytext=(-6 if right else 6, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            color=INK,
            fontsize=8,
        )
