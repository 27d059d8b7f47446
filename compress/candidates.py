"""What may take a layer's place: methods with ranks, on a grid."""

from collections.abc import Sequence
from math import prod

import numpy as np

from cnncompress.decompositions import Decomposition, Ranks
from cnncompress.inspect import LayerInfo

MOST = 300
"""Settings of one method on one layer, as `enumerate_candidates` keeps them."""

_LOOKED_AT = 20_000
_TOWARDS_SMALL = 1.3  # small ranks differ more from each other


def enumerate_candidates(
    layer: LayerInfo, methods: Sequence[Decomposition], align: int, most: int = MOST
) -> list[tuple[Decomposition, Ranks]]:
    """Every replacement that needs fewer multiply-accumulates than the layer.

    Args:
        layer: the layer.
        methods: that fit it.
        align: ranks are multiples of this, or of less where there are few.
        most: settings of one method; a finer grid is thinned out, its ends kept.

    Returns:
        Methods with ranks, one method after the other.
    """
    found: list[tuple[Decomposition, Ranks]] = []
    for method in methods:
        if method.obstacle(layer):
            continue
        cheaper = [
            ranks for ranks in _settings(method, layer, align) if method.macs(layer, ranks) < layer.macs
        ]
        found += [(method, ranks) for ranks in _thinned(cheaper, most)]
    return found


def _settings(method: Decomposition, layer: LayerInfo, align: int) -> Sequence[Ranks]:
    asked = method.asked(layer)
    if asked is not None:
        return [ranks for ranks in method.settings(layer, 1) if ranks == asked]
    return method.settings(layer, _coarse(method, layer, method.rank_step(layer, align)))


def _coarse(method: Decomposition, layer: LayerInfo, step: int) -> int:
    """The step, doubled while it gives more settings than are worth looking at one by one."""
    while prod(-(-limit // step) for limit in method.full_ranks(layer)) > _LOOKED_AT:
        step *= 2
    return step


def _thinned(settings: Sequence[Ranks], most: int) -> list[Ranks]:
    """At most so many settings: of each rank some values, closer together where they are small."""
    kept = list(settings)
    axes = [sorted(set(values)) for values in zip(*settings, strict=True)]
    count = max(map(len, axes), default=0)
    while len(kept) > most and count > 2:
        count = max(2, int(0.9 * count))
        chosen = [_spread(axis, count) for axis in axes]
        kept = [
            ranks for ranks in settings if all(rank in few for rank, few in zip(ranks, chosen, strict=True))
        ]
    return kept


def _spread(values: Sequence[int], count: int) -> set[int]:
    if len(values) <= count:
        return set(values)
    places = np.linspace(0, 1, count) ** _TOWARDS_SMALL * (len(values) - 1)
    return {values[int(place)] for place in np.round(places)}
