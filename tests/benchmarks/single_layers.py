"""Single layers of a real network: what they read and answer, and replacements fitted to that."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress import Network, Options
from cnncompress.calibration import Calibration, calibrate
from cnncompress.decompositions import Decomposition, Ranks
from cnncompress.default_data import default_data
from cnncompress.factorize import load_, originals
from cnncompress.folding import copy_sharing_weights, fold_batchnorms, foldable
from cnncompress.gather import Context, responses_of
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.prefix import Prefix
from cnncompress.responses import Responses

IMAGES, TEST_IMAGES = 100, 24


@dataclass
class Case:
    """One layer with what is known of it."""

    layer: LayerInfo
    module: nn.Conv2d
    responses: Responses
    weight: Any
    bias: Any
    test_inputs: Tensor


def cases(
    network: Network, names: tuple[str, ...], method: Decomposition, ranks: Ranks = (1,)
) -> Iterator[Case]:
    """Calibrate a network once and hand out its layers.

    Args:
        network: with its own default data.
        names: of the layers, in the order in which they run.
        method: says what it needs to know.
        ranks: of a replacement, where the method's margin depends on them.

    Yields:
        Each layer; the network before it is as it was.
    """
    options = Options(images=IMAGES)
    folded = foldable(inspect_layers(network.model, network.input_size))
    original = fold_batchnorms(network.model, folded).to(memory_format=torch.channels_last)
    layers = {layer.name: layer for layer in inspect_layers(original, network.input_size)}
    source, test, _ = default_data(network, IMAGES, options.seed)
    assert test is not None
    watched = [layers[name] for name in names]
    known: Calibration = calibrate(
        original, watched, dict.fromkeys(names, method), source, options, lambda event: None
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
            layer, module, responses_of(layer, method, ranks, context), weight, bias, inputs[layer.name]
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
