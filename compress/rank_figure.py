"""The picture of the ranks that were chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnncompress.svg import SERIES, drawing, shortened, to_svg


def rank_bars(layers: Sequence[Mapping[str, Any]], energy: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """The ranks of each replaced layer, beside the largest one where the report knows it.

    Args:
        layers: the report's lines of layers, in the order of the network.
        energy: for each layer, pairs of rank and cumulative share of the energy; the last one is of the full
            rank.

    Returns:
        An ``<svg>`` element; an empty string where no layer has ranks.
    """
    replaced = [line for line in layers if line.get("ranks")]
    if not replaced:
        return ""
    at = range(len(replaced))
    chosen = [line["ranks"][-1] for line in replaced]
    full = [energy[line["name"]][-1][0] if energy.get(line["name"]) else 0 for line in replaced]
    with drawing(9.5, 0.9 + 0.24 * len(replaced)) as figure:
        axes = figure.subplots()
        if any(full):
            axes.barh(at, full, height=0.78, color=SERIES[0], alpha=0.3, label="full")
        axes.barh(at, chosen, height=0.42, color=SERIES[0], label="chosen, the last of several")
        for place, line in enumerate(replaced):
            text = ", ".join(map(str, line["ranks"])) + (f" of {full[place]:.0f}" if full[place] else "")
            axes.annotate(
                text,
                (max(full[place], chosen[place]), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(at, [shortened(line["name"], 30) for line in replaced])
        axes.set_ylim(len(replaced) - 0.4, -0.6)
        axes.set_xlim(0, 1.18 * max(*full, *chosen))
        axes.set_xlabel("rank")
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper left", ncols=2)
        return to_svg(figure, "Ranks of each layer")
