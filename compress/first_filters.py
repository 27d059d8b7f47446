"""The filters of the first layer that was replaced, for the report."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cnncompress.decompositions import make
from cnncompress.effective_kernel import filters_of
from cnncompress.inspect import LayerInfo
from cnncompress.plan import LayerPlan


def first_filters(
    original: nn.Module, compressed: nn.Module, layers: Sequence[LayerInfo], plans: Sequence[LayerPlan]
) -> dict[str, Any] | None:
    """The filters of the first layer that was replaced, before and after.

    Args:
        original: the network before, BatchNorm folded.
        compressed: the network after.
        layers: description of the original's layers.
        plans: what happened to each of them.

    Returns:
        What `filters_of` returns; None if no replacement convolves, or if its filters don't look at colours.
    """
    for layer, planned in zip(layers, plans, strict=True):
        if planned.method != "none" and make(planned.method, planned.options).convolves:
            before, after = (model.get_submodule(layer.name) for model in (original, compressed))
            assert isinstance(before.weight, torch.Tensor)
            return filters_of(before.weight, after, layer)
    return None
