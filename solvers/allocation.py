"""Channel ranks of a network's layers: the same speedup everywhere, or greedy by response energy.

Reference: Zhang, Zou, He and Sun, Accelerating Very Deep Convolutional Networks for Classification and
Detection, section 3.4, https://arxiv.org/abs/1505.06798. The 1 x 1 that a split adds is part of its cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cnncompress.solvers.slack import Moves, spend_slack, trade
from cnncompress.solvers.splits import ChannelSplit, UnreachableBudgetError

__all__ = ["ChannelSplit", "UnreachableBudgetError", "greedy_ranks", "uniform_rank", "uniform_ranks"]


def uniform_rank(cost: int, cost_per_rank: int, speedup: Fraction | float) -> int:
    """The largest rank whose split is more than ``speedup`` times cheaper than the layer.

    The bound is strict: a rank that gives the speedup exactly is not taken, as in the published tables.

    Args:
        cost: MACs of the layer as it is.
        cost_per_rank: MACs of one rank.
        speedup: at least 1; a float counts as the decimal number it prints as.

    Returns:
        The rank, at least 1.

    Raises:
        ValueError: if the speedup is below 1 or not a number.

    Example:
        >>> uniform_rank(9 * 512 * 512, 9 * 512 + 512, 2.4)  # 192 would be exactly 2.4
        191
    """
    if not 1 <= speedup < math.inf:
        raise ValueError(f"speedup must be a number of at least 1, got {speedup}")
    bound = Fraction(cost, cost_per_rank) / _exact(speedup)
    return max(1, -(-bound.numerator // bound.denominator) - 1)


def uniform_ranks(
    layers: Sequence[ChannelSplit], *, fixed_cost: int, speedup: Fraction | float, compensate: bool = False
) -> list[int | None]:
    """One speedup for every layer.

    Args:
        layers: the layers to split.
        fixed_cost: MACs of the layers that stay as they are.
        speedup: of every layer, or with ``compensate`` of the network; at least 1.
        compensate: let the layers also make up for what isn't split and for ranks at their floor. Only
            then is the speedup of the network guaranteed.

    Returns:
        A rank for each layer, rounded down to its step but not below its floor; None where the split would
        save nothing.

    Raises:
        UnreachableBudgetError: if the layers can't compensate for the rest.
    """
    ratio = _exact(speedup)
    ranks = [_at_speedup(layer, ratio) for layer in layers]
    if not compensate:
        return ranks
    budget = (fixed_cost + sum(layer.cost for layer in layers)) / ratio - fixed_cost
    free, settled = set(range(len(layers))), 0
    while free and settled < budget:
        ratio = sum(layers[i].cost for i in free) / (budget - settled)
        ranks = [_at_speedup(layer, ratio) if i in free else ranks[i] for i, layer in enumerate(layers)]
        short = {i for i in free if layers[i].macs(ranks[i]) * ratio > layers[i].cost}
        if not short:
            return ranks
        # these are at their least already: the others must give what they can't
        free -= short
        settled += sum(layers[i].macs(ranks[i]) for i in short)
    raise UnreachableBudgetError(math.floor(budget), sum(layer.least for layer in layers))


def greedy_ranks(
    layers: Sequence[ChannelSplit], *, budget: int, break_even: bool = True, refill: bool = True
) -> list[int | None]:
    """Remove, step by step, the eigenvalues that lose least log energy per MAC saved.

    The sum over the layers of log energies is the logarithm of the product that the paper maximises. As
    eigenvalues descend, a layer's steps only get dearer: sorting all steps once is the same as a priority
    queue. The descent starts from the layer as it is, which costs less than its highest ranks; its first
    step leads to the rank that loses least per MAC saved, since one above that is a bad bargain. Ties go to
    the earlier layer. What the last step saved too much buys back ranks, then layers trade ranks.

    Args:
        layers: the layers to split.
        budget: MACs that they may cost together; layers that stay as they are don't count.
        break_even: leave a layer as it is where a split would save too little. Without it every layer
            gets a rank, up to the full one, and counts as split: what a split in three starts from.
        refill: spend what is left, and trade.

    Returns:
        A rank for each layer, None where it is left as it is.

    Raises:
        UnreachableBudgetError: if the layers cost more than the budget at their smallest ranks.

    Example:
        >>> steep = ChannelSplit(energies=np.array([8.0, 0.1, 0.1, 0.1]), cost=400, cost_per_rank=110)
        >>> flat = ChannelSplit(energies=np.ones(4), cost=400, cost_per_rank=110)
        >>> greedy_ranks([steep, flat], budget=510)
        [1, None]
    """
    ladders = [_ladder(layer, break_even=break_even) for layer in layers]
    least = sum(int(ladder.costs[0]) for ladder in ladders)
    if least > budget:
        raise UnreachableBudgetError(budget, least)
    rungs = _descend([_steps(ladder, leap=break_even) for ladder in ladders], ladders, budget)
    if refill:
        for improve in (spend_slack, trade, spend_slack):
            spent = sum(int(ladder.costs[rung]) for ladder, rung in zip(ladders, rungs, strict=True))
            rungs = improve(rungs, budget - spent, lambda i, rung: ladders[i].moves(rung))
    return [ladder.ranks[rung] for ladder, rung in zip(ladders, rungs, strict=True)]


def _exact(speedup: Fraction | float) -> Fraction:
    return speedup if isinstance(speedup, Fraction) else Fraction(str(speedup))


def _at_speedup(layer: ChannelSplit, speedup: Fraction) -> int | None:
    rank = uniform_rank(layer.cost, layer.cost_per_rank, speedup)
    return layer.worthwhile(max(rank // layer.step * layer.step, layer.smallest))


@dataclass(frozen=True, eq=False)
class _Ladder:
    """All that one layer can become, cheapest first; the last is the layer as it is or at full rank."""

    ranks: list[int | None]
    costs: NDArray[np.int64]
    log_energy: NDArray[np.float64]

    def moves(self, rung: int) -> Moves[int]:
        return Moves(
            self.costs - self.costs[rung], self.log_energy - self.log_energy[rung], range(len(self.ranks))
        )


def _ladder(layer: ChannelSplit, *, break_even: bool) -> _Ladder:
    full = len(layer.energies)
    ranks = layer.ranks[layer.ranks < full]
    if break_even:
        ranks = ranks[ranks * layer.cost_per_rank < layer.cost]
    last: int | None = None if break_even else full
    return _Ladder(
        ranks=[*ranks.tolist(), last],
        costs=np.append(ranks * layer.cost_per_rank, layer.macs(last)),
        log_energy=np.append(layer.log_energy[ranks - 1], 0.0),
    )


# the rungs, from the last one down, that a descent stops at
def _steps(ladder: _Ladder, *, leap: bool) -> NDArray[np.intp]:
    last = len(ladder.costs) - 1
    first = last - 1
    if leap and last > 0:
        saved = ladder.costs[last] - ladder.costs[:last]
        first = int(np.argmin(-ladder.log_energy[:last] / saved))
    return np.append(last, np.arange(first, -1, -1))


# the rungs after the cheapest steps that meet the budget
def _descend(steps: Sequence[NDArray[np.intp]], ladders: Sequence[_Ladder], budget: int) -> list[int]:
    excess = sum(int(ladder.costs[-1]) for ladder in ladders) - budget
    if excess <= 0:
        return [len(ladder.costs) - 1 for ladder in ladders]
    saved = [-np.diff(ladder.costs[rungs]) for rungs, ladder in zip(steps, ladders, strict=True)]
    lost = [-np.diff(ladder.log_energy[rungs]) for rungs, ladder in zip(steps, ladders, strict=True)]
    # equal steps may come out a rounding apart, but those of one layer have an order
    prices = [np.maximum.accumulate(loss / saving) for loss, saving in zip(lost, saved, strict=True)]
    owner = np.repeat(np.arange(len(ladders)), [len(price) for price in prices])
    order = np.argsort(np.concatenate(prices), kind="stable")
    count = int(np.searchsorted(np.cumsum(np.concatenate(saved)[order]), excess)) + 1
    taken = np.bincount(owner[order[:count]], minlength=len(ladders))
    return [int(rungs[n]) for rungs, n in zip(steps, taken, strict=True)]
