"""One entry from each layer's menu, so that all together keep the most energy within a budget.

A menu lists whatever a layer can become, the layer as it is among them. At a given price of a
multiply-accumulate every layer takes the entry with the largest log energy less its cost times the price; the
price is raised until the budget holds (Everett, 1963, https://doi.org/10.1287/opre.11.3.399). What is left is
spent, and layers trade.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnncompress.solvers.slack import Moves, spend_slack, trade
from cnncompress.solvers.splits import UnreachableBudgetError

_LOWEST_PRICE, _HIGHEST_PRICE = 1e-40, 1e3  # of one MAC in log energy: below and above any gain
_HALVINGS = 48  # narrow the price to 4e-13 of itself
_LEAST_SHARE = 1e-12  # of energy: the logarithm of nothing kept must stay finite


@dataclass(frozen=True, eq=False)
class Menu:
    """What one layer can become.

    Attributes:
        costs: multiply-accumulates (MACs) of each entry, shape (n,).
        kept: share of energy that each entry keeps, between 0 and 1, shape (n,).
    """

    costs: NDArray[np.int64]
    kept: NDArray[np.float64]

    @property
    def log_kept(self) -> NDArray[np.float64]:
        """Logarithm of the kept energy."""
        return np.log(np.clip(self.kept, _LEAST_SHARE, 1.0))

    def moves(self, entry: int) -> Moves[int]:
        """All changes from one entry.

        Args:
            entry: the present one.

        Returns:
            The moves.
        """
        gains = self.log_kept
        return Moves(self.costs - self.costs[entry], gains - gains[entry], range(len(self.costs)))


def choose_entries(menus: Sequence[Menu], *, budget: int) -> list[int]:
    """Keep the largest product of energies within a budget.

    Args:
        menus: one for each layer.
        budget: MACs that the layers may cost together.

    Returns:
        The entry of each layer.

    Raises:
        UnreachableBudgetError: if even the cheapest entries cost more.

    Example:
        >>> steep = Menu(np.array([100, 20]), np.array([1.0, 0.9]))
        >>> flat = Menu(np.array([100, 20]), np.array([1.0, 0.2]))
        >>> choose_entries([steep, flat], budget=150)
        [1, 0]
    """
    least = sum(int(menu.costs.min()) for menu in menus)
    if least > budget:
        raise UnreachableBudgetError(budget, least)
    entries = _at_common_price(menus, budget)
    for improve in (spend_slack, trade, spend_slack):
        entries = improve(entries, budget - _total(menus, entries), lambda i, entry: menus[i].moves(entry))
    return entries


def uniform_entries(menus: Sequence[Menu], *, budget: int) -> list[int]:
    """Give every layer the same share of the cost of its dearest entry, as great as the budget allows.

    Args:
        menus: one for each layer.
        budget: MACs that the layers may cost together.

    Returns:
        For each layer the entry that keeps most within its share, or the cheapest if none fits.

    Raises:
        UnreachableBudgetError: if even the cheapest entries cost more.
    """
    least = sum(int(menu.costs.min()) for menu in menus)
    if least > budget:
        raise UnreachableBudgetError(budget, least)
    if _total(menus, dearest := [_within(menu, np.inf) for menu in menus]) <= budget:
        return dearest
    low, high = 0.0, 1.0
    fits = [int(np.argmin(menu.costs)) for menu in menus]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        entries = [_within(menu, middle * int(menu.costs.max())) for menu in menus]
        if _total(menus, entries) <= budget:
            low, fits = middle, entries
        else:
            high = middle
    return fits


def _within(menu: Menu, limit: float) -> int:
    fitting = np.flatnonzero(menu.costs <= limit)
    if not len(fitting):
        return int(np.argmin(menu.costs))
    return int(fitting[np.argmax(menu.kept[fitting])])


def _at_common_price(menus: Sequence[Menu], budget: int) -> list[int]:
    def bought(price: float) -> list[int]:
        return [int(np.argmax(menu.log_kept - price * menu.costs)) for menu in menus]

    low, high = _LOWEST_PRICE, _HIGHEST_PRICE
    if _total(menus, entries := bought(low)) <= budget:
        return entries
    fits = [int(np.argmin(menu.costs)) for menu in menus]
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        entries = bought(middle)
        if _total(menus, entries) <= budget:
            high, fits = middle, entries
        else:
            low = middle
    return fits


def _total(menus: Sequence[Menu], entries: Sequence[int]) -> int:
    return sum(int(menu.costs[entry]) for menu, entry in zip(menus, entries, strict=True))
