"""Multiple-choice knapsack: one entry from each layer's menu, the least loss within a budget.

The linear relaxation gives a bound that no selection can beat, the price of a unit of cost, and a selection
that is good already. Dynamic programming then searches what lies between the two, which is little: for most
networks the result is proved to be the best there is (Kellerer, Pferschy & Pisinger, Knapsack Problems, 2004,
ch. 11, https://doi.org/10.1007/978-3-540-24777-7).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, fsum, ldexp

import numpy as np
from numpy.typing import NDArray

from cnncompress.solvers.knapsack_front import Front, fill, relax, total_loss
from cnncompress.solvers.knapsack_search import improve
from cnncompress.solvers.splits import UnreachableBudgetError

_LIMITS = (500, 20_000)  # a quick search narrows the gap, which then shortens the thorough one


@dataclass(frozen=True, eq=False)
class Choices:
    """One layer's menu.

    Attributes:
        costs: of each entry in any unit, at least 0, shape (n,).
        losses: of each entry on any scale, at least 0, shape (n,).
    """

    costs: NDArray[np.float64]
    losses: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("costs", "losses"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or not len(values):
                raise ValueError(f"{name} must be a vector with at least one entry, got shape {values.shape}")
            if not (np.isfinite(values) & (values >= 0)).all():
                raise ValueError(f"{name} must be finite and at least 0, got {values.min():g} as the least")
            object.__setattr__(self, name, values)
        if len(self.costs) != len(self.losses):
            raise ValueError(f"got {len(self.costs)} costs but {len(self.losses)} losses")


@dataclass(frozen=True)
class Selection:
    """One entry of each menu.

    Attributes:
        entries: places in the menus.
        loss: of all together.
        cost: of all together.
        bound: no selection within the budget loses less (the Lagrangian dual's optimum).
        price: loss per unit of cost at which the bound holds; 0 if the budget doesn't bind.
        proved: the search showed that no selection within the budget loses less, whatever the bound says.
    """

    entries: tuple[int, ...]
    loss: float
    cost: float
    bound: float
    price: float
    proved: bool = False

    @property
    def gap(self) -> float:
        """Share of the loss that a better selection could avoid at most."""
        return (self.loss - self.bound) / self.loss if self.loss > 0 else 0.0


def choose(menus: Sequence[Choices], *, budget: float, start: Sequence[int] | None = None) -> Selection:
    """Lose the least within a budget.

    Whole numbers up to 2**53 are added exactly, and fractions with one rounding of their sum, so the budget
    holds to the last digit. The same menus give the same selection every time.

    Args:
        menus: one for each layer.
        budget: what the layers may cost together, in the unit of the costs.
        start: a selection within the budget that is known beforehand; the result loses no more.

    Returns:
        The selection, with a bound on how good any could be.

    Raises:
        UnreachableBudgetError: if even the cheapest entries cost more.
        ValueError: if the budget is NaN, or ``start`` isn't a selection within it.

    Example:
        >>> steep = Choices(np.array([100.0, 20.0]), np.array([0.0, 0.1]))
        >>> flat = Choices(np.array([100.0, 20.0]), np.array([0.0, 0.8]))
        >>> choose([steep, flat], budget=150).entries
        (1, 0)
    """
    if np.isnan(budget):
        raise ValueError("the budget must be a number, got NaN")
    least = fsum(float(menu.costs.min()) for menu in menus)
    if least > budget:
        raise UnreachableBudgetError(budget, least)
    # powers of two change no digit, and keep slopes far from overflow whatever the units are
    cost_scale = frexp(max((float(menu.costs.max()) for menu in menus), default=0.0))[1]
    loss_scale = frexp(max((float(menu.losses.max()) for menu in menus), default=0.0))[1]
    costs = [np.ldexp(menu.costs, -cost_scale) for menu in menus]
    losses = [np.ldexp(menu.losses, -loss_scale) for menu in menus]
    fronts = [Front.of(*menu) for menu in zip(costs, losses, strict=True)]
    limit = ldexp(budget, -cost_scale)
    relaxed = relax(fronts, limit)
    known = fill(fronts, relaxed.filled, limit)
    if start is not None:
        _check(menus, start, budget)
        # what is dominated gives way to what beats it
        places = [
            front.no_dearer(of_layer[entry])
            for front, of_layer, entry in zip(fronts, costs, start, strict=True)
        ]
        begun = fill(fronts, places, limit)
        known = min(known, begun, key=lambda selected: total_loss(fronts, selected))
    proved = relaxed.price == 0
    for states in _LIMITS:
        if proved:
            break
        outcome = improve(fronts, relaxed, known, budget=limit, limit=states)
        proved, known = outcome.proved, fill(fronts, outcome.places, limit)
    entries = tuple(int(front.entries[place]) for front, place in zip(fronts, known, strict=True))
    loss = _sum([menu.losses for menu in menus], entries)
    return Selection(
        entries=entries,
        loss=loss,
        cost=_sum([menu.costs for menu in menus], entries),
        bound=min(ldexp(relaxed.bound, loss_scale), loss),
        price=ldexp(relaxed.price, loss_scale - cost_scale),
        proved=proved,
    )


def _check(menus: Sequence[Choices], start: Sequence[int], budget: float) -> None:
    if len(start) != len(menus):
        raise ValueError(f"start names {len(start)} entries for {len(menus)} menus")
    for layer, (menu, entry) in enumerate(zip(menus, start, strict=True)):
        if not 0 <= entry < len(menu.costs):
            raise ValueError(f"start: menu {layer} has {len(menu.costs)} entries, none at {entry}")
    cost = _sum([menu.costs for menu in menus], start)
    if cost > budget:
        raise ValueError(f"start costs {cost:.9g}, the budget is {budget:.9g}")


def _sum(values: Sequence[NDArray[np.float64]], entries: Sequence[int]) -> float:
    return fsum(float(of_layer[entry]) for of_layer, entry in zip(values, entries, strict=True))
