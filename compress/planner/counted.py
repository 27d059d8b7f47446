"""A plan within multiply-accumulates or parameters."""

from collections.abc import Sequence

from torch import nn

from cnncompress.errors import BudgetError, SlowerError
from cnncompress.events import Note, Reporter
from cnncompress.layer_timing import LayerTime, is_slower
from cnncompress.options import Options
from cnncompress.plan import LayerPlan
from cnncompress.planner.menus import Entry, LayerMenu
from cnncompress.planner.planned import Planned
from cnncompress.planner.selection import Budget, spend
from cnncompress.planning import Outline
from cnncompress.worthwhile import reason_of, time_plans


def plan_counted(
    found: Outline,
    menus: Sequence[LayerMenu],
    original: nn.Module,
    options: Options,
    report: Reporter,
    *,
    pinned: str | None = None,
) -> Planned:
    """The least loss within multiply-accumulates or parameters; what turns out slower is given up.

    Args:
        found: the outline.
        menus: of the layers that may be replaced.
        original: the network.
        options: of the run.
        report: hears of each replacement that is given up.
        pinned: submodule whose output keeps its channel order.

    Returns:
        The plan.

    Raises:
        BudgetError: the speedup can't be reached.
        SlowerError: it can't without replacements that are slower than their layers.
    """
    budget = budget_of(found, options)
    given_up: list[str] = []
    known: dict[tuple[str, str, tuple[int, ...]], LayerTime] = {}
    while True:
        try:
            chosen = spend(menus, budget)
        except BudgetError as problem:
            if not given_up:
                raise
            raise SlowerError(
                f"{given_up[0]}; without it {problem}; --allow-slower replaces slower ones too"
            ) from problem
        plans = chosen.plans(found.layers, found.reasons)
        if not options.measure:
            return Planned(plans=plans, chosen=chosen)
        replaced = {(plan.name, plan.method, plan.ranks): plan for plan in plans if plan.method != "none"}
        new = [plan for key, plan in replaced.items() if key not in known]
        timed = time_plans(found.layers, new, original, report, pinned=pinned)
        known |= {(plan.name, plan.method, plan.ranks): timed[plan.name] for plan in new}
        times = {name: known[name, method, ranks] for name, method, ranks in replaced}
        slower = {name: time for name, time in times.items() if is_slower(time.speedup)}
        if not slower or options.allow_slower:
            return Planned(plans=plans, chosen=chosen, times=times)
        menus = [
            _without_slower(menu, plans, slower.get(menu.layer.name), report, given_up) for menu in menus
        ]


def budget_of(found: Outline, options: Options) -> Budget:
    """What may be spent, in multiply-accumulates or parameters.

    Args:
        found: the outline.
        options: of the run.

    Returns:
        The budget.
    """
    counted = found.counted(include_linear=options.include_linear)
    whole = {layer.name: Entry.staying(layer) for layer in counted}
    stays = [entry for name, entry in whole.items() if name not in found.menus]
    cost = _parameters if options.budget == "params" else _macs
    return Budget(
        unit="parameters" if options.budget == "params" else "MACs",
        total=sum(map(cost, whole.values())),
        fixed=sum(map(cost, stays)),
        speedup=options.speedup,
        cost=lambda _, entry: cost(entry),
    )


def _macs(entry: Entry) -> int:
    return entry.macs


def _parameters(entry: Entry) -> int:
    return entry.params


def _without_slower(
    menu: LayerMenu,
    plans: Sequence[LayerPlan],
    slower: LayerTime | None,
    report: Reporter,
    given_up: list[str],
) -> LayerMenu:
    """The menu without what was measured slower, and without what costs more of the same kind."""
    if slower is None:
        return menu
    name = menu.layer.name
    plan = next(plan for plan in plans if plan.name == name)
    reason = f"{name}: {reason_of(plans, name, slower)}"
    if menu.settled:
        raise SlowerError(f"{reason}; choose other options, or pass --allow-slower")
    report(Note(f"not for {reason}"))
    given_up.append(reason)
    cost = next(e.macs for e in menu.entries if e.label == plan.method and e.ranks == plan.ranks)
    return menu.without(lambda entry: entry.label == plan.method and entry.macs >= cost)
