"""Wall-clock time of two networks side by side."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from cnncompress.errors import OptionError, unknown_name
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.export import write_onnx
from cnncompress.interleave import (
    Pair,
    Run,
    alternate,
    device_of,
    ratio_of_neighbours,
    torch_run,
    torch_threads,
)
from cnncompress.memory_layout import faster_layout, layout_of

RUNTIMES = ("torch", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of the original and the compressed network under one setting.

    Attributes:
        runtime: ``"torch"`` (eager, channels_last where the original runs in it) or ``"onnxruntime"``.
        threads: compute threads, the same for both networks.
        batch: images at a time.
        ms_before: median of the original, milliseconds a batch.
        ms_after: median of the compressed network, milliseconds a batch.
        speedup: median of the ratios of neighbouring runs.
        iqr_before: interquartile range of the original's times, milliseconds.
        iqr_after: interquartile range of the compressed network's times, milliseconds.
        repeats: pairs of runs.
        device: where both ran, for example ``"cpu"``.
    """

    runtime: str
    threads: int
    batch: int
    ms_before: float
    ms_after: float
    speedup: float
    iqr_before: float
    iqr_after: float
    repeats: int
    device: str = "cpu"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            One entry for each field.
        """
        return asdict(self)


def latency(
    original: nn.Module,
    compressed: nn.Module,
    input_size: Sequence[int],
    *,
    runtime: str = "torch",
    threads: int = 1,
    batch: int = 1,
    repeats: int = 20,
    warmup: int = 3,
) -> Latency:
    """Time two networks under one setting; see `latencies`.

    Args:
        original: the network before.
        compressed: the network after.
        input_size: channels, height and width.
        runtime: ``"torch"`` or ``"onnxruntime"``.
        threads: compute threads.
        batch: images at a time.
        repeats: pairs of timed runs.
        warmup: pairs of runs before the clock starts.

    Returns:
        Medians, their spread, and the speedup.
    """
    (one,) = latencies(
        original,
        compressed,
        input_size,
        runtimes=(runtime,),
        threads=(threads,),
        batches=(batch,),
        repeats=repeats,
        warmup=warmup,
    )
    return one


def latencies(
    original: nn.Module,
    compressed: nn.Module,
    input_size: Sequence[int],
    *,
    runtimes: Sequence[str] = ("torch",),
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    repeats: int = 20,
    warmup: int = 3,
    onnx: tuple[Path | None, Path | None] = (None, None),
    report: Reporter = silent,
) -> tuple[Latency, ...]:
    """Time two networks under every combination of settings.

    Runs of the two networks alternate, so that whatever else the machine does falls on both, and the
    speedup is the median of the ratios of neighbouring runs. torch runs where the original network
    lives, in channels_last if it can; onnxruntime runs on the CPU. Neither network is changed.

    Args:
        original: the network before.
        compressed: the network after.
        input_size: channels, height and width.
        runtimes: of ``"torch"`` and ``"onnxruntime"``.
        threads: numbers of compute threads; torch's own number is restored afterwards.
        batches: images at a time.
        repeats: pairs of timed runs for each setting.
        warmup: pairs of runs before the clock starts.
        onnx: ONNX files of the two networks, if they exist already; others are made for the time being.
        report: receives one step for each setting.

    Returns:
        One `Latency` for each runtime, thread count and batch size, in this order.

    Raises:
        OptionError: an unknown runtime, or a number below 1.
    """
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise OptionError(unknown_name("runtime", runtime, RUNTIMES))
    if min((*threads, *batches, repeats)) < 1:
        raise OptionError("threads, batch and repeats must be at least 1")
    stage, started = "measure", time.perf_counter()
    report(StageStarted(stage, len(runtimes) * len(threads) * len(batches), "settings"))
    found: list[Latency] = []
    for runtime in runtimes:
        prepared = (
            _torch_pair(original, compressed, input_size)
            if runtime == "torch"
            else _onnx_pair(original, compressed, input_size, onnx)
        )
        with prepared as (device, with_threads):
            for count in threads:
                with with_threads(count) as runs:
                    for batch in batches:
                        images = _images(batch, input_size, device)
                        times = alternate(runs, images, repeats=repeats, warmup=warmup)
                        found.append(
                            _summary(times, runtime=runtime, threads=count, batch=batch, device=str(device))
                        )
                        report(StageAdvanced(stage))
    report(StageDone(stage, time.perf_counter() - started))
    return tuple(found)


WithThreads = Callable[[int], AbstractContextManager[Pair]]


@contextmanager
def _torch_pair(
    original: nn.Module, compressed: nn.Module, input_size: Sequence[int]
) -> Iterator[tuple[torch.device, WithThreads]]:
    device = device_of(original)
    channels, height, width = input_size
    # contiguous weights don't tell: it may be how the network was loaded, or all that it can do
    prepared = layout_of(original) is torch.channels_last
    layout = torch.channels_last if prepared else faster_layout(original, (channels, height, width))
    runs = (torch_run(original, device, layout), torch_run(compressed, device, layout))

    @contextmanager
    def with_threads(count: int) -> Iterator[Pair]:
        with torch_threads(count):
            yield runs

    yield device, with_threads


@contextmanager
def _onnx_pair(
    original: nn.Module,
    compressed: nn.Module,
    input_size: Sequence[int],
    files: tuple[Path | None, Path | None],
) -> Iterator[tuple[torch.device, WithThreads]]:
    with tempfile.TemporaryDirectory() as folder:
        before = files[0] or _written(original, input_size, Path(folder) / "before.onnx")
        after = files[1] or _written(compressed, input_size, Path(folder) / "after.onnx")

        @contextmanager
        def with_threads(count: int) -> Iterator[Pair]:
            yield _onnx_run(before, count), _onnx_run(after, count)

        yield torch.device("cpu"), with_threads


def _onnx_run(file: Path, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle threads of one session would otherwise burn the cores while the other one is timed
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> None:
        session.run(None, {name: images.numpy()})

    return run


def _written(model: nn.Module, input_size: Sequence[int], path: Path) -> Path:
    write_onnx(model, input_size, path)
    return path


def _images(batch: int, input_size: Sequence[int], device: torch.device) -> Tensor:
    images = torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0))
    return images.to(device)


def _summary(times: np.ndarray, *, runtime: str, threads: int, batch: int, device: str) -> Latency:
    low, middle, high = np.percentile(times, (25, 50, 75), axis=0)
    return Latency(
        runtime=runtime,
        threads=threads,
        batch=batch,
        ms_before=float(middle[0]),
        ms_after=float(middle[1]),
        speedup=ratio_of_neighbours(times),
        iqr_before=float(high[0] - low[0]),
        iqr_after=float(high[1] - low[1]),
        repeats=len(times),
        device=device,
    )
