"""The picture of the answers that changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnncompress.svg import SERIES, drawing, to_svg

_KINDS = {
    "lost": ("right before, wrong after", SERIES[1]),
    "gained": ("wrong before, right after", SERIES[2]),
    "both_wrong": ("wrong before and after", SERIES[7]),
}
_LENGTH = 24  # characters of a class name


def changed_bars(changed: Mapping[str, Any]) -> str:
    """The most frequent changes from one class to another, by what they meant.

    Args:
        changed: the report's part on changed answers.

    Returns:
        An ``<svg>`` element; an empty string where no answer changed.
    """
    pairs: Sequence[Mapping[str, Any]] = changed.get("pairs") or []
    if not pairs:
        return ""
    at = range(len(pairs))
    names = [f"{_short(pair['before'])} → {_short(pair['after'])}" for pair in pairs]
    with drawing(9.5, 0.9 + 0.24 * len(pairs)) as figure:
        axes = figure.subplots()
        if changed.get("lost") is None:
            bars = axes.barh(at, [pair["images"] for pair in pairs], height=0.6, color=SERIES[0])
        else:
            bars = _stacked(axes, pairs)
            figure.legend(loc="outside upper left", ncols=len(_KINDS))
        axes.bar_label(bars, [f"{pair['images']}" for pair in pairs], padding=4)
        axes.set_yticks(at, names)
        axes.set_ylim(len(pairs) - 0.4, -0.6)
        axes.set_xlim(0, 1.06 * max(pair["images"] for pair in pairs))
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("images, class before → class after")
        axes.grid(visible=False, axis="y")
        return to_svg(figure, "Most frequent changes of the answer, class before and class after")


def _stacked(axes: Any, pairs: Sequence[Mapping[str, Any]]) -> Any:
    left = [0] * len(pairs)
    bars = None
    for kind, (label, color) in _KINDS.items():
        widths = [pair.get(kind) or 0 for pair in pairs]
        bars = axes.barh(range(len(pairs)), widths, left=left, height=0.6, color=color, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    return bars


def _short(name: str) -> str:
    # the beginning tells classes apart, unlike the names of layers
    return name if len(name) <= _LENGTH else name[: _LENGTH - 1] + "…"
