"""Channel and spatial ranks together: every layer buys what is worth a common price per MAC.

At a given price of a multiply-accumulate each layer takes the ranks, the split in two or no split, whichever
has the largest log energy less its cost times the price. Such an allocation is the best of all that cost no
more than it does (Everett, Generalized Lagrange Multiplier Method, 1963,
https://doi.org/10.1287/opre.11.3.399). The price is raised until the budget holds; what is left is
spent.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncompress.solvers.slack import Moves, spend_slack, trade
from cnncompress.solvers.splits import ChannelSplit, SpatialSplit, SplitRanks, UnreachableBudgetError

_HIGHEST_PRICE = 1e3  # of one MAC in log energy: above any gain, so all take their cheapest ranks
_LOWEST_PRICE = 1e-40  # below any gain that float64 can tell, so only ranks without energy go
_HALVINGS = 48  # narrow the price to 4e-13 of itself


def joint_ranks(
    layers: Sequence[ChannelSplit], *, budget: int, spatial_weight: float = 1.0, refill: bool = True
) -> list[SplitRanks]:
    """Channel and spatial ranks that keep the largest product of response and weight energies.

    Args:
        layers: those that aren't a `SpatialSplit` are split in two or left alone.
        budget: MACs that these layers may cost together.
        spatial_weight: how much the log energy of the weights, which the spatial split loses, counts
            against that of the responses, which the channel split loses; above 0.
        refill: spend what is left, and let layers trade ranks.

    Returns:
        Both ranks of each layer: both None if it is left alone, ``spatial`` None if it is split in two.

    Raises:
        ValueError: if the spatial weight isn't above 0.
        UnreachableBudgetError: if the layers cost more than the budget at their smallest ranks.
    """
    if not spatial_weight > 0:
        raise ValueError(f"spatial_weight must be above 0, got {spatial_weight}")
    menus = [_Menu(layer, spatial_weight) for layer in layers]
    chosen = [SplitRanks() for _ in layers]
    if _total(menus, chosen) <= budget:
        return chosen
    least = _total(menus, [menu.best(_HIGHEST_PRICE) for menu in menus])
    if least > budget:
        raise UnreachableBudgetError(budget, least)
    chosen, dearer = _at_common_price(menus, budget)
    if not refill:
        return chosen

    # what a slightly lower price would have bought comes first: it may raise both ranks of a layer at once
    def dearer_only(layer: int, ranks: SplitRanks) -> Moves[SplitRanks]:
        return menus[layer].moves_to(ranks, dearer[layer])

    def every(layer: int, ranks: SplitRanks) -> Moves[SplitRanks]:
        return menus[layer].moves(ranks)

    for improve, moves in (
        (spend_slack, dearer_only),
        (spend_slack, every),
        (trade, every),
        (spend_slack, every),
    ):
        chosen = improve(chosen, budget - _total(menus, chosen), moves)
    return chosen


# what is bought at the lowest price at which the budget holds, and just below that price
def _at_common_price(menus: Sequence["_Menu"], budget: int) -> tuple[list[SplitRanks], list[SplitRanks]]:
    low, high = _LOWEST_PRICE, _HIGHEST_PRICE
    exceeds, fits = ([menu.best(price) for menu in menus] for price in (low, high))
    if _total(menus, exceeds) <= budget:
        return exceeds, exceeds
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        bought = [menu.best(middle) for menu in menus]
        if _total(menus, bought) <= budget:
            high, fits = middle, bought
        else:
            low, exceeds = middle, bought
    return fits, exceeds


def _total(menus: Sequence["_Menu"], chosen: Sequence[SplitRanks]) -> int:
    return sum(menu.macs(ranks) for menu, ranks in zip(menus, chosen, strict=True))


class _Menu:
    """All that one layer can become, with what it costs and how much log energy it keeps."""

    def __init__(self, layer: ChannelSplit, spatial_weight: float) -> None:
        self.layer = layer
        self.channel = layer.ranks
        self.channel_kept = layer.log_energy[layer.ranks - 1]
        self.pairs = layer.cost_per_rank * self.channel  # MACs of the splits in two
        gains = np.diff(self.channel_kept) / layer.step
        # the log of a sum of descending numbers is concave; rounding mustn't make it less so
        self.gains = np.minimum.accumulate(gains) if len(gains) else gains
        self.spatial = np.zeros(0, dtype=np.int64)
        self.spatial_kept = np.zeros(0)
        if isinstance(layer, SpatialSplit) and len(self.channel):
            self.spatial = layer.spatial_ranks
            self.spatial_kept = spatial_weight * layer.spatial_log_energy[self.spatial - 1]
            self.vertical = layer.vertical_cost_per_rank * self.spatial
            self.per_channel = layer.horizontal_cost_per_pair * self.spatial + layer.pointwise_cost_per_rank

    def macs(self, ranks: SplitRanks) -> int:
        if isinstance(self.layer, SpatialSplit):
            return self.layer.macs(ranks.channel, ranks.spatial)
        return self.layer.macs(ranks.channel)

    def kept(self, ranks: SplitRanks) -> float:
        value = 0.0 if ranks.channel is None else float(self.layer.log_energy[ranks.channel - 1])
        if ranks.spatial is not None:
            value += float(self.spatial_kept[np.searchsorted(self.spatial, ranks.spatial)])
        return value

    # the largest log energy less its cost times the price; the simpler choice if equal
    def best(self, price: float) -> SplitRanks:
        choice, value = SplitRanks(), -price * self.layer.cost
        if len(self.channel):
            values = self.channel_kept - price * self.pairs
            if values[at := int(np.argmax(values))] > value:
                choice, value = SplitRanks(int(self.channel[at])), float(values[at])
        if len(self.spatial):
            # for each spatial rank the channel ranks that gain more than they cost, all at once
            count = np.searchsorted(-self.gains, -price * self.per_channel, side="left")
            costs = self.vertical + self.per_channel * self.channel[count]
            values = self.channel_kept[count] + self.spatial_kept - price * costs
            if values[at := int(np.argmax(values))] > value:
                choice = SplitRanks(int(self.channel[count[at]]), int(self.spatial[at]))
        return choice

    def moves_to(self, ranks: SplitRanks, target: SplitRanks) -> Moves[SplitRanks]:
        cost, gain = self.macs(target) - self.macs(ranks), self.kept(target) - self.kept(ranks)
        return Moves(np.array([cost]), np.array([gain]), [target])

    # to no split, to any split in two, and to the splits in three that change one rank and are worth it
    def moves(self, ranks: SplitRanks) -> Moves[SplitRanks]:
        channel = [np.zeros(1, dtype=np.int64), self.channel]
        costs = [np.array([self.layer.cost]), self.pairs]
        kept = [np.zeros(1), self.channel_kept]
        spatial = [np.zeros(1 + len(self.channel), dtype=np.int64)]
        if ranks.spatial is not None and ranks.channel is not None:
            at = int(np.searchsorted(self.spatial, ranks.spatial))
            here = np.full(len(self.spatial), np.searchsorted(self.channel, ranks.channel))
            there = np.full(len(self.channel), at)
            along = np.append(np.arange(len(self.channel)), here)
            across = np.append(there, np.arange(len(self.spatial)))
            three = self.vertical[across] + self.per_channel[across] * self.channel[along]
            cheaper = three < np.minimum(self.pairs[along], self.layer.cost)
            along, across = along[cheaper], across[cheaper]
            channel.append(self.channel[along])
            spatial.append(self.spatial[across])
            costs.append(three[cheaper])
            kept.append(self.channel_kept[along] + self.spatial_kept[across])
        return Moves(
            np.concatenate(costs) - self.macs(ranks),
            np.concatenate(kept) - self.kept(ranks),
            _Targets(np.concatenate(channel), np.concatenate(spatial)),
        )


class _Targets(Sequence[SplitRanks]):
    """Pairs of ranks made on demand, 0 for None: only one of thousands is ever looked at."""

    def __init__(self, channel: NDArray[np.int64], spatial: NDArray[np.int64]) -> None:
        self.channel, self.spatial = channel, spatial

    def __len__(self) -> int:
        return len(self.channel)

    def __getitem__(self, index: Any) -> Any:
        return SplitRanks(int(self.channel[index]) or None, int(self.spatial[index]) or None)
