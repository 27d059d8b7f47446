"""Denton et al.'s methods on real layers: error by metric and by grouping, speed by the clock, time to fit.

Run ``python tests/benchmarks/linear_structure.py [NETWORK ...]`` (default: the two demos, VGG-16 and AlexNet
with ImageNet convolutions and a classifier of solar cells; about half an hour on one core). Every layer is
replaced alone, at half its multiply-accumulates. Solutions are fitted and judged on training images; the
errors printed are squared and relative: of the weight, or of the responses behind the rectifier on test
images that neither saw. ``random`` stands for random instead of found clusters. The table is Markdown.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from single_layers import Case, cases, error, fitted
from torch import nn, set_num_threads

from cnncompress import load_network
from cnncompress.applicability import ranks_within
from cnncompress.decompositions import SVDOut, make
from cnncompress.decompositions.base import Need
from cnncompress.effective_kernel import effective_kernel
from cnncompress.layer_timing import time_replacement

LAYERS = {
    "alexnet-elpv": ("features.3", "features.6", "features.8", "features.10"),
    "vgg16-elpv": ("features.7", "features.14", "features.19"),
}
FIRST = {"alexnet-elpv": "features.0"}
METHODS = ("svd-out", "svd-in", "outer", "biclustering-outer", "biclustering-svd")


@dataclass(frozen=True, kw_only=True)
class Everything(SVDOut):
    """Asks for all statistics, so that one calibration serves all metrics."""

    @property
    def needs(self) -> frozenset[Need]:
        """All there is."""
        return frozenset({"responses", "inputs", "gradients"})


def weight_error(case: Case, replacement: nn.Module) -> float:
    """Squared relative error of the weight that a replacement amounts to.

    Args:
        case: the layer.
        replacement: of the layer.

    Returns:
        Share of energy lost.
    """
    difference = effective_kernel(replacement, case.layer) - case.weight
    return float((difference**2).sum() / (case.weight**2).sum())


def rows(network: str, names: tuple[str, ...], methods: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """One line for each layer and method.

    Args:
        network: its name.
        names: of the layers.
        methods: their names.

    Yields:
        The columns.
    """
    for case in cases(load_network(network), names, Everything()):
        for name in methods:
            ranks = ranks_within(make(name), case.layer, case.layer.macs // 2)
            if make(name).obstacle(case.layer) or ranks is None:
                continue
            line: dict[str, Any] = {
                "layer": f"{network} {case.layer.name}",
                "method": name,
                "ranks": ", ".join(map(str, ranks)),
                "MACs": case.layer.macs / make(name).macs(case.layer, ranks),
            }
            for metric in ("frobenius", "gradient", "data"):
                chain, seconds = fitted(case, make(name, {"metric": metric}), ranks)
                line[metric] = error(case, chain)
                if metric == "frobenius":
                    line["weight"] = weight_error(case, chain)
            line["fit s"] = seconds
            if name.startswith("biclustering"):
                for metric, column in (("frobenius", "weight, random"), ("data", "data, random")):
                    other, _ = fitted(case, make(name, {"grouping": "random", "metric": metric}), ranks)
                    measure = weight_error if metric == "frobenius" else error
                    line[column] = measure(case, other)
            line["speed"] = time_replacement(case.layer, case.module, chain, threads=1, repeats=20).speedup
            yield line


def show(value: Any) -> str:
    """A cell of the table.

    Args:
        value: text, number or None.

    Returns:
        Text.
    """
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.3g}"


def main(networks: list[str]) -> None:
    """Print the table and what it says.

    Args:
        networks: their names.
    """
    errors = ("weight", "weight, random", "frobenius", "gradient", "data", "data, random")
    columns = ("layer", "method", "ranks", "MACs", *errors, "speed", "fit s")
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    table = []
    for network in networks:
        first = FIRST.get(network)
        jobs = [(LAYERS[network], METHODS)] + ([((first,), ("monochromatic",))] if first else [])
        for names, methods in jobs:
            for line in rows(network, names, methods):
                table.append(line)
                print("| " + " | ".join(show(line.get(column)) for column in columns) + " |", flush=True)
    worse = [line for line in table if line["data"] > line["frobenius"]]
    grouped = [line for line in table if "data, random" in line]
    print(f"\ndata metric worse than Frobenius: {len(worse)} of {len(table)}")
    for column in ("weight", "data"):
        beaten = [line for line in grouped if line[column] >= line[f"{column}, random"]]
        print(f"clusters no better than random ones, {column}: {len(beaten)} of {len(grouped)}")


if __name__ == "__main__":
    set_num_threads(1)
    main(sys.argv[1:] or list(LAYERS))
