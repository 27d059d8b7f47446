"""What a network does with images, as named tensors that two networks can be compared by."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run a network.

    Args:
        model: on the CPU, in the mode in which it shall run.
        images: shape (batch, channels, height, width).

    Returns:
        The tensors of its output, its buffers where it is in training mode, and the random numbers that come
        next: a network that draws others, or none, will differ sooner or later.
    """
    with _seeded(), torch.no_grad():
        found = dict(_named_tensors(model(images.clone()), "output"))
        following = [float(torch.rand(())), random.random(), float(np.random.random())]  # noqa: NPY002, S311  # as networks draw
    if model.training:
        found |= {f"buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}
    return {**found, "random numbers": torch.tensor(following, dtype=torch.float64)}


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Follow the outputs' squares back to the parameters.

    Args:
        model: on the CPU, in the mode in which it shall run; its parameters get no ``grad``.
        images: shape (batch, channels, height, width).

    Returns:
        Sum and length of the gradient of every parameter that has one.
    """
    found: dict[str, Tensor] = {}

    def note(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        # not in float64, whose copy of a large classifier would take a gigabyte
        found[name] = torch.stack([parameter.grad.sum(), parameter.grad.norm()])
        parameter.grad = None

    handles = [
        parameter.register_post_accumulate_grad_hook(partial(note, name))  # type: ignore[no-untyped-call]  # torch has no types there
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        with _seeded(), torch.enable_grad():
            tensors = [tensor for _, tensor in _named_tensors(model(images.clone()), "output")]
            losses = [tensor.square().mean() for tensor in tensors if tensor.requires_grad]
            if losses:
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # torch has no types there
    finally:
        for handle in handles:
            handle.remove()
    return found


def move(model: nn.Module) -> None:
    """Change all weights somewhat, as training would: what follows them must show.

    Args:
        model: whose parameters are scaled by factors from 0.9 to 1.1 along their first axis.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            length = parameter.shape[0] if parameter.ndim else 1
            factors = torch.linspace(0.9, 1.1, length, dtype=parameter.dtype)
            parameter.mul_(factors.view(-1, *[1] * (parameter.ndim - 1)) if parameter.ndim else factors[0])


@contextmanager
def _seeded() -> Iterator[None]:
    """The same random numbers each time, and afterwards those that would have come."""
    kept, kept_by_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # networks draw from the global one
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002  # networks that draw from it draw from the global one
            yield
    finally:
        random.setstate(kept)
        np.random.set_state(kept_by_numpy)  # noqa: NPY002  # networks draw from the global one


def _named_tensors(output: Any, name: str) -> list[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        return [(name, output)]
    if isinstance(output, Mapping):
        parts = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, list | tuple):
        parts = [(str(position), value) for position, value in enumerate(output)]
    else:
        return []
    return [tensor for key, value in parts for tensor in _named_tensors(value, f"{name}/{key}")]
