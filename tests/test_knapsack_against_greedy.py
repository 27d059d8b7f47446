"""At equal multiply-accumulates the knapsack's plan loses no more than the greedy one, on known networks.

Both see the same energies, those of responses to noise, and are judged by what both aim at: the sum over the
layers of the negative logarithm of the energy that is kept (Zhang et al., section 3.4).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from math import fsum
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import models

from cnncompress.decompositions import Decomposition, Ranks, fallback_of, make
from cnncompress.errors import BudgetError
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.options import Options
from cnncompress.plan import LayerPlan
from cnncompress.ranks import Candidate, choose_methods, choose_ranks
from cnncompress.responses import Statistics
from cnncompress.sampling import flatten_positions
from cnncompress.solvers.knapsack import Choices, choose

SIZE = (3, 64, 64)
IMAGES = 8
POSITIONS = 400
"""Responses that a layer's energies come from; wider layers have no energy beyond as many ranks."""

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "alexnet": lambda: models.alexnet().features,
    "vgg16": lambda: models.vgg16().features,
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "mobilenet_v2": lambda: models.mobilenet_v2().features,
    "googlenet": partial(models.googlenet, aux_logits=False, init_weights=False),
}
SLOW = {"resnet50", "googlenet"}

Align = int | Literal["auto"]


@dataclass(frozen=True)
class Known:
    """A network's convolutions with what the rank rules read of them."""

    layers: tuple[LayerInfo, ...]
    weights: Mapping[str, NDArray[np.float32]]
    energies: Mapping[str, NDArray[np.float64]]


@cache
def known(name: str) -> Known:
    with torch.device("meta"):  # classifiers are wide, and not looked at
        model = NETWORKS[name]()
    model = model.to_empty(device="cpu").eval()
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.Linear):
            module.reset_parameters()
    layers = tuple(layer for layer in inspect_layers(model, SIZE) if layer.kind == "conv2d")
    energies: dict[str, NDArray[np.float64]] = {}

    def look(layer: LayerInfo, output: Tensor) -> None:
        rows = flatten_positions(layer, output).flatten(0, 1).double().numpy()
        rows = rows[np.random.default_rng(0).permutation(len(rows))[:POSITIONS]]
        values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
        energies[layer.name] = np.pad(values, (0, layer.out_channels - len(values)))

    for layer in layers:
        model.get_submodule(layer.name).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: look(layer, output)
        )
    with torch.inference_mode():
        model(torch.randn(IMAGES, *SIZE))
    weights = {layer.name: model.get_submodule(layer.name).weight.detach().numpy() for layer in layers}
    return Known(layers, weights, energies)


def candidates(network: Known, methods: Mapping[str, Decomposition], align: Align) -> list[Candidate]:
    found = []
    for layer in network.layers:
        if layer.name in methods:
            method = methods[layer.name]
            outputs: Any = SimpleNamespace(spectrum=(network.energies[layer.name], None))
            step = Options(align=align).step(layer.out_channels)
            energies = tuple(method.energies(layer, network.weights[layer.name], Statistics(outputs)))
            found.append(Candidate(layer=layer, method=method, energies=energies, step=step))
    return found


@dataclass(frozen=True)
class Named:
    """A layer's menu, and the place in it of each choice that a plan can name."""

    choices: Choices
    places: Mapping[tuple[str, Ranks], int]


def menu_of(candidate: Candidate) -> Named:
    """All that the layer can become under the greedy rule; three parts give way to two where these do."""
    costs, losses, names = [], [], []
    in_two = fallback_of(candidate.method) if len(candidate.energies) == 2 else None
    simpler = (
        None
        if in_two is None
        else Candidate(
            layer=candidate.layer, method=in_two, energies=candidate.energies[1:], step=candidate.step
        )
    )
    for one in filter(None, (candidate, simpler)):
        menu, settings = one.as_menu()
        costs.append(menu.costs)
        losses.append(-menu.log_kept)
        names += [("none" if ranks is None else one.method.name, ranks or ()) for ranks in settings]
    choices = Choices(np.concatenate(costs).astype(np.float64), np.maximum(np.concatenate(losses), 0))
    return Named(choices, {name: place for place, name in reversed(list(enumerate(names)))})


def spent_and_lost(menus: Mapping[str, Named], plans: Mapping[str, LayerPlan]) -> tuple[float, float]:
    places = {name: menu.places[plans[name].method, plans[name].ranks] for name, menu in menus.items()}
    return (
        fsum(float(menus[name].choices.costs[place]) for name, place in places.items()),
        fsum(float(menus[name].choices.losses[place]) for name, place in places.items()),
    )


@pytest.mark.parametrize(("method", "align"), [("gsvd", 1), ("gsvd", "auto"), ("gsvd3d", "auto")])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NETWORKS]
)
def test_at_equal_cost_the_knapsack_loses_no_more(name: str, method: str, align: Align) -> None:
    network = known(name)
    methods, _ = choose_methods(network.layers, make(method))
    found = candidates(network, methods, align)
    menus = {candidate.layer.name: menu_of(candidate) for candidate in found}
    total = sum(layer.macs for layer in network.layers)
    fixed = sum(layer.macs for layer in network.layers if layer.name not in methods)
    compared = 0
    for speedup in (1.5, 3.0):
        try:
            plans = choose_ranks(found, total=total, fixed=fixed, speedup=speedup)
        except BudgetError:
            continue
        cost, loss = spent_and_lost(menus, plans)
        assert fixed + cost <= total / speedup
        selection = choose([menu.choices for menu in menus.values()], budget=cost)
        assert selection.cost <= cost
        assert selection.loss <= loss * (1 + 1e-12)
        assert selection.bound <= selection.loss
        compared += 1
    assert compared > 0
