"""What both networks cost, counted on the networks themselves rather than taken from a report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress.errors import OutputError
from cnncompress.inspect import inspect_layers
from cnncompress.plan import Plan
from cnncompress.zoo.costs import Cost, layer_costs


def counted_macs(plan: Plan, original: nn.Module, compressed: nn.Module) -> dict[str, Any]:
    """Multiply-accumulates of both networks for one image.

    Args:
        plan: of the compressed network.
        original: its original, with any weights.
        compressed: the network.

    Returns:
        ``before``, ``after`` and ``speedup`` of what the run was asked to reduce, which ``counted`` names:
        the convolutions, or all layers with ``include_linear``; and ``all_before`` and ``all_after``.
    """
    convolutions = {
        layer.name for layer in inspect_layers(original, plan.input_size) if layer.kind == "conv2d"
    }
    everything = bool(plan.options.get("include_linear"))
    before, after = layer_costs(original, plan.input_size), layer_costs(compressed, plan.input_size)
    kept = None if everything else convolutions
    reduced = (_sum(before, kept), _sum(after, kept))
    return {
        "counted": "convolutions and linear layers" if everything else "convolutions",
        "before": reduced[0],
        "after": reduced[1],
        "speedup": reduced[0] / reduced[1] if reduced[1] else 1.0,
        "all_before": _sum(before, None),
        "all_after": _sum(after, None),
    }


def stored_bytes(folder: Path) -> int:
    """Size of the compressed weights.

    Args:
        folder: of the results.

    Returns:
        Bytes of model.safetensors.

    Raises:
        OutputError: there is no such file.
    """
    file = folder / "model.safetensors"
    try:
        return file.stat().st_size
    except OSError as error:
        raise OutputError(f"{file}: can't be read: {error.strerror or error}") from None


def _sum(costs: Mapping[str, Cost], layers: set[str] | None) -> int:
    """Of the layers that have one of these names, or stand in the place of one; of all if None."""
    return sum(cost.macs for name, cost in costs.items() if layers is None or _within(name, layers))


def _within(name: str, layers: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in layers for length in range(1, len(parts) + 1))
