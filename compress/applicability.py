"""Which methods fit which layer, with the values that their options may take and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnncompress.decompositions import Decomposition, Ranks, available, make
from cnncompress.inspect import LayerInfo

_SHARES = 64


@dataclass(frozen=True, kw_only=True)
class Applicability:
    """One method on one layer.

    Attributes:
        layer: name of the layer.
        method: name of the method.
        obstacle: why it doesn't fit; empty if it does.
        options: valid values of options that depend on the layer.
        limits: greatest value of each rank, by the rank's name.
        macs_full: multiply-accumulates at those; more than the layer's own where nothing can be saved.
        half: ranks at which the replacement costs half as much as the layer or a little less, or None.
    """

    layer: str
    method: str
    obstacle: str = ""
    options: Mapping[str, Sequence[int]] | None = None
    limits: Mapping[str, int] | None = None
    macs_full: int | None = None
    half: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            One entry for each field but the layer's name.
        """
        return {
            "method": self.method,
            "obstacle": self.obstacle,
            "options": {key: list(values) for key, values in (self.options or {}).items()},
            "limits": dict(self.limits or {}),
            "macs_full": self.macs_full,
            "half": dict(self.half) if self.half is not None else None,
        }


def applicability(layer: LayerInfo, methods: Sequence[str] = ()) -> tuple[Applicability, ...]:
    """How methods fit one layer.

    Args:
        layer: the layer; eligible.
        methods: names; all that are registered if empty.

    Returns:
        One entry for each method.
    """
    return tuple(_on(layer, make(name)) for name in methods or available())


def _on(layer: LayerInfo, method: Decomposition) -> Applicability:
    choices = method.choices(layer)
    obstacle = method.obstacle(layer)
    if obstacle:
        return Applicability(layer=layer.name, method=method.name, obstacle=obstacle, options=choices)
    full = method.full_ranks(layer)
    half = ranks_within(method, layer, layer.macs // 2)
    return Applicability(
        layer=layer.name,
        method=method.name,
        options=choices,
        limits=dict(zip(method.rank_names, full, strict=True)),
        macs_full=method.macs(layer, full),
        half=None if half is None else dict(zip(method.rank_names, half, strict=True)),
    )


def ranks_within(method: Decomposition, layer: LayerInfo, macs: int) -> Ranks | None:
    """The ranks that come closest to a cost.

    Args:
        method: fits the layer.
        layer: the layer.
        macs: multiply-accumulates that the replacement may cost.

    Returns:
        Ranks in the proportion of their limits if there are several; None if even the least cost more.
    """
    full = method.full_ranks(layer)
    if len(full) == 1:
        settings: Sequence[Ranks] = method.settings(layer, 1)
    else:
        settings = [
            tuple(max(1, round(limit * share / _SHARES)) for limit in full) for share in range(1, _SHARES + 1)
        ]
    fitting = [r for r in settings if not method.unfit(layer, r) and method.macs(layer, r) <= macs]
    return max(fitting, key=lambda ranks: method.macs(layer, ranks), default=None)
