"""The optimizer of a recipe."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from cnncompress.training.recipe import Recipe

_SECOND_BETA = 0.999  # torch's own default


def build_optimizer(
    trained: Sequence[nn.Parameter], recipe: Recipe, factors: Collection[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Make the optimizer.

    Args:
        trained: the parameters that change. Those with fewer than two axes are biases and the scales and
            shifts of norms; they decay only if the recipe says so.
        recipe: its fields for the optimizer.
        factors: those of them that replaced layers hold; they decay only if the recipe says so.

    Returns:
        SGD or AdamW.
    """
    apart = set() if recipe.decay_factors else {id(parameter) for parameter in factors}
    decaying = [
        parameter
        for parameter in trained
        if id(parameter) not in apart and (parameter.ndim > 1 or recipe.decay_vectors)
    ]
    known = {id(parameter) for parameter in decaying}
    groups: list[dict[str, Any]] = [
        {"params": decaying},
        {"params": [parameter for parameter in trained if id(parameter) not in known], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(filled, betas=(recipe.momentum, _SECOND_BETA), **common)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(filled, momentum=recipe.momentum, nesterov=nesterov, **common)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Change the rate of all parameters.

    Args:
        optimizer: changed in place.
        rate: the new one.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
