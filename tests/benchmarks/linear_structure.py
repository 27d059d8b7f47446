"""Denton et al.'s methods on real layers: error by metric and by grouping, speed by the clock, time to fit.

Run ``python tests/benchmarks/linear_structure.py [NETWORK ...]`` (default: the two demos, VGG-16 and AlexNet
with ImageNet convolutions and a classifier of solar cells; about half an hour on one core). Every layer is
replaced alone, at half its multiply-accumulates. Solutions are fitted and judged on training images; the
errors printed are squared and relative: of the weight, or of the responses behind the rectifier on test
images that neither saw. ``random`` stands for random instead of found clusters. The table is Markdown.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress import Network, Options, load_network
from cnncompress.applicability import ranks_within
from cnncompress.calibration import Calibration, calibrate
from cnncompress.decompositions import Decomposition, SVDOut, make
from cnncompress.decompositions.base import Need
from cnncompress.default_data import default_data
from cnncompress.effective_kernel import effective_kernel
from cnncompress.factorize import load_, originals
from cnncompress.folding import copy_sharing_weights, fold_batchnorms, foldable
from cnncompress.gather import Context, responses_of
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.layer_timing import time_replacement
from cnncompress.prefix import Prefix
from cnncompress.responses import Responses

LAYERS = {
    "alexnet-elpv": ("features.3", "features.6", "features.8", "features.10"),
    "vgg16-elpv": ("features.7", "features.14", "features.19"),
}
FIRST = {"alexnet-elpv": "features.0"}
METHODS = ("svd-out", "svd-in", "outer", "biclustering-outer", "biclustering-svd")
IMAGES, TEST_IMAGES = 100, 24


@dataclass(frozen=True, kw_only=True)
class Everything(SVDOut):
    """Asks for all statistics, so that one calibration serves all metrics."""

    @property
    def needs(self) -> frozenset[Need]:
        """All there is."""
        return frozenset({"responses", "inputs", "gradients"})


@dataclass
class Case:
    """One layer with what is known of it."""

    layer: LayerInfo
    module: nn.Conv2d
    responses: Responses
    weight: Any
    bias: Any
    test_inputs: Tensor


def cases(network: Network, names: tuple[str, ...]) -> Iterator[Case]:
    """Calibrate a network once and hand out its layers.

    Args:
        network: with its own default data.
        names: of the layers.

    Yields:
        The layers in the order of execution.
    """
    options = Options(images=IMAGES)
    folded = foldable(inspect_layers(network.model, network.input_size))
    original = fold_batchnorms(network.model, folded).to(memory_format=torch.channels_last)
    layers = {layer.name: layer for layer in inspect_layers(original, network.input_size)}
    source, test, _ = default_data(network, IMAGES, options.seed)
    assert test is not None
    watched = [layers[name] for name in names]
    known: Calibration = calibrate(
        original, watched, dict.fromkeys(names, Everything()), source, options, lambda event: None
    )
    prefix = Prefix(copy_sharing_weights(original), source, batch_size=10, memory=10**9)
    context = Context(calibration=known, prefix=prefix, holdout=options.holdout, seed=0, backend="numpy")
    inputs = test_inputs(original, test, names)
    arrays = originals(original, list(names))
    for layer in watched:
        module = original.get_submodule(layer.name)
        assert isinstance(module, nn.Conv2d)
        weight, bias = arrays[layer.name]
        yield Case(
            layer, module, responses_of(layer, Everything(), (1,), context), weight, bias, inputs[layer.name]
        )


def test_inputs(original: nn.Module, test: Any, names: tuple[str, ...]) -> Mapping[str, Tensor]:
    """What the layers read for a few test images.

    Args:
        original: the network.
        test: its test images.
        names: of the layers.

    Returns:
        Their inputs.
    """
    caught: dict[str, Tensor] = {}
    handles = [
        original.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: caught.__setitem__(name, args[0].clone())
        )
        for name in names
    ]
    batch = next(iter(test.batches(TEST_IMAGES)))
    with torch.inference_mode():
        original(batch.images.to(memory_format=torch.channels_last))
    for handle in handles:
        handle.remove()
    return caught


def fitted(case: Case, method: Decomposition, ranks: tuple[int, ...]) -> tuple[nn.Sequential, float]:
    """Solve for a replacement.

    Args:
        case: the layer.
        method: replaces it.
        ranks: of the replacement.

    Returns:
        The replacement and the seconds that it took.
    """
    begun = time.perf_counter()
    responses = case.responses if method.needs_data else None
    factors = method.fit(case.layer, case.weight, case.bias, responses, ranks)
    seconds = time.perf_counter() - begun
    replacement = method.build(case.layer, ranks).eval()
    load_(replacement, factors, like=case.module.weight)
    return replacement, seconds


def error(case: Case, replacement: nn.Module) -> float:
    """Squared relative error on the test images, behind the rectifier.

    Args:
        case: the layer.
        replacement: of the layer.

    Returns:
        Share of energy lost.
    """
    with torch.inference_mode():
        target = torch.relu(case.module(case.test_inputs))
        got = torch.relu(replacement(case.test_inputs))
        return float(
            (target - got).square().sum(dtype=torch.float64) / target.square().sum(dtype=torch.float64)
        )


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
    for case in cases(load_network(network), names):
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
    torch.set_num_threads(1)
    main(sys.argv[1:] or list(LAYERS))
