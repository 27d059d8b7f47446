"""What the layers of a network cost; on torch's meta device nothing is computed for it."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.layers import TopologicalConv2d
from cnncompress.layers.costs import Costed
from cnncompress.zoo.registry import build, entry

IMAGES = 2  # BatchNorm can't be trained on one


@dataclass(frozen=True)
class Cost:
    """What a layer or a network costs.

    Attributes:
        macs: multiply-accumulates for one image.
        params: weights and biases of convolutions and linear layers.
    """

    macs: int
    params: int


def layer_costs(
    model: nn.Module,
    input_size: tuple[int, int, int],
    *,
    training: bool = False,
    theoretical: bool = False,
) -> dict[str, Cost]:
    """Run a network once and count its convolutions, transposed ones too, and its linear layers.

    Args:
        model: left as it was in evaluation mode; counted in training mode, its BatchNorms move.
        input_size: channels, height and width.
        training: count what runs in training mode, auxiliary heads for example.
        theoretical: count the connections of topological layers, as the papers do, instead of what is
            executed.

    Returns:
        For each layer that runs, by name; the multiply-accumulates of all its runs.
    """
    macs: dict[str, int] = {}
    modules = {name: module for name, module in model.named_modules() if _is_counted(module)}
    reference = next(model.parameters(), torch.zeros(()))
    example = torch.zeros((IMAGES, *input_size), dtype=reference.dtype, device=reference.device)
    modes = {module: module.training for module in model.modules()}
    with ExitStack() as hooks, torch.no_grad():
        for name, module in modules.items():

            def count(
                module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, name: str = name
            ) -> None:
                macs[name] = macs.get(name, 0) + _macs(module, inputs[0], output, theoretical=theoretical)

            hooks.callback(module.register_forward_hook(count).remove)
        try:
            model.train(training)
            model(example)
        finally:
            for part, mode in modes.items():
                part.training = mode
    return {name: Cost(count, _params(modules[name])) for name, count in macs.items()}


def total(costs: Iterable[Cost]) -> Cost:
    """Add up.

    Args:
        costs: of layers.

    Returns:
        Of all together.
    """
    each = list(costs)
    return Cost(sum(cost.macs for cost in each), sum(cost.params for cost in each))


def network_cost(name: str, *, training: bool = False) -> Cost:
    """What a registered network costs for the paper's input and classes; nothing is computed.

    Args:
        name: of the register.
        training: count what runs in training mode.

    Returns:
        The sum over its layers.
    """
    with torch.device("meta"):
        model = _without_norms(build(name))
    return total(layer_costs(model, entry(name).input_size, training=training).values())


def _without_norms(model: nn.Module) -> nn.Module:
    # They cost no multiply-accumulates here, and on the meta device more time than all else.
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def _is_counted(module: nn.Module) -> bool:
    # a layer of ours that is made of torch's is counted by its parts
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) or (
        isinstance(module, Costed) and not any(module.children())
    )


def _macs(module: Any, read: Tensor, output: Tensor, *, theoretical: bool) -> int:
    if isinstance(module, nn.Conv2d):
        return module.weight.numel() * prod(output.shape[-2:])
    if isinstance(module, nn.ConvTranspose2d):  # every input pixel meets every weight
        return module.weight.numel() * prod(read.shape[-2:])
    if isinstance(module, nn.Linear):
        return module.weight.numel() * prod(output.shape[1:-1])
    connected = theoretical and isinstance(module, TopologicalConv2d)
    macs: int = (module.theoretical_macs if connected else module.macs)(*read.shape[-2:])
    return macs


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
