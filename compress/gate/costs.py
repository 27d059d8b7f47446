"""What both networks cost, counted on the networks themselves rather than taken from a report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress.errors import OutputError
from cnncompress.inspect import inspect_layers
from cnncompress.plan import Plan
from cnncompress.zoo.costs import Cost, layer_costs, total


def counted_macs(plan: Plan, original: nn.Module, compressed: nn.Module) -> dict[str, Any]:
    """Multiply-accumulates of both networks for one image.

    Args:
        plan: of the compressed network.
        original: its original, with any weights.
        compressed: the network.

    Returns:
        ``before``, ``after`` and ``speedup`` of what the run was asked to reduce, which ``counted`` names:
        the convolutions, or linear layers too with ``include_linear``; and ``all_before`` and ``all_after``
        of all that runs, as often as it does, transposed convolutions included.
    """
    everything = bool(plan.options.get("include_linear"))
    counted = [
        layer for layer in inspect_layers(original, plan.input_size) if everything or layer.kind == "conv2d"
    ]
    replaced = {layer.name for layer in plan.layers if layer.method != "none"}
    costs = layer_costs(compressed, plan.input_size)
    before = sum(layer.macs for layer in counted)
    # one that stays counts as it did for the run: once, though a network may run it several times
    after = sum(
        _in_place_of(layer.name, costs) if layer.name in replaced else layer.macs for layer in counted
    )
    return {
        "counted": "convolutions and linear layers" if everything else "convolutions",
        "before": before,
        "after": after,
        "speedup": before / after if after else 1.0,
        "all_before": total(layer_costs(original, plan.input_size).values()).macs,
        "all_after": total(costs.values()).macs,
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


def _in_place_of(layer: str, costs: Mapping[str, Cost]) -> int:
    """Of the layers that have this name or stand in its place."""
    return sum(cost.macs for name, cost in costs.items() if name == layer or name.startswith(f"{layer}."))
