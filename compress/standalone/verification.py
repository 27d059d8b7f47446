"""A generated file against the network it was generated from."""

from collections.abc import Mapping, Sequence
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

TOLERANCE = 1e-5
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
        UnwritableError: the file fails, holds other tensors or gives other outputs.
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
    _compare(deepcopy(model).train(), again.train(), images, "in training mode", optional=True)


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
    model: nn.Module, again: nn.Module, images: Tensor, where: str, *, optional: bool = False
) -> None:
    """Equal outputs with equal random numbers; an optional comparison is left out where the network fails."""
    try:
        expected = _run(model, images)
    except Exception:
        if optional:
            return
        raise
    try:
        found = _run(again, images)
    except Exception as error:
        raise UnwritableError(f"the generated file fails {where}: {_first_line(error)}") from error
    if [name for name, _ in expected] != [name for name, _ in found]:
        raise UnwritableError(f"the generated file returns something else {where}")
    pairs = ((value, other) for (_, value), (_, other) in zip(expected, found, strict=True))
    difference = max((relative_difference(*pair) for pair in pairs), default=0.0)
    if not difference <= TOLERANCE:
        raise UnwritableError(
            f"the generated file differs by {difference:.1e} of the largest output {where}, "
            f"allowed is {TOLERANCE:.0e}"
        )


def _run(model: nn.Module, images: Tensor) -> list[tuple[str, Tensor]]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(_named_tensors(model(images.clone()), ""))


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _first_difference(here: list[str], there: list[str]) -> str:
    for mine, its in zip([*here, ""], [*there, ""], strict=False):
        if mine != its:
            return f"{its!r} instead of {mine!r}"
    return f"{len(there)} entries instead of {len(here)}"
