"""Spatial ranks of the split k x k -> k x 1, 1 x k, 1 x 1, once the channel ranks are chosen.

Reference: Zhang, Zou, He and Sun, section 3.5, https://arxiv.org/abs/1505.06798. There each of the two splits
is to give the square root of the speedup; as the second leaves the 1 x 1 alone, that falls short of the
speedup. Here the spatial ranks fill the whole network's budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncompress.solvers.slack import Moves, spend_slack
from cnncompress.solvers.splits import ChannelSplit, SpatialSplit, SplitRanks, UnreachableBudgetError


def spatial_ranks(
    layers: Sequence[ChannelSplit],
    channel_ranks: Sequence[int | None],
    *,
    budget: int,
    refill: bool = True,
) -> list[SplitRanks]:
    """Spatial ranks that cut the cost of every split in two by one common factor.

    Per layer the largest spatial rank is taken that costs at most the factor times the split in two; the
    factor is the largest that the budget allows. Where three parts cost no less than two, the layer is
    split in two, and where that costs no less than the layer, it is left alone. What is left over then
    buys the ranks that keep most log energy of the weights per MAC.

    Args:
        layers: those that aren't a `SpatialSplit` are split in two or left alone.
        channel_ranks: of each layer; None leaves it alone. Ranks above break-even are welcome, as three
            parts may still be cheaper: `greedy_ranks` gives them with ``break_even=False``.
        budget: MACs that these layers may cost together.
        refill: spend what is left over.

    Returns:
        Both ranks of each layer.

    Raises:
        UnreachableBudgetError: if the budget doesn't hold at the smallest spatial ranks.
    """
    ladders = [_ladder(layer, rank) for layer, rank in zip(layers, channel_ranks, strict=True)]
    least = _total(ladders, [0] * len(ladders))
    if least > budget:
        raise UnreachableBudgetError(budget, least)
    rungs = _at_common_factor(ladders, budget)
    if refill:
        slack = budget - _total(ladders, rungs)
        rungs = spend_slack(rungs, slack, lambda i, rung: ladders[i].moves(rung))
    return [ladder.options[rung] for ladder, rung in zip(ladders, rungs, strict=True)]


@dataclass(frozen=True, eq=False)
class _Ladder:
    """What a layer can become at its channel rank, cheapest first; the last is without a spatial split."""

    options: list[SplitRanks]
    costs: NDArray[np.int64]
    log_energy: NDArray[np.float64]
    reference: int  # MACs that the common factor refers to

    def moves(self, rung: int) -> Moves[int]:
        return Moves(
            self.costs - self.costs[rung], self.log_energy - self.log_energy[rung], range(len(self.options))
        )


def _ladder(layer: ChannelSplit, channel: int | None) -> _Ladder:
    last = SplitRanks(channel=layer.worthwhile(channel))
    whole = layer.macs(last.channel)
    options, costs, kept = [last], np.array([whole], dtype=np.int64), np.zeros(1)
    if isinstance(layer, SpatialSplit) and channel is not None:
        at_channel = layer.horizontal_cost_per_pair * channel + layer.vertical_cost_per_rank
        three = layer.spatial_ranks * at_channel + layer.pointwise_cost_per_rank * channel
        cheaper = three < whole
        ranks = layer.spatial_ranks[cheaper]
        options = [*(SplitRanks(channel, spatial) for spatial in ranks.tolist()), last]
        costs = np.append(three[cheaper], whole)
        kept = np.append(layer.spatial_log_energy[ranks - 1], 0.0)
    return _Ladder(options, costs, kept, layer.macs(channel))


def _at_common_factor(ladders: Sequence[_Ladder], budget: int) -> list[int]:
    # ranks change at these factors only; the first is at or below every layer's smallest rank
    factors = np.unique(
        np.concatenate([ladder.costs / ladder.reference for ladder in ladders] or [np.zeros(1)])
    )
    low, high = 0, len(factors)
    while high - low > 1:
        middle = (low + high) // 2
        fits = _total(ladders, _rungs(ladders, factors[middle])) <= budget
        low, high = (middle, high) if fits else (low, middle)
    return _rungs(ladders, factors[low])


def _rungs(ladders: Sequence[_Ladder], factor: float) -> list[int]:
    return [
        max(0, int(np.searchsorted(ladder.costs / ladder.reference, factor, side="right")) - 1)
        for ladder in ladders
    ]


def _total(ladders: Sequence[_Ladder], rungs: Sequence[int]) -> int:
    return sum(int(ladder.costs[rung]) for ladder, rung in zip(ladders, rungs, strict=True))
