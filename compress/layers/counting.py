"""Multiply-accumulates of all layers of a network."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.layers.costs import layer_macs
from cnncompress.layers.topological import TopologicalConv2d

COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, TopologicalConv2d)


def macs_by_layer(
    model: nn.Module, input_size: tuple[int, int, int], *, theoretical: bool = False
) -> dict[str, int]:
    """Run one image and note what each convolution and linear layer costs.

    Args:
        model: left as it was; on the ``meta`` device nothing is computed.
        input_size: channels, height and width.
        theoretical: count the connections of topological layers, as the papers do, instead of what is
            executed.

    Returns:
        Names of layers to multiply-accumulates of one image, in the order of the model; a layer that runs
        twice counts twice.
    """
    found: dict[str, int] = {}
    modes = {module: module.training for module in model.modules()}
    reference = next(model.parameters(), torch.zeros(()))
    image = torch.zeros((1, *input_size), dtype=reference.dtype, device=reference.device)
    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, COUNTED):
                found[name] = 0
                handle = module.register_forward_hook(_counter(found, name, theoretical=theoretical))
                hooks.callback(handle.remove)
        try:
            model.eval()(image)
        finally:
            for module, training in modes.items():
                module.training = training
    return found


def _counter(
    found: dict[str, int], name: str, *, theoretical: bool
) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
    def count(module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        found[name] += _macs(module, inputs[0], theoretical=theoretical)

    return count


def _macs(module: nn.Module, x: Tensor, *, theoretical: bool) -> int:
    if isinstance(module, nn.Linear):
        return module.weight.numel() * (x.numel() // x.shape[-1])
    if isinstance(module, nn.ConvTranspose2d):
        return module.weight.numel() * x.shape[-2] * x.shape[-1]
    if theoretical and isinstance(module, TopologicalConv2d):
        return module.theoretical_macs(*x.shape[-2:])
    return layer_macs(module, *x.shape[-2:])
