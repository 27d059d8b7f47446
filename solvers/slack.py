"""Improve an allocation within its budget: spend what is left, then trade between layers."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

State = TypeVar("State")

_NOTICEABLE = 1e-5  # of log energy; trades for less would go on for long and change nothing
_NEIGHBOURS = 128  # of a state that a trade looks at: all in a small layer, the nearest in a large one


@dataclass(frozen=True, eq=False)
class Moves(Generic[State]):
    """The states that a layer could change to.

    Attributes:
        costs: extra multiply-accumulates (MACs) of each, negative where it saves, shape (n,).
        gains: extra log energy of each, negative where it loses, shape (n,).
        targets: the states, n of them.
    """

    costs: NDArray[np.int64]
    gains: NDArray[np.float64]
    targets: Sequence[State]

    def nearest(self) -> "Moves[State]":
        """The moves that change the cost least.

        Returns:
            As many as a trade looks at.
        """
        if len(self.costs) <= _NEIGHBOURS:
            return self
        kept = np.argsort(np.abs(self.costs), kind="stable")[:_NEIGHBOURS]
        return Moves(self.costs[kept], self.gains[kept], [self.targets[i] for i in kept])


Neighbourhood = Callable[[int, State], Moves[State]]
"""From the index of a layer and its state to its moves."""


def spend_slack(states: Sequence[State], slack: int, moves: Neighbourhood[State]) -> list[State]:
    """Make the affordable moves, most gain per MAC first, until none is left that gains.

    Ties go to the earlier layer, and within a layer to the earlier move.

    Args:
        states: the present state of every layer.
        slack: MACs that may be spent.
        moves: what each layer could change to.

    Returns:
        The states afterwards.
    """
    final = list(states)
    queue: list[tuple[float, int, int, State]] = []

    def offer(layer: int) -> None:
        choice = moves(layer, final[layer])
        useful = np.flatnonzero((choice.costs <= slack) & (choice.gains > 0))
        if len(useful):
            costs = choice.costs[useful]
            # a gain that costs nothing comes before all others
            rates = np.where(costs > 0, choice.gains[useful] / np.maximum(costs, 1), np.inf)
            best = int(np.argmax(rates))
            entry = (-float(rates[best]), layer, int(costs[best]), choice.targets[useful[best]])
            heapq.heappush(queue, entry)

    for layer in range(len(final)):
        offer(layer)
    while queue:
        _, layer, cost, target = heapq.heappop(queue)
        if cost <= slack:
            final[layer] = target
            slack -= cost
        offer(layer)  # its next move, or a smaller one if this is no longer affordable
    return final


def trade(states: Sequence[State], slack: int, moves: Neighbourhood[State]) -> list[State]:
    """Let one layer save and another spend, as long as the two together gain.

    Where ranks are coarse, in small or aligned layers, this finds what spending alone can't.

    Args:
        states: the present state of every layer.
        slack: MACs that may be spent beyond what is saved.
        moves: what each layer could change to.

    Returns:
        The states afterwards.
    """
    final = list(states)
    near = [moves(layer, state).nearest() for layer, state in enumerate(final)]
    while (pair := _best_pair(near, slack)) is not None:
        for layer, index in pair:
            slack -= int(near[layer].costs[index])
            final[layer] = near[layer].targets[index]
            near[layer] = moves(layer, final[layer]).nearest()
    return final


# the saving and the spending move, each as layer and index, that gain most together
def _best_pair(near: Sequence[Moves[State]], slack: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    if not near:
        return None
    costs = np.concatenate([choice.costs for choice in near])
    gains = np.concatenate([choice.gains for choice in near])
    owner = np.repeat(np.arange(len(near)), [len(choice.costs) for choice in near])
    index = np.concatenate([np.arange(len(choice.costs)) for choice in near])
    spending = np.flatnonzero(costs > 0)
    spending = spending[np.argsort(costs[spending], kind="stable")]
    best, pair = _NOTICEABLE, None
    for layer, choice in enumerate(near):
        saving = np.flatnonzero(choice.costs < 0)
        others = spending[owner[spending] != layer]
        if not len(saving) or not len(others):
            continue
        most = np.maximum.accumulate(gains[others])  # that the cheapest n moves can gain
        affordable = np.searchsorted(costs[others], slack - choice.costs[saving], side="right")
        net = choice.gains[saving] + np.where(affordable > 0, most[np.maximum(affordable, 1) - 1], -np.inf)
        first = int(np.argmax(net))
        if net[first] > best:
            second = others[int(np.argmax(gains[others[: affordable[first]]]))]
            best = float(net[first])
            pair = (layer, int(saving[first])), (int(owner[second]), int(index[second]))
    return pair
