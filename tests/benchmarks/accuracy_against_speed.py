"""The README's picture: accuracy against measured speed of the demo, by one method and another.

``python tests/benchmarks/accuracy_against_speed.py notebooks/pictures/accuracy_against_speed`` makes the
networks, writes what was measured (.json) and draws it (.svg); ``--draw`` draws what was measured before.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import cnncompress as cc
from cnncompress.api import compress_speedups, default_data
from cnncompress.cli.progress import Progress
from cnncompress.environment import environment
from cnncompress.svg import FAINT, INK, SERIES, drawing, on_paper, to_svg
from cnncompress.text_file import write_text

METHODS = {"gsvd3d": "fitted to responses (gsvd3d, the default)", "svd": "the weights' own SVD"}
COLORS, MARKERS = (SERIES[0], SERIES[1]), "os"


def measured(name: str, speedups: Sequence[float]) -> dict[str, Any]:
    """Accuracy and time of a network for each method and speedup."""
    network = cc.load_network(name)
    calibration, evaluation, _ = default_data(network, 300, 0)
    points = []
    for method in METHODS:
        options = cc.Options(method=method, allow_slower=True, measure=True)
        with Progress() as report:
            for asked, result in zip(
                speedups,
                compress_speedups(network, calibration, evaluation, options, speedups, report),
                strict=True,
            ):
                points.append(
                    {
                        "method": method,
                        "asked": asked,
                        "macs": result.report["macs"]["conv_speedup"],
                        "speedup": result.report["latency"][0]["speedup"],
                        "accuracy": result.report["accuracy"]["top1_after"],
                    }
                )
    accuracy = result.report["accuracy"]
    return {
        "network": name,
        "points": points,
        "accuracy": accuracy["top1_before"],
        "images": accuracy["n"],
        "environment": environment(),
    }


def drawn(found: dict[str, Any]) -> str:
    """Accuracy against measured speed, a line for each method."""
    with drawing(6.4, 3.4) as figure:
        axes = figure.subplots()
        axes.axhline(found["accuracy"], color=FAINT, linewidth=1.2, linestyle="--")
        axes.text(1, found["accuracy"] + 2, f"original, {found['accuracy']:.1f} %", color=INK)
        for (method, label), color, marker in zip(METHODS.items(), COLORS, MARKERS, strict=True):
            line = [point for point in found["points"] if point["method"] == method]
            places = [point["speedup"] for point in line], [point["accuracy"] for point in line]
            axes.plot(*places, color=color, marker=marker, label=label)
            for point in line:
                axes.annotate(
                    f"{point['asked']:g}x",
                    (point["speedup"], point["accuracy"]),
                    xytext=(0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
        axes.set_xlim(left=1)
        axes.set_ylim(0, 100)
        axes.set_xlabel("measured speedup, torch, one thread (beside the points: asked, in MACs)")
        axes.set_ylabel(f"top-1 of {found['images']} test images, %")
        figure.legend(loc="outside upper left", ncols=2)
        return on_paper(to_svg(figure, f"{found['network']}: accuracy against measured speed"))


@click.command()
@click.argument("to", type=click.Path(path_type=Path))
@click.option("--model", default="vgg16-elpv", show_default=True)
@click.option("--draw", is_flag=True, help="Draw what was measured before.")
def main(to: Path, model: str, draw: bool) -> None:
    """Measure and draw."""
    file = to.with_suffix(".json")
    if not draw:
        write_text(file, json.dumps(measured(model, (2, 3, 4, 5)), indent=2) + "\n")
    write_text(to.with_suffix(".svg"), drawn(json.loads(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
