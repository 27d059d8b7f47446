"""One entry of each menu: within the budget, and nearly as good as trying them all."""

from itertools import product

import numpy as np
import pytest

from cnncompress.solvers.menu_allocation import Menu, choose_entries, uniform_entries
from cnncompress.solvers.splits import UnreachableBudgetError


def menus(rng, layers=4, entries=6):
    found = []
    for _ in range(layers):
        costs = np.append(1000, rng.integers(50, 900, entries))
        kept = np.append(1.0, np.sort(rng.uniform(0.2, 1.0, entries))[np.argsort(np.argsort(costs[1:]))])
        found.append(Menu(costs, kept))
    return found


def total(layers, entries):
    return sum(int(menu.costs[entry]) for menu, entry in zip(layers, entries, strict=True))


def value(layers, entries):
    return sum(float(menu.log_kept[entry]) for menu, entry in zip(layers, entries, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_within_the_budget_and_close_to_the_best(seed):
    layers = menus(np.random.default_rng(seed))
    budget = 1800
    chosen = choose_entries(layers, budget=budget)
    assert total(layers, chosen) <= budget
    every = [e for e in product(*(range(len(menu.costs)) for menu in layers)) if total(layers, e) <= budget]
    best = max(value(layers, entries) for entries in every)
    assert value(layers, chosen) >= best - 0.05
    assert value(layers, chosen) >= value(layers, uniform_entries(layers, budget=budget))


def test_nothing_changes_where_everything_is_affordable(rng):
    layers = menus(rng)
    assert choose_entries(layers, budget=4000) == [0, 0, 0, 0]
    assert uniform_entries(layers, budget=4000) == [0, 0, 0, 0]


@pytest.mark.parametrize("choose", [choose_entries, uniform_entries])
def test_an_unreachable_budget_says_the_least(choose, rng):
    layers = menus(rng)
    least = sum(int(menu.costs.min()) for menu in layers)
    assert total(layers, choose(layers, budget=least)) == least
    with pytest.raises(UnreachableBudgetError, match=str(least)):
        choose(layers, budget=least - 1)


def test_uniform_shares_fit_the_budget(rng):
    layers = menus(rng)
    chosen = uniform_entries(layers, budget=2000)
    assert total(layers, chosen) <= 2000
    assert max(int(menu.costs[entry]) for menu, entry in zip(layers, chosen, strict=True)) < 1000


def test_an_entry_that_keeps_nothing_is_the_last_resort():
    hopeless = Menu(np.array([100, 10]), np.array([1.0, 0.0]))
    fair = Menu(np.array([100, 10]), np.array([1.0, 0.5]))
    assert choose_entries([hopeless, fair], budget=110) == [0, 1]
