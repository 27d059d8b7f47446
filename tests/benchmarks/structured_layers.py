"""The structured layers of Wang et al. and Ioannou et al. in place of trained ones: error and speed.

Run ``python tests/benchmarks/structured_layers.py [NETWORK ...]`` (default: the demo's VGG-16, ImageNet
convolutions with a classifier of solar cells; about an hour on one core). Layers are replaced one at a time,
at the setting of each method that comes closest to a half and to a quarter of its multiply-accumulates from
below. Replacements are fitted to training images, and nothing is fine-tuned; the errors printed are
squared and relative, of the responses behind the rectifier on test images that no fit saw. ``weight`` is the
same method without data. The table is Markdown.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from single_layers import Case, cases, error, fitted
from torch import set_num_threads

from cnncompress import load_network
from cnncompress.applicability import ranks_within
from cnncompress.decompositions import Decomposition, Ranks, make, options_of
from cnncompress.inspect import LayerInfo
from cnncompress.layer_timing import time_replacement

LAYERS = {
    "vgg16-elpv": ("features.7", "features.14", "features.26"),
    "alexnet-elpv": ("features.3", "features.6", "features.8", "features.10"),
}
METHODS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("gsvd", {}),
    ("gsvd3d", {}),
    ("spatial", {}),
    ("unravel", {}),
    ("sic", {}),
    ("sic", {"bases": 2, "kind": "parallel"}),
    ("sic-bottleneck", {}),
    ("spatial-bottleneck", {}),
    ("root", {"groups": 4}),
    ("root", {"groups": 8}),
    ("groups", {"groups": 2}),
    ("groups", {"groups": 4}),
    ("topological", {}),
)
SHARES = (0.5, 0.25)


def settings(method: Decomposition, layer: LayerInfo) -> list[Ranks]:
    """The settings that are tried on a layer.

    Args:
        method: a decomposition.
        layer: the layer.

    Returns:
        One for each share of the layer's cost that can be reached, without doubles.
    """
    if method.obstacle(layer):
        return []
    asked = method.asked(layer)
    if asked is not None:
        return [asked]
    found = (ranks_within(method, layer, int(share * layer.macs)) for share in SHARES)
    return list(dict.fromkeys(ranks for ranks in found if ranks is not None))


def line(case: Case, name: str, options: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """What one replacement reaches.

    Args:
        case: the layer.
        name: of the method.
        options: of the method.
        ranks: of the replacement.

    Returns:
        The columns.
    """
    method = make(name, options)
    replacement, seconds = fitted(case, method, ranks)
    row: dict[str, Any] = {
        "layer": case.layer.name,
        "method": " ".join([name, *(f"{key}={value}" for key, value in options.items())]),
        "ranks": ", ".join(map(str, ranks)),
        "MACs": case.layer.macs / method.macs(case.layer, ranks),
        "error": error(case, replacement),
        "fit s": seconds,
    }
    if "data" in options_of(method):
        row["weight"] = error(case, fitted(case, make(name, {**options, "data": False}), ranks)[0])
    row["speed"] = time_replacement(case.layer, case.module, replacement, threads=1, repeats=20).speedup
    return row


def rows(network: str) -> Iterator[dict[str, Any]]:
    """One line for each layer, method and setting.

    Args:
        network: its name.

    Yields:
        The columns.
    """
    loaded = load_network(network)
    for name, options in METHODS:
        method = make(name, options)
        wider: dict[Ranks, list[str]] = {}
        for case in cases(loaded, LAYERS[network], method):
            for ranks in settings(method, case.layer):
                if method.margin(case.layer, ranks) == method.margin(case.layer, (1,)):
                    yield line(case, name, options, ranks)
                else:
                    wider.setdefault(ranks, []).append(case.layer.name)
        for ranks, names in sorted(wider.items()):
            for case in cases(loaded, tuple(names), method, ranks):
                yield line(case, name, options, ranks)


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
    """Print the table.

    Args:
        networks: their names.
    """
    columns = ("layer", "method", "ranks", "MACs", "error", "weight", "speed", "fit s")
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for network in networks:
        for row in rows(network):
            print("| " + " | ".join(show(row.get(column)) for column in columns) + " |", flush=True)


if __name__ == "__main__":
    set_num_threads(1)
    main(sys.argv[1:] or ["vgg16-elpv"])
