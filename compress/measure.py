"""Wall-clock time of two networks side by side."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cnncompress.errors import OptionError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.interleave import alternate, ratio_of_neighbours
from cnncompress.memory_layout import faster_layout, layout_of
from cnncompress.runtimes import Runtime, Subject, check_runtime, random_images, runtime_named


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of the original and the compressed network under one setting.

    Attributes:
        runtime: of `cnncompress.runtimes.RUNTIMES`; torch runs in channels_last where the original does.
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
        runtime: of `cnncompress.runtimes.RUNTIMES`.
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
    speedup is the median of the ratios of neighbouring runs. torch, compiled or not, runs where the
    original network lives, in channels_last if it can; onnxruntime and OpenVINO run on the CPU. Making a
    network ready, compiling it for example, is no part of its time. Neither network is changed.

    Args:
        original: the network before.
        compressed: the network after.
        input_size: channels, height and width.
        runtimes: of `cnncompress.runtimes.RUNTIMES`.
        threads: numbers of compute threads; torch's own number is restored afterwards.
        batches: images at a time.
        repeats: pairs of timed runs for each setting.
        warmup: pairs of runs before the clock starts.
        onnx: ONNX files of the two networks, if they exist already; others are made for the time being.
        report: receives one step for each setting.

    Returns:
        One `Latency` for each runtime, thread count and batch size, in this order.

    Raises:
        OptionError: a runtime that is unknown or can't run here, none at all, or a number below 1.
    """
    if not runtimes:
        raise OptionError("name at least one runtime, for example torch")
    for name in runtimes:
        check_runtime(name)
    if min((*threads, *batches, repeats)) < 1:
        raise OptionError("threads, batch and repeats must be at least 1")
    stage, started = "measure", time.perf_counter()
    report(StageStarted(stage, len(runtimes) * len(threads) * len(batches), "settings"))
    found: list[Latency] = []
    with _subjects(original, compressed, input_size, onnx) as subjects:
        for runtime in map(runtime_named, runtimes):
            for count in threads:
                for batch in batches:
                    found.append(
                        _timed(runtime, subjects, threads=count, batch=batch, repeats=repeats, warmup=warmup)
                    )
                    report(StageAdvanced(stage))
    report(StageDone(stage, time.perf_counter() - started))
    return tuple(found)


def layout_for(original: nn.Module, input_size: Sequence[int]) -> torch.memory_format:
    """The memory format in which torch is timed.

    Args:
        original: the network before, whose format the compressed one shares.
        input_size: channels, height and width.

    Returns:
        That which it was put into, else the faster one of those in which it runs.
    """
    # contiguous weights don't tell: it may be how the network was loaded, or all that it can do
    if layout_of(original) is torch.channels_last:
        return torch.channels_last
    channels, height, width = input_size
    return faster_layout(original, (channels, height, width))


@contextmanager
def _subjects(
    original: nn.Module,
    compressed: nn.Module,
    input_size: Sequence[int],
    files: tuple[Path | None, Path | None],
) -> Iterator[tuple[Subject, Subject]]:
    layout = layout_for(original, input_size)
    with tempfile.TemporaryDirectory() as folder:
        yield (
            Subject(original, input_size, layout, _existing(files[0]) or Path(folder) / "before.onnx"),
            Subject(compressed, input_size, layout, _existing(files[1]) or Path(folder) / "after.onnx"),
        )


def _existing(file: Path | None) -> Path | None:
    return file if file is not None and file.exists() else None


def _timed(
    runtime: Runtime,
    subjects: tuple[Subject, Subject],
    *,
    threads: int,
    batch: int,
    repeats: int,
    warmup: int,
) -> Latency:
    before, after = subjects
    device = runtime.device(before.model)
    images = random_images(batch, before.input_size, device)
    with (
        runtime.running(before, device=device, batch=batch, threads=threads) as first,
        runtime.running(after, device=device, batch=batch, threads=threads) as second,
    ):
        times = alternate((first, second), images, repeats=repeats, warmup=warmup)
    return _summary(times, runtime=runtime.name, threads=threads, batch=batch, device=str(device))


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
