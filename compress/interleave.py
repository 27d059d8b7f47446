"""Two modules run in turn, so that whatever else the machine does falls on both."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Run = Callable[[Tensor], Any]
"""A forward pass that returns its outputs when the work is done."""

Pair = tuple[Run, Run]


def alternate(runs: Pair, images: Tensor, *, repeats: int, warmup: int) -> np.ndarray:
    """Run two functions in turn and time every call.

    Args:
        runs: before and after; each returns when its work is done.
        images: input of both.
        repeats: pairs of timed runs.
        warmup: pairs of runs before them, whose times are dropped.

    Returns:
        Milliseconds, shape (repeats, 2).
    """
    times = np.empty((warmup + repeats, 2))
    for row in times:
        for column, run in enumerate(runs):
            start = time.perf_counter_ns()
            run(images)
            row[column] = (time.perf_counter_ns() - start) / 1e6
    return times[warmup:]


def ratio_of_neighbours(times: np.ndarray) -> float:
    """The speedup that alternating runs show.

    Args:
        times: shape (repeats, 2), as `alternate` returns them.

    Returns:
        Median of before / after within each pair of runs.
    """
    return float(np.median(times[:, 0] / times[:, 1]))


def torch_run(
    module: nn.Module, device: torch.device, layout: torch.memory_format = torch.channels_last
) -> Run:
    """A module's forward pass as timing needs it: without gradients, waited for.

    Args:
        module: copied, in evaluation mode; left as it was.
        device: where the copy runs.
        layout: memory format of the copy's weights.

    Returns:
        A function of the input.
    """
    return waited_for(placed_copy(module, device, layout), device)


def placed_copy(module: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """A copy of a module where and how it shall be timed.

    Args:
        module: left as it was.
        device: where the copy lives.
        layout: memory format of the copy's weights.

    Returns:
        The copy, in evaluation mode.
    """
    return deepcopy(module).eval().to(device).to(memory_format=layout)


def waited_for(forward: Run, device: torch.device) -> Run:
    """A forward pass without gradients that returns when its device is done.

    Args:
        forward: a function of the input, a module for example.
        device: where it computes.

    Returns:
        A function of the input.
    """

    def run(images: Tensor) -> Any:
        with torch.inference_mode():
            outputs = forward(images)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return outputs

    return run


def device_of(module: nn.Module) -> torch.device:
    """Where a module lives.

    Args:
        module: any.

    Returns:
        The device of its first parameter, the CPU if it has none.
    """
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with this many threads inside the block.

    Args:
        count: at least 1.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
