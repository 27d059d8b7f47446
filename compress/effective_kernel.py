"""The one dense kernel that a chain of linear layers amounts to."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnncompress.errors import ModelError
from cnncompress.inspect import LayerInfo
from cnncompress.interleave import device_of

_COLORS = 3
_MOST_WEIGHTS = 40_000  # keeps report.json small
_DIGITS = 4


def effective_kernel(replacement: nn.Module, layer: LayerInfo) -> np.ndarray:
    """Probe a replacement with unit impulses.

    Each impulse is one entry of a single input patch, with nothing around it: the layers' padding is left
    out, so that every stride yields the one output position whose receptive field is the patch.

    Args:
        replacement: layers that are linear but for their biases; left as it was.
        layer: the layer that it replaces.

    Returns:
        float64, shape (out_channels, in_channels, kernel height, kernel width); of a grouped layer too,
        with zeros between its groups.

    Raises:
        ModelError: what the replacement sees is not the layer's patch.
    """
    probed = deepcopy(replacement).eval().double()
    for module in probed.modules():
        if isinstance(module, nn.Conv2d):
            module.padding, module.padding_mode = (0, 0), "zeros"
    impulses = _impulses(layer).to(device_of(probed))
    with torch.inference_mode():
        try:
            responses = probed(impulses) - probed(torch.zeros_like(impulses[:1]))
        except RuntimeError as error:
            raise ModelError(_misfit(layer)) from error
    if responses[0].numel() != layer.out_channels:
        raise ModelError(_misfit(layer))
    kernel: np.ndarray = responses.cpu().numpy().reshape(layer.in_channels, *layer.kernel_size, -1)
    return kernel.transpose(3, 0, 1, 2)


def filters_of(
    layer_weight: Tensor | np.ndarray,
    replacement: nn.Module,
    layer: LayerInfo,
    *,
    order: Sequence[int] | None = None,
) -> dict[str, Any] | None:
    """The filters of a layer that looks at colours, before and after, as report.json holds them.

    Args:
        layer_weight: of the layer, shape (out_channels, 3, kernel height, kernel width).
        replacement: layers that are linear but for their biases.
        layer: the layer.
        order: for each output of the replacement, the layer's output that it stands for; None where
            they are in the layer's order.

    Returns:
        ``layer`` (its name), ``shape``, and ``before`` and ``after`` with the numbers of each filter as one
        text of 4 digits; None for layers that aren't convolutions of three channels, are too large for a
        report, or whose numbers aren't finite.
    """
    if layer.kind != "conv2d" or layer.in_channels != _COLORS or layer.groups != 1:
        return None
    if layer.out_channels * layer.patch_size > _MOST_WEIGHTS:
        return None
    before = torch.as_tensor(layer_weight).detach().cpu().double().numpy()
    after = effective_kernel(replacement, layer)
    if order is not None:
        after = after[np.argsort(order)]
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return None
    return {
        "layer": layer.name,
        "shape": list(before.shape),
        "before": _texts(before),
        "after": _texts(after),
    }


def filter_arrays(filters: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Read back what `filters_of` wrote.

    Args:
        filters: the report's filters.

    Returns:
        Before and after, each of shape (out_channels, 3, kernel height, kernel width).
    """
    before, after = (
        np.array([text.split() for text in filters[side]], dtype=float).reshape(filters["shape"])
        for side in ("before", "after")
    )
    return before, after


def _impulses(layer: LayerInfo) -> Tensor:
    # ordered as the kernel: input channel, row, column
    if layer.kind == "linear":
        return torch.eye(layer.in_channels, dtype=torch.float64)
    height, width = layer.kernel_size
    down, right = layer.dilation
    count = layer.in_channels * height * width
    patches = torch.zeros(
        count,
        layer.in_channels,
        (height - 1) * down + 1,
        (width - 1) * right + 1,
        dtype=torch.float64,
    )
    taken = patches[:, :, ::down, ::right]
    taken.copy_(torch.eye(count, dtype=torch.float64).reshape(taken.shape))
    return patches


def _misfit(layer: LayerInfo) -> str:
    height, width = layer.kernel_size
    return (
        f"{layer.name}: the replacement doesn't map the layer's {layer.in_channels} x {height} x {width} "
        f"patch to {layer.out_channels} outputs; pass the layers that replace this one"
    )


def _texts(kernel: np.ndarray) -> list[str]:
    # one text a filter: a list of numbers would take a line of report.json for each
    largest = float(np.abs(kernel).max())
    decimals = _DIGITS - 1 - math.floor(math.log10(largest)) if largest > 0 else 0
    rows = kernel.reshape(len(kernel), -1)
    return [" ".join(f"{value:.{max(decimals, 0)}f}" for value in row) for row in rows]
