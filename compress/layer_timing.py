"""Wall-clock time of single replacements against the layers that they replace."""

import time
from collections.abc import Iterable, Sized
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnncompress.errors import OptionError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.inspect import LayerInfo
from cnncompress.interleave import Pair, alternate, device_of, ratio_of_neighbours, torch_run, torch_threads

_WARMUP = 2
_FEWEST, _MOST = 5, 30  # pairs of runs; a costly layer's few are long enough to even out disturbances
_ENOUGH_MS = 150.0
_CLOSE = 0.15  # a ratio this near 1 could be either side of it by chance
_CLOSER_LOOK = 3
_SLOWER = 0.95


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """Times of one layer and of what replaces it, each run alone in torch.

    Attributes:
        name: of the layer.
        ms_before: median of the layer, milliseconds a batch.
        ms_after: median of its replacement, milliseconds a batch.
        speedup: median of the ratios of neighbouring runs.
        repeats: pairs of runs.
        threads: compute threads, the same for both.
        batch: images at a time.
        device: where both ran, for example ``"cpu"``.
    """

    name: str
    ms_before: float
    ms_after: float
    speedup: float
    repeats: int
    threads: int
    batch: int
    device: str

    @property
    def slower(self) -> bool:
        """Whether the replacement takes longer than the layer."""
        return is_slower(self.speedup)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            One entry for each field.
        """
        return asdict(self)


def is_slower(speedup: float | None) -> bool:
    """Whether a measured ratio means a loss of time.

    Args:
        speedup: time before over time after; None where nothing was measured.

    Returns:
        Whether it is below 0.95: nearer to 1, two measurements may disagree.
    """
    return speedup is not None and speedup < _SLOWER


def time_replacement(
    layer: LayerInfo,
    before: nn.Module,
    after: nn.Module,
    *,
    threads: int = 1,
    batch: int = 1,
    repeats: int | None = None,
    device: torch.device | str | None = None,
    layout: torch.memory_format = torch.channels_last,
) -> LayerTime:
    """Time a layer and its replacement on random input of the layer's own size.

    Runs of the two alternate. Weights may be untrained: the time doesn't depend on them. Neither module is
    changed.

    Args:
        layer: description of the layer, for its name and the size of its input.
        before: the layer.
        after: its replacement.
        threads: compute threads; torch's own number is restored afterwards.
        batch: images at a time.
        repeats: pairs of timed runs; None for as many as the layer's cost allows and the ratio needs.
        device: where both run; None for where ``before`` lives.
        layout: memory format of both, and of their input.

    Returns:
        Medians and the speedup.

    Raises:
        OptionError: threads, batch or repeats below 1.
    """
    for option, value in (("threads", threads), ("batch", batch), ("repeats", repeats)):
        if value is not None and value < 1:
            raise OptionError(f"{layer.name}: {option} must be at least 1, got {value}")
    place = device_of(before) if device is None else torch.device(device)
    runs = (torch_run(before, place, layout), torch_run(after, place, layout))
    dtype = next((parameter.dtype for parameter in before.parameters()), torch.float32)
    images = _input(layer, batch, layout).to(place, dtype)
    with torch_threads(threads):
        times = (
            _as_many_as_needed(runs, images)
            if repeats is None
            else alternate(runs, images, repeats=repeats, warmup=_WARMUP)
        )
    medians = np.median(times, axis=0)
    return LayerTime(
        name=layer.name,
        ms_before=float(medians[0]),
        ms_after=float(medians[1]),
        speedup=ratio_of_neighbours(times),
        repeats=len(times),
        threads=threads,
        batch=batch,
        device=str(place),
    )


def time_replacements(
    pairs: Iterable[tuple[LayerInfo, nn.Module, nn.Module]],
    *,
    threads: int = 1,
    batch: int = 1,
    repeats: int | None = None,
    device: torch.device | str | None = None,
    layout: torch.memory_format = torch.channels_last,
    report: Reporter = silent,
) -> tuple[LayerTime, ...]:
    """Time several layers, one after the other; see `time_replacement`.

    Args:
        pairs: description, layer and replacement; a generator may build each pair as it is needed.
        threads: compute threads.
        batch: images at a time.
        repeats: pairs of timed runs for each layer; None for as many as it needs.
        device: where they run; None for where each layer lives.
        layout: memory format of all of them.
        report: receives one step for each layer.

    Returns:
        One `LayerTime` for each pair, in their order.
    """
    stage, started = "time layers", time.perf_counter()
    report(StageStarted(stage, len(pairs) if isinstance(pairs, Sized) else None, "layers"))
    found: list[LayerTime] = []
    for layer, before, after in pairs:
        found.append(
            time_replacement(
                layer,
                before,
                after,
                threads=threads,
                batch=batch,
                repeats=repeats,
                device=device,
                layout=layout,
            )
        )
        report(StageAdvanced(stage))
    report(StageDone(stage, time.perf_counter() - started))
    return tuple(found)


def _input(layer: LayerInfo, batch: int, layout: torch.memory_format) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if layer.kind == "linear":
        return torch.randn(batch, prod(layer.input_size), layer.in_channels, generator=generator)
    images = torch.randn(batch, layer.in_channels, *layer.input_size, generator=generator)
    return images.contiguous(memory_format=layout)


def _as_many_as_needed(runs: Pair, images: Tensor) -> np.ndarray:
    """Times of as many runs as fit a small budget, of more where it is open which of the two is faster."""
    times = alternate(runs, images, repeats=_FEWEST, warmup=_WARMUP)
    affordable = _ENOUGH_MS / float(times.min(axis=0).sum())
    wanted = int(np.clip(affordable, _FEWEST, _MOST))
    times = _extended(times, runs, images, wanted)
    if _open(times):
        times = _extended(times, runs, images, _CLOSER_LOOK * wanted)
    return times


def _open(times: np.ndarray) -> bool:
    ratio, (before, after) = ratio_of_neighbours(times), times.min(axis=0)
    # on a busy machine the median may be that of the disturbances, the fastest runs are hardly disturbed
    return abs(ratio - 1) < _CLOSE or (ratio > 1) != (before > after)


def _extended(times: np.ndarray, runs: Pair, images: Tensor, repeats: int) -> np.ndarray:
    more = alternate(runs, images, repeats=repeats - len(times), warmup=0)
    return np.concatenate((times, more))
