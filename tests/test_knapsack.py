"""Multiple-choice knapsack: against brute force, whatever the units, and its guarantees on larger menus."""

from collections.abc import Sequence
from itertools import pairwise, product
from math import fsum

import numpy as np
import pytest

from cnncompress.solvers.knapsack import Choices, Selection, choose
from cnncompress.solvers.splits import UnreachableBudgetError


def optimum(menus: Sequence[Choices], budget: float) -> float:
    return min(
        loss_of(menus, entries)
        for entries in product(*(range(len(menu.costs)) for menu in menus))
        if cost_of(menus, entries) <= budget
    )


def cost_of(menus: Sequence[Choices], entries: Sequence[int]) -> float:
    return fsum(float(menu.costs[entry]) for menu, entry in zip(menus, entries, strict=True))


def loss_of(menus: Sequence[Choices], entries: Sequence[int]) -> float:
    return fsum(float(menu.losses[entry]) for menu, entry in zip(menus, entries, strict=True))


def least_cost(menus: Sequence[Choices]) -> float:
    return fsum(float(menu.costs.min()) for menu in menus)


def budgets(menus: Sequence[Choices], shares: Sequence[float]) -> list[float]:
    least, most = least_cost(menus), fsum(float(menu.costs.max()) for menu in menus)
    return [max(least + share * (most - least), least) for share in shares]


def random_menu(rng: np.random.Generator, size: int) -> Choices:
    """Costs that often coincide, dominated entries, and losses of 0 among them."""
    costs = rng.integers(0, 12, size).astype(np.float64)
    losses = np.maximum(rng.uniform(-0.2, 1.0, size), 0.0)
    return Choices(costs, losses)


def falling_menu(rng: np.random.Generator, size: int, *, most: int = 10**9) -> Choices:
    """A layer as networks have them: the more it costs the less it loses, down to 0 for the layer itself."""
    costs = np.sort(rng.integers(most // 50, most, size)).astype(np.float64)
    steps = rng.exponential(1.0, size) * np.exp(-np.linspace(0.0, rng.uniform(2.0, 8.0), size))
    losses = np.append(np.cumsum(steps[::-1])[::-1][1:], 0.0)
    return Choices(costs, losses * rng.uniform(0.1, 3.0))


def check(found: Selection, menus: Sequence[Choices], budget: float) -> None:
    assert found.cost == cost_of(menus, found.entries) <= budget
    assert found.loss == loss_of(menus, found.entries)
    assert 0 <= found.bound <= found.loss
    assert 0 <= found.gap <= 1


@pytest.mark.parametrize("cost_unit", [1.0, 1e12, 0.0137, 1e-30])
@pytest.mark.parametrize("loss_unit", [1.0, 1e-25, 3e20])
def test_small_cases_reach_the_optimum_whatever_the_units(cost_unit: float, loss_unit: float) -> None:
    rng = np.random.default_rng(1)
    proved = 0
    for _ in range(12):
        sizes = rng.integers(1, 7, int(rng.integers(1, 5)))
        plain = [random_menu(rng, int(size)) for size in sizes]
        menus = [Choices(menu.costs * cost_unit, menu.losses * loss_unit) for menu in plain]
        for budget in budgets(menus, rng.uniform(0.0, 1.1, 3).tolist()):
            found, best = choose(menus, budget=budget), optimum(menus, budget)
            check(found, menus, budget)
            assert found.bound <= best * (1 + 1e-9)
            assert found.loss - best <= (found.loss - found.bound) * (1 + 1e-9)
            proved += found.proved
            assert found.loss == pytest.approx(best, rel=1e-9, abs=0)
    assert proved == 36  # so few choices never exceed what the search can hold


def test_the_bound_is_the_dual_function_at_the_price() -> None:
    rng = np.random.default_rng(2)
    menus = [falling_menu(rng, 30) for _ in range(6)]
    for budget in budgets(menus, [0.05, 0.3, 0.7]):
        found = choose(menus, budget=budget)
        assert found.price > 0

        def dual(price: float, budget: float = budget) -> float:
            return sum(float((menu.losses + price * menu.costs).min()) for menu in menus) - price * budget

        assert found.bound == pytest.approx(dual(found.price), rel=1e-9)
        assert all(dual(found.price * factor) <= found.bound * (1 + 1e-9) for factor in (0.5, 0.99, 1.01, 2))


def test_a_budget_for_everything_costs_nothing() -> None:
    rng = np.random.default_rng(3)
    menus = [falling_menu(rng, 20) for _ in range(5)]
    found = choose(menus, budget=cost_of(menus, [19] * 5))
    assert found.entries == (19,) * 5
    assert (found.loss, found.bound, found.price, found.gap) == (0, 0, 0, 0)
    assert choose(menus, budget=float("inf")) == found


def test_of_equal_losses_the_cheapest_is_taken_and_of_equal_entries_the_first() -> None:
    menu = Choices(np.array([9.0, 4.0, 4.0, 7.0]), np.array([0.5, 0.5, 0.5, 0.5]))
    assert choose([menu, menu], budget=100).entries == (1, 1)


def test_the_same_menus_give_the_same_selection() -> None:
    rng = np.random.default_rng(4)
    menus = [falling_menu(rng, 12)] * 8
    budget = budgets(menus, [0.37])[0]
    assert choose(menus, budget=budget) == choose(menus, budget=budget)


def test_loss_and_bound_never_rise_with_the_budget() -> None:
    rng = np.random.default_rng(5)
    menus = [falling_menu(rng, 60) for _ in range(7)]
    found = [choose(menus, budget=budget) for budget in budgets(menus, np.linspace(0, 1, 25).tolist())]
    for tighter, looser in pairwise(found):
        assert looser.loss <= tighter.loss
        assert looser.bound <= tighter.bound


def test_the_budget_holds_to_the_last_mac() -> None:
    rng = np.random.default_rng(6)
    menus = [falling_menu(rng, 40, most=10**12) for _ in range(9)]
    for share in (0.1, 0.4, 0.8):
        first = choose(menus, budget=int(budgets(menus, [share])[0]))
        # just enough for the same selection, then one MAC too little for it
        assert choose(menus, budget=first.cost).loss == first.loss
        below = choose(menus, budget=first.cost - 1)
        assert below.cost <= first.cost - 1
        assert below.loss >= first.loss


def test_many_layers_are_solved_to_the_end() -> None:
    rng = np.random.default_rng(7)
    menus = [falling_menu(rng, 40) for _ in range(40)]
    for budget in budgets(menus, [0.1, 0.5]):
        found = choose(menus, budget=budget)
        check(found, menus, budget)
        assert found.proved
        # the relaxed optimum mixes entries of one layer only
        assert found.loss - found.bound <= max(float(menu.losses.max()) for menu in menus)


def test_what_cannot_be_proved_still_keeps_its_promises() -> None:
    # losses linear in costs up to noise: every partial selection is as good as any other
    rng = np.random.default_rng(8)
    costs = [rng.integers(1, 10**9, 12).astype(np.float64) for _ in range(25)]
    menus = [Choices(cost, (1e9 - cost) * rng.uniform(0.999999, 1.000001, 12)) for cost in costs]
    budget = budgets(menus, [0.5])[0]
    found = choose(menus, budget=budget)
    check(found, menus, budget)
    assert found.gap < 1e-5


def test_never_worse_than_the_start() -> None:
    rng = np.random.default_rng(9)
    menus = [random_menu(rng, 5) for _ in range(4)]
    budget = budgets(menus, [0.5])[0]
    for start in product(range(5), repeat=4):
        if cost_of(menus, start) <= budget:
            assert choose(menus, budget=budget, start=start).loss <= loss_of(menus, start)


@pytest.mark.parametrize(
    ("start", "problem"),
    [([0], "1 entries for 2"), ([0, 2], "menu 1 has 2 entries"), ([0, 0], "start costs 200")],
)
def test_a_start_that_is_no_selection_is_refused(start: list[int], problem: str) -> None:
    menu = Choices(np.array([100.0, 20.0]), np.array([0.0, 0.1]))
    with pytest.raises(ValueError, match=problem):
        choose([menu, menu], budget=150, start=start)


def test_a_budget_below_the_cheapest_entries_names_the_least() -> None:
    menus = [Choices(np.array([0.3, 0.1]), np.array([0.0, 1.0])), Choices(np.array([0.2]), np.array([0.0]))]
    least = least_cost(menus)
    assert choose(menus, budget=least).entries == (1, 0)
    with pytest.raises(UnreachableBudgetError, match=r"budget of 0\.25; .* cost is 0\.3") as caught:
        choose(menus, budget=0.25)
    assert caught.value.least == least
    with pytest.raises(UnreachableBudgetError, match=r"budget of 123456789012; .* 200000000000$"):
        choose([Choices(np.array([2e11]), np.zeros(1))], budget=123456789012)


def test_no_layers() -> None:
    assert choose([], budget=0) == Selection((), loss=0, cost=0, bound=0, price=0, proved=True)
    with pytest.raises(UnreachableBudgetError):
        choose([], budget=-1)


@pytest.mark.parametrize(
    ("costs", "losses"),
    [([], []), ([1.0], [1.0, 2.0]), ([-1.0], [0.0]), ([1.0], [float("nan")]), ([float("inf")], [0.0])],
)
def test_menus_that_are_none_are_refused(costs: list[float], losses: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must be|got"):
        Choices(np.array(costs), np.array(losses))


def test_a_budget_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        choose([Choices(np.ones(1), np.ones(1))], budget=float("nan"))
