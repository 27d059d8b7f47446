"""What a budget of time does with what the whole network measures, round by round."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from cnncompress.decompositions import make
from cnncompress.errors import BudgetError
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.options import Options
from cnncompress.planner import timed
from cnncompress.planner.menus import Entry, LayerMenu
from cnncompress.planner.planned import Planned
from cnncompress.planner.timed import ROUNDS, plan_latency
from cnncompress.planning import Outline

RANKS = range(1, 9)


class Table:
    """Times that are multiply-accumulates."""

    def layer_ms(self, layer: LayerInfo) -> float:
        return float(layer.macs)

    def chain_ms(self, layer: LayerInfo, steps: Any) -> float:
        (rank,) = {step.outputs for step in steps[:1]}
        return float(make("gsvd").macs(layer, (rank,)))


@pytest.fixture
def layer() -> LayerInfo:
    return inspect_layers(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)), (16, 8, 8))[0]


def planned(
    monkeypatch: pytest.MonkeyPatch, layer: LayerInfo, asked: float, reached: Sequence[float]
) -> Planned:
    """A plan for a network of one layer whose rounds measure the given shares of the asked speedup."""
    shares = iter(reached)
    whole = SimpleNamespace(ms_before=float(layer.macs), speedup=1.0)
    monkeypatch.setattr(timed, "latency_table", lambda *_, **__: Table())
    monkeypatch.setattr(timed, "untrained", lambda *_, **__: None)
    monkeypatch.setattr(timed, "time_plans", lambda *_, **__: {})
    monkeypatch.setattr(
        timed,
        "latency",
        lambda _, changed, *__, **___: (
            whole if changed is not None else SimpleNamespace(speedup=asked * next(shares))
        ),
    )
    gsvd = make("gsvd")
    entries = (Entry.staying(layer), *(Entry.of(layer, gsvd, (rank,), 1 / rank) for rank in RANKS))
    options = Options(budget="latency", speedup=asked)
    network = nn.Sequential(nn.Conv2d(16, 16, 3))
    found = Outline((layer,), {layer.name: (gsvd,)}, {})
    return plan_latency(found, [LayerMenu(layer, entries)], network, (16, 8, 8), options, lambda _: None)


def rank_of(plan: Planned) -> int:
    ((rank,),) = [one.ranks for one in plan.plans]
    return rank


def test_a_plan_that_comes_true_is_measured_once(monkeypatch: pytest.MonkeyPatch, layer: LayerInfo) -> None:
    assert len(planned(monkeypatch, layer, 4.0, [1.0]).rounds) == 1


def test_a_plan_that_falls_short_is_made_again_cheaper(
    monkeypatch: pytest.MonkeyPatch, layer: LayerInfo
) -> None:
    first = planned(monkeypatch, layer, 4.0, [1.0])
    again = planned(monkeypatch, layer, 4.0, [0.7, 1.0])
    assert len(again.rounds) == 2
    assert rank_of(again) < rank_of(first)


def test_a_plan_that_is_too_fast_is_made_again_dearer(
    monkeypatch: pytest.MonkeyPatch, layer: LayerInfo
) -> None:
    first = planned(monkeypatch, layer, 4.0, [1.0])
    again = planned(monkeypatch, layer, 4.0, [1.6, 1.0])
    assert rank_of(again) > rank_of(first)


def test_the_nearest_plan_is_kept_when_the_rounds_are_over(
    monkeypatch: pytest.MonkeyPatch, layer: LayerInfo
) -> None:
    plan = planned(monkeypatch, layer, 4.0, [0.8, 0.95, 0.9, 1.0])
    measured = [one["measured_speedup"] / 4 for one in plan.rounds]
    assert measured == pytest.approx([0.8, 0.95, 0.9])
    assert len(plan.rounds) == ROUNDS
    assert plan.chosen.selection.cost + plan.chosen.budget.fixed == plan.rounds[1]["predicted_ms"]


def test_what_is_near_will_do_where_nothing_nearer_can_be_reached(
    monkeypatch: pytest.MonkeyPatch, layer: LayerInfo
) -> None:
    most = layer.macs / make("gsvd").macs(layer, (1,))
    plan = planned(monkeypatch, layer, most, [0.975, 1.0])
    assert rank_of(plan) == 1
    assert len(plan.rounds) == 1
    with pytest.raises(BudgetError, match="can't be reached"):
        planned(monkeypatch, layer, most, [0.9, 1.0])
