"""A plan within measured time, checked on the whole network and corrected."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from cnncompress.errors import BudgetError
from cnncompress.events import Note, Reporter
from cnncompress.inspect import LayerInfo
from cnncompress.latency import LatencyTable, Request, Setting, latency_table
from cnncompress.measure import Latency, latency
from cnncompress.memory_layout import layout_of
from cnncompress.options import Options
from cnncompress.planner.menus import Entry, LayerMenu
from cnncompress.planner.planned import Planned
from cnncompress.planner.selection import Budget, spend
from cnncompress.planning import Outline
from cnncompress.worthwhile import time_plans, untrained

ROUNDS = 3
"""How often the whole network is measured at most before the best plan so far is taken."""

SHORT, BEYOND = 0.985, 1.025
"""Measured over asked speedup: outside of these the table is rescaled and the plan made again."""

NEAR = 0.97
"""Measured over asked speedup that will do where a plan that comes nearer can't be made."""

STRIDE = (0.7, 1.4)
"""Of the table's correction in a round: one measurement on a busy machine mustn't throw the plan far off."""

_MOST_ELSEWHERE = 0.95  # a network that is nearly all elsewhere can't be planned by its layers

_PAIRS = 15  # of timed runs of the whole network in a round


def plan_latency(
    found: Outline,
    menus: Sequence[LayerMenu],
    original: nn.Module,
    input_size: tuple[int, int, int],
    options: Options,
    report: Reporter,
    *,
    pinned: str | None = None,
) -> Planned:
    """The least loss within a measured time, checked on the whole network and corrected.

    Speed depends on the shapes of the factors alone, so that no layer needs to be solved for it.

    Args:
        found: the outline.
        menus: of the layers that may be replaced.
        original: the network.
        input_size: channels, height and width.
        options: of the run.
        report: receives the progress.
        pinned: submodule whose output keeps its channel order.

    Returns:
        The plan whose measured speedup is nearest to what was asked, where to fall short weighs most.

    Raises:
        BudgetError: the speedup can't be reached.
    """
    setting = setting_of(original, options)
    table = latency_table([_request(menu) for menu in menus], setting, report=report)
    menus = [_faster(menu, table, options) for menu in menus]
    share = _share_elsewhere(menus, setting, original, input_size, options)
    total = sum(table.layer_ms(menu.layer) for menu in menus) / (1 - share)
    fixed = share * total
    correction = 1.0
    rounds: list[dict[str, Any]] = []
    best: tuple[float, Planned] | None = None
    for _ in range(ROUNDS):
        cost = _Corrected(table, correction)
        budget = Budget(unit="ms", total=total, fixed=fixed, speedup=options.speedup, cost=cost)
        try:
            chosen = spend(menus, budget)
        except BudgetError:
            if best is None or best[0] > _distance(NEAR):
                raise
            break
        plans = chosen.plans(found.layers, found.reasons)
        changed = untrained(found.layers, plans, original, pinned=pinned)
        measured = _measured(original, changed, input_size, options)
        predicted = fixed + chosen.selection.cost
        rounds.append(
            {
                "aimed": options.speedup,
                "predicted_ms": predicted,
                "measured_ms": total / measured.speedup,
                "measured_speedup": measured.speedup,
            }
        )
        reached = measured.speedup / options.speedup
        report(
            Note(f"planned {total / predicted:.2f}x, measured {measured.speedup:.2f}x ({setting.runtime})")
        )
        planned = Planned(plans=plans, chosen=chosen, rounds=rounds, setting=setting)
        if best is None or _distance(reached) < best[0]:
            best = (_distance(reached), planned)
        if SHORT <= reached <= BEYOND or all(menu.settled for menu in menus):
            break
        # what the replacements took in the network, over what the table says of them
        taken = total / measured.speedup - fixed
        correction *= float(np.clip(taken / max(chosen.selection.cost, 1e-9), *STRIDE))
    assert best is not None
    plan = best[1]
    times = {}
    # single replacements are timed with one thread and one image
    if (setting.runtime, setting.threads, setting.batch) == ("torch", 1, 1):
        times = time_plans(found.layers, plan.plans, original, report, pinned=pinned)
    return replace(plan, rounds=tuple(rounds), times=times)


def setting_of(original: nn.Module, options: Options) -> Setting:
    """The setting that a run's time is budgeted in.

    Args:
        original: the network.
        options: of the run.

    Returns:
        The setting.
    """
    reference = next(original.parameters())
    return Setting(
        runtime=options.runtime,
        threads=options.threads,
        batch=options.batch,
        device=str(reference.device),
        channels_last=layout_of(original) is torch.channels_last,
        dtype=str(reference.dtype).removeprefix("torch."),
    )


@dataclass(frozen=True)
class _Corrected:
    """Times of the table; those of replacements are scaled to what the whole network showed."""

    table: LatencyTable
    correction: float

    def __call__(self, layer: LayerInfo, entry: Entry) -> float:
        if entry.method is None:
            return self.table.layer_ms(layer)
        return self.correction * self.table.chain_ms(layer, entry.method.steps(layer, entry.ranks))


def _request(menu: LayerMenu) -> Request:
    layer = menu.layer
    chains = tuple(e.method.steps(layer, e.ranks) for e in menu.entries if e.method is not None)
    return Request(layer=layer, chains=chains)


def _faster(menu: LayerMenu, table: LatencyTable, options: Options) -> LayerMenu:
    if menu.settled or options.allow_slower:
        return menu
    whole, cost = table.layer_ms(menu.layer), _Corrected(table, 1.0)
    return menu.without(lambda entry: cost(menu.layer, entry) >= whole)


def _share_elsewhere(
    menus: Sequence[LayerMenu],
    setting: Setting,
    original: nn.Module,
    input_size: tuple[int, int, int],
    options: Options,
) -> float:
    """Share of the network's time that no menu covers, from times taken one after the other."""
    # the table may come from another day, when the machine was busier: it tells ratios alone
    with TemporaryDirectory() as folder:
        layers = [Request(layer=menu.layer) for menu in menus]
        fresh = latency_table(layers, setting, cache=Path(folder))
    total = _measured(original, original, input_size, options).ms_before
    known = sum(fresh.layer_ms(menu.layer) for menu in menus)
    return min(max(0.0, 1 - known / total), _MOST_ELSEWHERE)


def _measured(
    original: nn.Module, changed: nn.Module, input_size: tuple[int, int, int], options: Options
) -> Latency:
    return latency(
        original,
        changed,
        input_size,
        runtime=options.runtime,
        threads=options.threads,
        batch=options.batch,
        repeats=_PAIRS,
    )


def _distance(reached: float) -> float:
    """How far a speedup is from the one that was asked; to fall short weighs most."""
    return 10 * (SHORT - reached) if reached < SHORT else max(0.0, reached - 1)
