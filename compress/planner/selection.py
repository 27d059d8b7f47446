"""Spends a budget on the menus, and says why each layer got what it got."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnncompress.decompositions import options_of
from cnncompress.errors import BudgetError
from cnncompress.inspect import LayerInfo
from cnncompress.plan import LayerPlan
from cnncompress.planner.menus import Entry, LayerMenu
from cnncompress.solvers.knapsack import Selection, choose
from cnncompress.solvers.splits import UnreachableBudgetError

Cost = Callable[[LayerInfo, Entry], float]

_ALTERNATIVES = 4  # that the report lists of each layer


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent.

    Attributes:
        unit: ``"MACs"``, ``"parameters"`` or ``"ms"``.
        total: cost of the original network.
        fixed: cost of what no menu covers.
        speedup: total cost over that of the compressed network, as it is aimed at.
        cost: of an entry of a layer's menu, in the unit.
    """

    unit: str
    total: float
    fixed: float
    speedup: float
    cost: Cost

    @property
    def left(self) -> float:
        """What the menus may cost together."""
        # whole numbers: a budget must hold to the last MAC
        share = self.total / self.speedup
        return (share if self.unit == "ms" else int(share)) - self.fixed


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A way to spend a budget.

    Attributes:
        menus: that were chosen from.
        selection: the entry of each, with the loss and its bound.
        budget: that was given.
    """

    menus: tuple[LayerMenu, ...]
    selection: Selection
    budget: Budget

    @property
    def entries(self) -> list[Entry]:
        """What each layer becomes."""
        return [menu.entries[place] for menu, place in zip(self.menus, self.selection.entries, strict=True)]

    def plans(self, layers: Sequence[LayerInfo], reasons: Mapping[str, str]) -> list[LayerPlan]:
        """A plan for every layer of the network.

        Args:
            layers: of the network, in the order of execution.
            reasons: why each layer without a menu stays.

        Returns:
            In the order of the layers.
        """
        chosen = {
            menu.layer.name: (menu, entry) for menu, entry in zip(self.menus, self.entries, strict=True)
        }
        return [
            _plan(layer, *chosen[layer.name])
            if layer.name in chosen
            else LayerPlan(name=layer.name, method="none", reason=reasons[layer.name])
            for layer in layers
        ]

    def lines(self) -> list[dict[str, Any]]:
        """Why each layer got its entry, for the report.

        Returns:
            JSON-able, in the order of the menus.
        """
        return [self._line(menu, entry) for menu, entry in zip(self.menus, self.entries, strict=True)]

    def _line(self, menu: LayerMenu, chosen: Entry) -> dict[str, Any]:
        cost, price = self.budget.cost, self.selection.price
        timed = self.budget.unit == "ms"

        def described(entry: Entry) -> dict[str, Any]:
            return {
                "method": entry.label,
                "ranks": list(entry.ranks),
                "loss": entry.loss,
                "macs": entry.macs,
                "params": entry.params,
                "ms": cost(menu.layer, entry) if timed else None,
            }

        def value(entry: Entry) -> float:
            return entry.loss + price * cost(menu.layer, entry)

        # the best of every other method, then what else is close
        others = sorted((entry for entry in menu.entries if entry is not chosen), key=value)
        first = {entry.label: entry for entry in reversed(others)}
        ordered = sorted(first.values(), key=value)
        ordered += [entry for entry in others if all(entry is not other for other in ordered)]
        whole = Entry.staying(menu.layer)
        return described(chosen) | {
            "name": menu.layer.name,
            "macs_before": menu.layer.macs,
            "ms_before": cost(menu.layer, whole) if timed else None,
            "weight": menu.weight,
            "settled": menu.settled,
            "probe": None
            if menu.probe is None
            else {
                "method": menu.probe.method,
                "ranks": list(menu.probe.ranks),
                "predicted": menu.probe.predicted,
                "real": menu.probe.real,
            },
            "considered": len(menu.entries),
            "alternatives": [
                described(entry) | {"excess": value(entry) - value(chosen)}
                for entry in ordered[:_ALTERNATIVES]
            ],
        }


def spend(menus: Sequence[LayerMenu], budget: Budget) -> Chosen:
    """Choose from every menu, with the least loss within the budget.

    Args:
        menus: of the layers.
        budget: to be spent.

    Returns:
        The choice.

    Raises:
        BudgetError: the speedup can't be reached; it says which can and what is in the way.
    """
    choices = [menu.choices(budget.cost) for menu in menus]
    if all(menu.settled for menu in menus):
        # the user has settled everything: the cost is what it is
        spent = float(sum(one.costs[0] for one in choices))
        budget = replace(budget, speedup=budget.total / (budget.fixed + spent))
        selection = choose(choices, budget=spent)
        return Chosen(menus=tuple(menus), selection=selection, budget=budget)
    try:
        selection = choose(choices, budget=budget.left)
    except UnreachableBudgetError as problem:
        raise BudgetError(_unreachable(menus, budget, float(problem.least))) from problem
    return Chosen(menus=tuple(menus), selection=selection, budget=budget)


def _unreachable(menus: Sequence[LayerMenu], budget: Budget, least: float) -> str:
    cheapest = {menu.layer.name: float(menu.choices(budget.cost).costs.min()) for menu in menus}
    holders = [("what isn't replaced", budget.fixed), *cheapest.items()]
    holders.sort(key=lambda holder: -holder[1])
    share = 100 / budget.total
    held = ", ".join(f"{name} {cost * share:.1f} %" for name, cost in holders[:3] if cost > 0)
    what = {"ms": "measured time", "MACs": "multiply-accumulates"}.get(budget.unit, budget.unit)
    return (
        f"a speedup of {budget.speedup:.3g}x can't be reached: the cheapest replacements give "
        f"{budget.total / (budget.fixed + least):.2f}x (of the {what} these hold most then: {held}); "
        "ask for less, or allow more layers or methods"
    )


def _plan(layer: LayerInfo, menu: LayerMenu, entry: Entry) -> LayerPlan:
    if entry.method is None:
        return LayerPlan(
            name=layer.name, method="none", reason="no replacement is worth more than the layer itself"
        )
    return LayerPlan(
        name=layer.name,
        method=entry.method.name,
        ranks=entry.ranks,
        options=options_of(entry.method),
        reason="ranks as asked" if menu.settled else "",
    )
