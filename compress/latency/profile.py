"""What the layers of a network take, and what fewer multiply-accumulates would really save."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnncompress.candidates import enumerate_candidates
from cnncompress.decompositions import Decomposition, Ranks
from cnncompress.events import Reporter, silent
from cnncompress.inspect import LayerInfo
from cnncompress.latency.setting import Request, Setting
from cnncompress.latency.table import LatencyTable
from cnncompress.latency.taking import latency_table
from cnncompress.options import Options

DIVISORS = (2, 4)
"""By which the multiply-accumulates of a layer are divided."""

_NEAR = 0.75  # of the allowed multiply-accumulates: with far fewer anything is fast

Candidate = tuple[Decomposition, Ranks]


@dataclass(frozen=True, kw_only=True)
class Fastest:
    """The fastest ranks of a method for a fraction of a layer's multiply-accumulates.

    Attributes:
        method: its name.
        divisor: of the multiply-accumulates.
        ranks: of the replacement.
        macs: multiply-accumulates of the layer over those of the replacement.
        ms: milliseconds a batch.
        speedup: time of the layer over that of the replacement; below 1 it would be a loss.
    """

    method: str
    divisor: int
    ranks: Ranks
    macs: float
    ms: float
    speedup: float


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One layer.

    Attributes:
        layer: the layer.
        ms: milliseconds a batch.
        share: of the time of all convolutions and linear layers.
        fastest: of each divisor and each method that fits, where its ranks come near.
    """

    layer: LayerInfo
    ms: float
    share: float
    fastest: tuple[Fastest, ...]

    def to_json(self) -> dict[str, Any]:
        """The profile as JSON-able values.

        Returns:
            One line.
        """
        lines = [{**vars(one), "ranks": list(one.ranks)} for one in self.fastest]
        return {
            "name": self.layer.name,
            "macs": self.layer.macs,
            "ms": self.ms,
            "share": self.share,
            "fastest": lines,
        }


def profile(
    layers: Sequence[LayerInfo],
    options: Options,
    setting: Setting,
    *,
    cache: Path | None = None,
    remeasure: bool = False,
    report: Reporter = silent,
) -> tuple[LayerProfile, ...]:
    """Measure a network's layers and what may replace them.

    Args:
        layers: of the network; those that never ran are left out.
        options: methods and what ranks are multiples of.
        setting: the conditions; a runtime that can't run here is an `OptionError`.
        cache: folder that cached files live in; that of downloads by default.
        remeasure: whether to measure what is known, too.
        report: receives the progress.

    Returns:
        One for each layer that ran.
    """
    ran = [layer for layer in layers if layer.macs]
    methods = options.default_methods()
    candidates = [
        enumerate_candidates(layer, methods, options.step(layer.out_channels)) if layer.eligible else []
        for layer in ran
    ]
    requests = [
        Request(layer=layer, chains=tuple(method.steps(layer, ranks) for method, ranks in found))
        for layer, found in zip(ran, candidates, strict=True)
    ]
    table = latency_table(requests, setting, cache=cache, remeasure=remeasure, report=report)
    total = sum(map(table.layer_ms, ran))
    return tuple(
        LayerProfile(
            layer=layer,
            ms=table.layer_ms(layer),
            share=table.layer_ms(layer) / total,
            fastest=tuple(
                one
                for divisor in DIVISORS
                for method in methods
                if (one := _fastest(layer, [c for c in found if c[0] == method], divisor, table)) is not None
            ),
        )
        for layer, found in zip(ran, candidates, strict=True)
    )


def _fastest(
    layer: LayerInfo, candidates: Sequence[Candidate], divisor: int, table: LatencyTable
) -> Fastest | None:
    allowed = layer.macs / divisor
    near = [
        (method, ranks)
        for method, ranks in candidates
        if _NEAR * allowed <= method.macs(layer, ranks) <= allowed
    ]
    if not near:
        return None
    timed = [(table.chain_ms(layer, method.steps(layer, ranks)), method, ranks) for method, ranks in near]
    ms, method, ranks = min(timed, key=lambda one: one[0])
    return Fastest(
        method=method.name,
        divisor=divisor,
        ranks=ranks,
        macs=layer.macs / method.macs(layer, ranks),
        ms=ms,
        speedup=table.layer_ms(layer) / ms,
    )
