"""Parts timed in torch: as it is, compiled, or on a GPU."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnncompress.errors import OptionError
from cnncompress.interleave import Run, torch_threads
from cnncompress.latency.parts import Part
from cnncompress.latency.rounds import Pace, Timed, interleaved
from cnncompress.latency.setting import Setting
from cnncompress.layers import ChannelOrder
from cnncompress.runtimes import Subject, runtime_named

BURST = 10
"""Runs of one part on a GPU between two waits for it; in a network nothing waits between layers either."""

_POOL = 1 << 20  # random numbers that all weights are cut from; drawing new ones takes longer than timing


class Bench(Protocol):
    """Times parts in one runtime."""

    def times(self, parts: Sequence[Part], pace: Pace) -> NDArray[np.float64]:
        """Time parts in turn.

        Args:
            parts: to time, the reference first.
            pace: how long to go on.

        Returns:
            Milliseconds, shape (rounds, parts).
        """
        ...


class TorchBench:
    """Runs modules with random weights on random images.

    Args:
        setting: with runtime ``"torch"``, ``"torch.compile"``, ``"cuda"`` or ``"cuda-graphs"``; any other
            runtime is taken for ``"torch"``.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        on_gpu = setting.runtime.startswith("cuda") and not setting.device.startswith("cuda")
        self._device = torch.device("cuda" if on_gpu else setting.device)
        self._dtype = getattr(torch, setting.dtype)
        self._layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        drawn = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))
        self._pool = (drawn * 0.1).to(self._dtype)

    def times(self, parts: Sequence[Part], pace: Pace) -> NDArray[np.float64]:
        """Time parts in turn.

        Args:
            parts: to time, the reference first.
            pace: how long to go on.

        Returns:
            Milliseconds, shape (rounds, parts).
        """
        images: dict[tuple[int, ...], Tensor] = {}
        with torch_threads(self._setting.threads), torch.inference_mode(), ExitStack() as stack:
            runs = []
            for part in parts:
                if _shape(part) not in images:
                    images[_shape(part)] = self._images(part)
                forward = self._module(part)
                if self._setting.runtime == "torch.compile":
                    forward = stack.enter_context(self._compiled(forward, images[_shape(part)]))
                runs.append(self._timed(forward, images[_shape(part)]))
            return interleaved(runs, pace)

    def _images(self, part: Part) -> Tensor:
        height, width = part.input_size
        channels, batch = part.in_channels, self._setting.batch
        if part.kind == "linear":
            return self._random(batch, height * width, channels)
        return self._random(batch, channels, height, width).to(memory_format=self._layout)

    def _random(self, *shape: int) -> Tensor:
        count = int(np.prod(shape))
        numbers = (
            self._pool.repeat(-(-count // _POOL))[:count] if count > _POOL else self._pool[:count].clone()
        )
        return numbers.reshape(shape).to(self._device)

    def _module(self, part: Part) -> Any:
        module = self._built(part).requires_grad_(False)
        for tensor in module.parameters():
            tensor.copy_(self._random(*tensor.shape))
        for inner in module.modules():
            if isinstance(inner, ChannelOrder):  # the identity would read memory more smoothly than others
                inner.order.copy_(torch.randperm(len(inner.order)))
        return module.eval().to(self._device).to(memory_format=self._layout)

    def _built(self, part: Part) -> nn.Module:
        if part.kind == "module":
            if part.make is None:
                raise OptionError(f"{part.label}: only known from a file, it can't be built to be timed")
            return part.make().to(self._dtype)
        common: dict[str, Any] = {"bias": part.bias, "device": self._device, "dtype": self._dtype}
        if part.kind == "linear":
            return _unset(nn.Linear, part.in_channels, part.out_channels, **common)
        top, bottom, left, right = part.padding
        uneven = (top, left) != (bottom, right)
        return _unset(
            nn.Conv2d,
            part.in_channels,
            part.out_channels,
            part.kernel_size,
            stride=part.stride,
            padding="same" if uneven else (top, left),
            dilation=part.dilation,
            groups=part.groups,
            padding_mode=part.padding_mode,
            **common,
        )

    def _compiled(self, module: nn.Module, images: Tensor) -> AbstractContextManager[Run]:
        subject = Subject(module, images.shape[1:], self._layout, Path())
        return runtime_named("torch.compile").running(
            subject, device=self._device, batch=self._setting.batch, threads=self._setting.threads
        )

    def _timed(self, forward: Run, images: Tensor) -> Timed:
        if self._device.type == "cpu":
            return _on_cpu(forward, images)
        if self._setting.runtime == "cuda-graphs":
            return _burst(_captured(forward, images), self._device)
        return _burst(lambda: [forward(images) for _ in range(BURST)], self._device)


def _unset(kind: type[nn.Module], *sizes: Any, **options: Any) -> nn.Module:
    """A layer whose weights are whatever memory holds: initial values take longer than timing."""
    layer: nn.Module = nn.utils.skip_init(kind, *sizes, **options)  # type: ignore[no-untyped-call]
    return layer


def _shape(part: Part) -> tuple[int, ...]:
    return (part.kind == "linear", part.in_channels, *part.input_size)


def _on_cpu(forward: Run, images: Tensor) -> Timed:
    def run() -> float:
        images.neg_()  # the layer before has just written it: it is in the caches as far as it fits
        start = time.perf_counter_ns()
        outputs = forward(images)
        end = time.perf_counter_ns()
        del outputs
        return (end - start) / 1e6

    return run


def _burst(launch: Callable[[], Any], device: torch.device) -> Timed:
    def run() -> float:
        torch.accelerator.synchronize(device)
        start = time.perf_counter_ns()
        launch()
        torch.accelerator.synchronize(device)
        return (time.perf_counter_ns() - start) / 1e6 / BURST

    return run


def _captured(forward: Run, images: Tensor) -> Callable[[], Any]:
    """A graph of a burst of runs."""
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # libraries allocate and choose kernels in the first runs
            forward(images)
    torch.cuda.current_stream().wait_stream(aside)
    with torch.cuda.graph(graph):
        for _ in range(BURST):
            forward(images)
    return graph.replay
