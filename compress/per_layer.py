"""Wall-clock time of every replaced layer beside its replacement, in each runtime."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cnncompress.errors import OptionError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.interleave import ratio_of_neighbours
from cnncompress.latency.setting import Setting
from cnncompress.layer_timing import is_slower
from cnncompress.measure import layout_for
from cnncompress.per_layer_times import ReplacedLayer, Timed, replaced_layers, rounds_of
from cnncompress.plan import Plan
from cnncompress.runtimes import check_runtime, runtime_named


@dataclass(frozen=True, kw_only=True)
class LayerLatency:
    """Times of one layer and of its replacement under one setting.

    Attributes:
        name: of the layer.
        method: that replaced it.
        ranks: of the replacement.
        macs_before: multiply-accumulates of the layer for one image.
        macs_after: those of the replacement.
        ms_before: median of the layer, milliseconds a batch.
        iqr_before: interquartile range of the layer's times, milliseconds.
        ms_after: median of the replacement, milliseconds a batch.
        iqr_after: interquartile range of the replacement's times, milliseconds.
        speedup: median of the ratios within each round.
        timed: the replacement as one ``"module"``; by the runtime's ``"profile"`` of its steps; or each of
            the two as a ``"network"`` of its own, reorders of memory at both ends included.
    """

    name: str
    method: str
    ranks: tuple[int, ...]
    macs_before: int
    macs_after: int
    ms_before: float
    iqr_before: float
    ms_after: float
    iqr_after: float
    speedup: float
    timed: Timed

    @property
    def slower(self) -> bool:
        """Whether the replacement takes longer than the layer, by more than two measurements may differ."""
        return is_slower(self.speedup)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            One entry for each field, and ``slower``.
        """
        return {**asdict(self), "ranks": list(self.ranks), "slower": self.slower}


@dataclass(frozen=True, kw_only=True)
class LayerLatencies:
    """Times of all replaced layers under one setting.

    Attributes:
        runtime: of `cnncompress.runtimes.RUNTIMES`.
        threads: compute threads, the same for all.
        batch: images at a time.
        device: where all ran, for example ``"cpu"``.
        repeats: rounds, in each of which the layer and its replacement ran.
        layers: in the order of execution.
    """

    runtime: str
    threads: int
    batch: int
    device: str
    repeats: int
    layers: tuple[LayerLatency, ...]

    @property
    def ms_before(self) -> float:
        """Sum of the layers' medians, milliseconds a batch."""
        return sum(layer.ms_before for layer in self.layers)

    @property
    def ms_after(self) -> float:
        """Sum of the replacements' medians, milliseconds a batch."""
        return sum(layer.ms_after for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            One entry for each field, and the two sums.
        """
        lines = [layer.to_json() for layer in self.layers]
        own = {name: getattr(self, name) for name in ("runtime", "threads", "batch", "device", "repeats")}
        return {**own, "ms_before": self.ms_before, "ms_after": self.ms_after, "layers": lines}


def layer_latencies(
    original: nn.Module,
    compressed: nn.Module,
    plan: Plan,
    *,
    runtimes: Sequence[str] = ("torch",),
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    repeats: int = 20,
    report: Reporter = silent,
) -> tuple[LayerLatencies, ...]:
    """Time every replaced layer against its replacement under every combination of settings.

    Both run in turn, on random input of the layer's own size; neither network is changed. Rectifiers behind
    the layers, pooling and all that was not replaced is not in these times.

    Args:
        original: the network before, with any weights.
        compressed: the network that the plan made of it.
        plan: of the compression.
        runtimes: of `cnncompress.runtimes.RUNTIMES`.
        threads: numbers of compute threads.
        batches: images at a time.
        repeats: rounds for each layer and setting.
        report: receives one step for each layer and setting.

    Returns:
        One entry for each runtime, thread count and batch size, in this order.

    Raises:
        OptionError: a runtime that is unknown or can't run here, or a number below 1.
    """
    for name in runtimes:
        check_runtime(name)
    if min((*threads, *batches, repeats)) < 1:
        raise OptionError("threads, batch and repeats must be at least 1")
    pairs = replaced_layers(original, compressed, plan)
    layout = layout_for(original, plan.input_size)
    settings = [
        Setting(
            runtime=runtime,
            threads=count,
            batch=batch,
            device=str(runtime_named(runtime).device(original)),
            channels_last=layout is torch.channels_last,
        )
        for runtime in runtimes
        for count in threads
        for batch in batches
    ]
    stage, started = "time layers", time.perf_counter()
    report(StageStarted(stage, len(settings) * len(pairs), "layers"))
    found: list[LayerLatencies] = []
    for setting in settings:
        lines: list[LayerLatency] = []
        for pair in pairs:
            lines.append(_timed(pair, setting, repeats))
            report(StageAdvanced(stage))
        found.append(_together(setting, repeats, lines))
    report(StageDone(stage, time.perf_counter() - started))
    return tuple(found)


def _together(setting: Setting, repeats: int, lines: Sequence[LayerLatency]) -> LayerLatencies:
    return LayerLatencies(
        runtime=setting.runtime,
        threads=setting.threads,
        batch=setting.batch,
        device=setting.device,
        repeats=repeats,
        layers=tuple(lines),
    )


def _timed(pair: ReplacedLayer, setting: Setting, repeats: int) -> LayerLatency:
    timed, times = rounds_of(pair, setting, repeats)
    low, middle, high = np.percentile(times, (25, 50, 75), axis=0)
    return LayerLatency(
        name=pair.info.name,
        method=pair.plan.method,
        ranks=pair.plan.ranks,
        macs_before=pair.info.macs,
        macs_after=pair.macs_after,
        ms_before=float(middle[0]),
        iqr_before=float(high[0] - low[0]),
        ms_after=float(middle[1]),
        iqr_after=float(high[1] - low[1]),
        speedup=ratio_of_neighbours(times),
        timed=timed,
    )
