"""A generated file against the network it was generated from."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from cnncompress.export import relative_difference
from cnncompress.standalone.literals import UnwritableError
from cnncompress.standalone.running import gradients, move, outputs

TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
BATCHES = (1, 3)
TRAINING_BATCH = 2
LARGER = 32
"""Pixels by which the other image size exceeds the network's: a multiple of usual strides."""


def verify(model: nn.Module, file: Path, weights: Path, input_size: Sequence[int]) -> None:
    """Import a generated file, load its weights, and compare it with the network.

    Args:
        model: the network, in evaluation mode on the CPU.
        file: the source.
        weights: the network's state.
        input_size: channels, height and width.

    Raises:
        UnwritableError: the file fails, holds other tensors, gives other outputs or learns otherwise.
    """
    try:
        again: nn.Module = imported(file).load(weights)
    except Exception as error:  # the file's code may raise anything
        raise UnwritableError(f"the generated file fails: {_first_line(error)}") from error
    for kind in ("state_dict", "named_parameters"):
        here, there = (list(dict(getattr(net, kind)())) for net in (model, again))
        if here != there:
            raise UnwritableError(f"the generated file has another {kind}: {_first_difference(here, there)}")
    channels, height, width = input_size
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        images = torch.randn(batch, *input_size, generator=generator)
        _compare(model, again, images, f"at batch {batch}")
    larger = torch.randn(1, channels, height + LARGER, width + LARGER, generator=generator)
    _compare(model, again, larger, f"at {height + LARGER} x {width + LARGER} pixels", optional=True)
    images = torch.randn(TRAINING_BATCH, *input_size, generator=generator)
    trained = deepcopy(model).train().requires_grad_(True)  # the file freezes nothing
    trained.to(memory_format=torch.contiguous_format)  # as the file's; dropout draws in the order of memory
    for network in (trained, again.train()):
        move(network)
    _compare(trained, again, images, "in training mode", optional=True)
    _compare(trained, again, images, "in its gradients", optional=True, behaviour=gradients)


def imported(file: Path) -> ModuleType:
    """Import a file of any name, leaving no compiled copy behind.

    Args:
        file: Python source.

    Returns:
        The module, which nobody else gets by importing its name.
    """
    loader = _Uncached("generated_model", str(file))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


class _Uncached(SourceFileLoader):
    @override
    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write no bytecode."""


def _compare(
    model: nn.Module,
    again: nn.Module,
    images: Tensor,
    where: str,
    *,
    optional: bool = False,
    behaviour: Callable[[nn.Module, Tensor], Mapping[str, Tensor]] = outputs,
) -> None:
    """The same behaviour with equal random numbers; optional ones are left out where the network fails."""
    try:
        expected = behaviour(model, images)
    except Exception:
        if optional:
            return
        raise
    try:
        found = behaviour(again, images)
    except Exception as error:
        raise UnwritableError(f"the generated file fails {where}: {_first_line(error)}") from error
    if expected.keys() != found.keys():
        raise UnwritableError(f"the generated file returns something else {where}")
    allowed = GRADIENT_TOLERANCE if behaviour is gradients else TOLERANCE
    for name, value in expected.items():
        equal = torch.equal(value, found[name])  # infinities, too
        difference = 0.0 if equal else relative_difference(value, found[name])
        if not difference <= allowed:
            raise UnwritableError(
                f"the generated file differs by {difference:.1e} of the largest {name} {where}, "
                f"allowed is {allowed:.0e}"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _first_difference(here: list[str], there: list[str]) -> str:
    for mine, its in zip([*here, ""], [*there, ""], strict=False):
        if mine != its:
            return f"{its!r} instead of {mine!r}"
    return f"{len(there)} entries instead of {len(here)}"
