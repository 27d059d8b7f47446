"""One layer's undominated entries, and what the layers lose if entries could be mixed.

Mixing two entries of a layer in any proportion gives the linear relaxation of the multiple-choice knapsack.
Its optimum walks along the lower convex hulls of all layers, steepest step first, and mixes in one layer only
(Sinha & Zoltners, 1979, https://doi.org/10.1287/opre.27.3.503). It equals the best Lagrangian bound, and the
slope of the last step is the price of a unit of cost there, without any search for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Front:
    """The entries of a layer that no other entry beats in both cost and loss.

    Attributes:
        costs: strictly ascending, shape (n,).
        losses: strictly descending, shape (n,).
        entries: places in the menu, shape (n,).
    """

    costs: NDArray[np.float64]
    losses: NDArray[np.float64]
    entries: NDArray[np.intp]

    @classmethod
    def of(cls, costs: NDArray[np.float64], losses: NDArray[np.float64]) -> "Front":
        """Drop what is dominated; of equal entries the first stays.

        Args:
            costs: of all entries, shape (m,).
            losses: of all entries, shape (m,).

        Returns:
            What is left, cheapest first.
        """
        order = np.lexsort((losses, costs))
        least = np.minimum.accumulate(losses[order])
        kept = order[np.append(True, least[1:] < least[:-1])]
        return cls(costs[kept], losses[kept], kept)

    def no_dearer(self, cost: float) -> int:
        """The best place within a cost.

        Args:
            cost: at least that of the cheapest entry.

        Returns:
            A place in the front.
        """
        return max(int(np.searchsorted(self.costs, cost, side="right")) - 1, 0)

    @cached_property
    def hull(self) -> list["Step"]:
        """Steps along the lower convex hull, from the cheapest entry up, ever less steep."""
        costs, losses = self.costs.tolist(), self.losses.tolist()
        corners: list[Step] = []
        for place in range(1, len(costs)):
            while True:
                last = corners[-1].place if corners else 0
                slope = (losses[last] - losses[place]) / (costs[place] - costs[last])
                if not corners or slope < corners[-1].slope:
                    break
                corners.pop()
            corners.append(Step(slope, place))
        return corners


class Step(NamedTuple):
    """A change to the next corner of a hull.

    Attributes:
        slope: loss saved per unit of cost.
        place: in the front, after the change.
    """

    slope: float
    place: int


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """The relaxed optimum.

    Attributes:
        bound: no selection within the budget loses less.
        price: loss per unit of cost at the optimum; 0 if the budget doesn't bind.
        places: of every layer, the corner at or below the optimum; they fit.
        filled: a selection that fits and loses no more, after whatever other steps were affordable.
    """

    bound: float
    price: float
    places: tuple[int, ...]
    filled: tuple[int, ...]


def relax(fronts: Sequence[Front], budget: float) -> Relaxation:
    """Solve the linear relaxation.

    Args:
        fronts: one for each layer.
        budget: at least what the cheapest entries cost together.

    Returns:
        Bound, price and a selection.
    """
    # layers in a row for equal slopes, so that the answer is the same every time
    steps = sorted(
        ((-step.slope, layer, step.place) for layer, front in enumerate(fronts) for step in front.hull),
    )
    costs = [float(front.costs[0]) for front in fronts]
    places = [0] * len(fronts)
    broken: tuple[float, tuple[int, ...]] | None = None  # the price and the places where a step didn't fit
    for rise, layer, place in steps:
        before, costs[layer] = costs[layer], float(fronts[layer].costs[place])
        if fsum(costs) <= budget:
            places[layer] = place
            continue
        costs[layer] = before
        broken = broken or (-rise, tuple(places))
    filled = tuple(places)
    if broken is None:
        return Relaxation(bound=total_loss(fronts, filled), price=0.0, places=filled, filled=filled)
    price, reached = broken
    bound = total_loss(fronts, reached) - price * (budget - total_cost(fronts, reached))
    return Relaxation(bound=max(bound, 0.0), price=price, places=reached, filled=filled)


def fill(fronts: Sequence[Front], places: Sequence[int], budget: float) -> tuple[int, ...]:
    """Spend what is left: the single change that saves most loss, as long as there is one.

    Args:
        fronts: one for each layer.
        places: a selection that fits.
        budget: that must hold.

    Returns:
        A selection that fits and loses no more.
    """
    current = list(places)
    while True:
        slack = budget - total_cost(fronts, current)
        changes = []
        for layer, (front, place) in enumerate(zip(fronts, current, strict=True)):
            target = front.no_dearer(float(front.costs[place]) + slack)
            if target > place:
                changes.append((float(front.losses[target] - front.losses[place]), layer, target))
        for _, layer, target in sorted(changes):
            changed = [*current[:layer], target, *current[layer + 1 :]]
            # a sum of fractions may exceed the budget by a last digit although the difference didn't
            if total_cost(fronts, changed) <= budget:
                current = changed
                break
        else:
            return tuple(current)


def total_cost(fronts: Sequence[Front], places: Sequence[int]) -> float:
    """What a selection costs, correctly rounded.

    Args:
        fronts: one for each layer.
        places: one in each front.

    Returns:
        The sum.
    """
    return fsum(float(front.costs[place]) for front, place in zip(fronts, places, strict=True))


def total_loss(fronts: Sequence[Front], places: Sequence[int]) -> float:
    """What a selection loses, correctly rounded.

    Args:
        fronts: one for each layer.
        places: one in each front.

    Returns:
        The sum.
    """
    return fsum(float(front.losses[place]) for front, place in zip(fronts, places, strict=True))
