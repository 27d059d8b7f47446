"""Sums over samples that lie spread over the processes."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TypeVar

import torch
from torch import Tensor

from cnncompress.distributed.world import World

Sums = TypeVar("Sums")


def add_up(sums: Sums | None, kind: Callable[..., Sums], world: World, device: torch.device) -> Sums | None:
    """Add up the sums of all processes.

    Args:
        sums: of this process, as tensors; None if it had no image to read.
        kind: the class: a dataclass of a count and of tensors in that order.
        world: the processes.
        device: of the tensors.

    Returns:
        The sums over all samples, the same in all processes; None if there are none.
    """
    if world.is_alone:
        return sums
    own: list[Tensor] | None = None
    if sums is not None:
        assert is_dataclass(sums)
        count, *tensors = (getattr(sums, field.name) for field in fields(sums))
        own = [torch.tensor(count, device=device), *tensors]
    found = world.sum_each(own, device)
    return None if found is None else kind(int(found[0]), *found[1:])
