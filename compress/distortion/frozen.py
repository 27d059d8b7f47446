"""A copy of a network that can be run and differentiated without touching the caller's."""

from copy import deepcopy
from typing import Any

from torch import nn


def frozen_copy(model: nn.Module) -> nn.Module:
    """Copy a network for running it; its weights take no memory of their own.

    Args:
        model: left as it was.

    Returns:
        The network in evaluation mode; its parameters share the caller's memory and need no gradient.
    """
    shared: dict[int, Any] = {id(parameter): _frozen(parameter) for parameter in model.parameters()}
    return deepcopy(model, shared).eval()


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    # a tensor made in inference mode can't be kept for a backward pass
    values = parameter.clone() if parameter.is_inference() else parameter.detach()
    return nn.Parameter(values, requires_grad=False)
