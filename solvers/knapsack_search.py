"""The gap between a relaxed optimum and a known selection, searched layer by layer.

Dynamic programming over (cost, loss) of the layers so far. At the relaxed optimum's price every entry has a
reduced cost: what choosing it adds to the bound at least. What adds more than the gap can't be part of a
better selection and is dropped, entries first, partial selections later (Pisinger, 1995,
https://doi.org/10.1016/0377-2217(95)00015-I). Costs stay exact; only if more partial selections are left than
the limit allows, the cost is quantised and the best of each bin goes on, and the result is no longer proved.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncompress.solvers.knapsack_front import Front, Relaxation, total_cost, total_loss

_EXPANSIONS = 2_000_000  # partial selections times entries, over all layers: a second or so at worst
_ROUNDING = 1e-12  # of the budget: partial sums of fractions may err by as much, the full sum is checked


@dataclass(frozen=True, eq=False)
class _Layer:
    """What may replace a layer's corner of the relaxed optimum, relative to it."""

    index: int
    places: NDArray[np.intp]
    costs: NDArray[np.float64]
    losses: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Partial:
    """Partial selections: cost and loss relative to the corners, and how each came about."""

    costs: NDArray[np.float64]
    losses: NDArray[np.float64]
    origin: NDArray[np.intp]
    option: NDArray[np.intp]

    def only(self, kept: NDArray[np.intp]) -> "_Partial":
        return _Partial(self.costs[kept], self.losses[kept], self.origin[kept], self.option[kept])


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        places: the best selection known afterwards.
        proved: no selection within the budget loses less.
    """

    places: tuple[int, ...]
    proved: bool


def improve(
    fronts: Sequence[Front], relaxed: Relaxation, known: Sequence[int], *, budget: float, limit: int
) -> Outcome:
    """Look for a selection that loses less than a known one.

    Args:
        fronts: one for each layer.
        relaxed: the relaxed optimum.
        known: a selection that fits.
        budget: that must hold.
        limit: partial selections that are followed at a time.

    Returns:
        The better selection if there is one, else the known one.
    """
    gap = total_loss(fronts, known) - relaxed.bound
    if gap <= 0:
        return Outcome(tuple(known), proved=True)
    layers = _contenders(fronts, relaxed, gap)
    room = budget - total_cost(fronts, relaxed.places)
    within = _Limits(gap=gap, room=room, tolerance=_ROUNDING * budget, states=limit)
    stages, thinned = _grow(layers, relaxed.price, within)
    for places in _selections(stages, layers, relaxed.places):
        if total_cost(fronts, places) <= budget:
            better = total_loss(fronts, places) < total_loss(fronts, known)
            return Outcome(places if better else tuple(known), proved=not thinned)
    return Outcome(tuple(known), proved=not thinned)


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """Bounds on partial selections: loss above the bound, cost above the corners, and their number."""

    gap: float
    room: float
    tolerance: float
    states: int


# the partial selections after each layer, and whether some that could have been better were left out
def _grow(layers: Sequence[_Layer], price: float, within: _Limits) -> tuple[list[_Partial], bool]:
    # what the layers still to come can add to the cost, at least and at most
    least = np.append(np.cumsum([layer.costs.min() for layer in layers][::-1])[::-1], 0.0)
    most = np.append(np.cumsum([layer.costs.max() for layer in layers][::-1])[::-1], 0.0)
    nothing, origin = np.zeros(1), np.zeros(1, np.intp)
    stages = [_Partial(nothing, nothing, origin, origin)]
    thinned = False
    for number, layer in enumerate(layers, 1):
        allowed = max(min(within.states, _EXPANSIONS // (len(layers) * len(layer.places))), 1)
        if len(stages[-1].costs) > allowed:
            thinned = True
            stages[-1] = _thin(stages[-1], price, allowed)
        grown = _expand(stages[-1], layer)
        unspent = np.maximum(within.room - grown.costs - most[number], 0.0)
        excess = grown.losses + price * (grown.costs + unspent)
        fits = grown.costs + least[number] <= within.room + within.tolerance
        stages.append(_undominated(grown.only(np.flatnonzero(fits & (excess < within.gap)))))
    return stages, thinned


def _contenders(fronts: Sequence[Front], relaxed: Relaxation, gap: float) -> list[_Layer]:
    layers = []
    for index, (front, corner) in enumerate(zip(fronts, relaxed.places, strict=True)):
        costs, losses = front.costs - front.costs[corner], front.losses - front.losses[corner]
        # the corner itself is always one: its reduced cost is 0
        places = np.flatnonzero(losses + relaxed.price * costs < gap)
        layers.append(_Layer(index, places, costs[places], losses[places]))
    # few choices first: fewer partial selections on the way
    return sorted(layers, key=lambda layer: len(layer.places))


def _expand(partial: _Partial, layer: _Layer) -> _Partial:
    count, options = len(partial.costs), len(layer.places)
    return _Partial(
        np.add.outer(partial.costs, layer.costs).ravel(),
        np.add.outer(partial.losses, layer.losses).ravel(),
        np.repeat(np.arange(count), options),
        np.tile(np.arange(options), count),
    )


def _undominated(partial: _Partial) -> _Partial:
    order = np.lexsort((partial.losses, partial.costs))
    least = np.minimum.accumulate(partial.losses[order])
    return partial.only(order[np.append(True, least[1:] < least[:-1])[: len(order)]])


def _thin(partial: _Partial, price: float, bins: int) -> _Partial:
    low, high = partial.costs[0], partial.costs[-1]
    bin_of = np.floor((partial.costs - low) * (bins / (high - low)))
    order = np.lexsort((partial.losses + price * partial.costs, bin_of))
    first = np.append(True, np.diff(bin_of[order]) > 0)
    return partial.only(np.sort(order[first]))


# complete selections, least loss first
def _selections(
    stages: Sequence[_Partial], layers: Sequence[_Layer], corners: Sequence[int]
) -> Iterator[tuple[int, ...]]:
    for last in np.argsort(stages[-1].losses, kind="stable"):
        places, state = list(corners), int(last)
        for stage, layer in zip(reversed(stages[1:]), reversed(layers), strict=True):
            places[layer.index] = int(layer.places[stage.option[state]])
            state = int(stage.origin[state])
        yield tuple(places)
