"""What a run found, as the content of report.json (schema 1)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from torch import nn

from cnncompress.collector import Collector
from cnncompress.decompositions import Factors, make
from cnncompress.environment import environment
from cnncompress.evaluate import Comparison
from cnncompress.finetuning.finetune import Finetuned
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo
from cnncompress.layer_timing import LayerTime
from cnncompress.measure import Latency
from cnncompress.memory import peak_rss_mb
from cnncompress.network import Network
from cnncompress.plan import LayerPlan, Plan
from cnncompress.repair import Repaired

SCHEMA = 1
_CURVE_POINTS = 64


def summarize(
    *,
    network: Network,
    asked: float | None,
    plan: Plan,
    layers: Sequence[LayerInfo],
    original: nn.Module,
    compressed: nn.Module,
    collector: Collector,
    factors: Mapping[str, Factors],
    alone: Mapping[str, Mapping[str, float]],
    comparison: Comparison,
    calibration: ImageSource,
    evaluation: ImageSource | None,
    latency: Sequence[Latency],
    timing: Mapping[str, float],
    layer_times: Mapping[str, LayerTime] = {},
    filters: Mapping[str, Any] | None = None,
    repaired: Repaired | None = None,
    finetuned: Finetuned | None = None,
    untrained: Comparison | None = None,
    throughput: Mapping[str, Mapping[str, float]] = {},
    processes: int = 1,
    planner: Mapping[str, Any] | None = None,
    changed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Gather what report.json holds.

    Args:
        network: the original and where it came from.
        asked: speedup; None where the user settled all ranks.
        plan: every decision.
        layers: description of the layers, BatchNorm folded.
        original: the caller's model.
        compressed: the result.
        collector: moments of the original's responses.
        factors: what the fits found.
        alone: held-out errors of each kind of solution when it is used throughout; may be empty.
        comparison: of the two networks.
        calibration: images that were calibrated on.
        evaluation: images with labels, if any.
        latency: measured times.
        timing: seconds of each stage.
        layer_times: of the replacements that were timed, by the layer's name; all under one setting.
        filters: what `filters_of` returns for the first layer that was replaced, if it looks at colours.
        repaired: what the repair in closed form did, if anything.
        finetuned: what fine-tuning did, if anything.
        untrained: of the original with the network before its fine-tuning, if there was any.
        throughput: images of each stage that read some, and how fast they went through.
        processes: that shared the work.
        planner: how the budget was spent, of rules that tell.
        changed: what `changed_answers` returns.

    Returns:
        JSON-able values.
    """
    energy = {
        layer.name: _energy_curve(collector, layer.name)
        for layer, planned in zip(layers, plan.layers, strict=True)
        if planned.method != "none" and make(planned.method, planned.options).principal
    }
    rows = [
        _row(layer, planned, factors.get(layer.name), energy.get(layer.name))
        | {"errors_alone": dict(alone.get(layer.name, {}))}
        | _speed(layer_times.get(layer.name))
        for layer, planned in zip(layers, plan.layers, strict=True)
    ]
    return {
        "schema": SCHEMA,
        "name": network.name,
        "weights": network.weights,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "asked": {
            "speedup": asked,
            "budget": _budget(plan.options),
        },
        "macs": _macs(layers, rows),
        "params": {"before": _params(original), "after": _params(compressed)},
        "bytes": {"before": _bytes(original), "after": _bytes(compressed)},
        "layers": rows,
        "energy": energy,
        **_quality(comparison, evaluation),
        "changed": dict(changed) if changed is not None else None,
        "latency": [measured.to_json() for measured in latency],
        "layer_timing": _setting(layer_times),
        "filters": dict(filters) if filters is not None else None,
        "planner": dict(planner) if planner is not None else None,
        "repair": repaired.to_json() if repaired is not None else None,
        "before_finetune": _quality(untrained, evaluation) if untrained is not None else None,
        "finetune": finetuned.to_json() if finetuned is not None else None,
        "timing": dict(timing),
        "throughput": {stage: dict(rates) for stage, rates in throughput.items()},
        "processes": processes,
        "peak_rss_mb": peak_rss_mb(),
        "calibration": {
            "description": calibration.description,
            "images": len(calibration) - len(calibration.bad),
            "bad": [[bad.key, bad.reason] for bad in calibration.bad],
            "data_hash": calibration.hash,
        },
        "preprocess": dict(plan.preprocess),
        "options": dict(plan.options),
        "environment": environment(),
        "data_hash": calibration.hash,
        "notes": list(network.notes),
    }


def _quality(comparison: Comparison, evaluation: ImageSource | None) -> dict[str, Any]:
    accuracy = comparison.accuracy(evaluation.description) if evaluation is not None else None
    return {"fidelity": comparison.fidelity(), "accuracy": accuracy}


def _budget(options: Mapping[str, Any]) -> str:
    if options.get("budget", "macs") != "macs":
        return "latency" if options["budget"] == "latency" else "parameters"
    return "MACs of convolutions and linear layers" if options["include_linear"] else "conv MACs"


def _energy_curve(collector: Collector, name: str) -> list[list[float]]:
    """Share of response energy kept at up to 64 ranks, the full one included."""
    moments = collector.numpy_moments(name)
    assert moments is not None
    values = np.maximum(moments.spectrum[0], 0)
    total = float(values.sum())
    share = np.cumsum(values) / total if total > 0 else np.ones(len(values))
    ranks = np.unique(np.linspace(1, len(values), _CURVE_POINTS).round().astype(int))
    return [[int(rank), float(share[rank - 1])] for rank in ranks]


def _row(
    layer: LayerInfo, planned: LayerPlan, factors: Factors | None, curve: list[list[float]] | None
) -> dict[str, Any]:
    after, kept = layer.macs, None
    if planned.method != "none":
        after = make(planned.method, planned.options).macs(layer, planned.ranks)
        if curve is not None:
            ranks, shares = zip(*curve, strict=True)
            kept = float(np.interp(planned.ranks[-1], ranks, shares))
    return {
        "name": layer.name,
        "kind": layer.kind,
        "method": planned.method,
        "ranks": list(planned.ranks),
        "macs_before": layer.macs,
        "macs_after": after,
        "energy_kept": kept,
        "error_heldout": factors.errors.get(factors.chosen) if factors is not None else None,
        "errors": dict(factors.errors) if factors is not None else {},
        "chosen": factors.chosen if factors is not None else "",
        "reason": planned.reason,
        "notes": list(factors.notes) if factors is not None else [],
    }


def _speed(timed: LayerTime | None) -> dict[str, float | None]:
    return {
        "ms_before": timed.ms_before if timed is not None else None,
        "ms_after": timed.ms_after if timed is not None else None,
        "layer_speedup": timed.speedup if timed is not None else None,
    }


def _setting(layer_times: Mapping[str, LayerTime]) -> dict[str, Any] | None:
    for timed in layer_times.values():
        return {
            "runtime": "torch",
            "threads": timed.threads,
            "batch": timed.batch,
            "device": timed.device,
        }
    return None


def _macs(layers: Sequence[LayerInfo], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    before = sum(layer.macs for layer in layers)
    after = sum(row["macs_after"] for row in rows)
    conv = [row for row in rows if row["kind"] == "conv2d"]
    conv_before, conv_after = sum(r["macs_before"] for r in conv), sum(r["macs_after"] for r in conv)
    return {
        "before": before,
        "after": after,
        "speedup": before / after if after else 1.0,
        "conv_before": conv_before,
        "conv_after": conv_after,
        "conv_speedup": conv_before / conv_after if conv_after else 1.0,
    }


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
