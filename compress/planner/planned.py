"""A plan, and how it came about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnncompress.latency import Setting
from cnncompress.layer_timing import LayerTime
from cnncompress.plan import LayerPlan
from cnncompress.planner.selection import Chosen


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan and how it came about.

    Attributes:
        plans: of every layer.
        chosen: what was spent on which layer.
        times: of the replacements that were timed alone, by the layer's name.
        rounds: what each round aimed at and measured, JSON-able.
        setting: of the latency table; None for a budget in multiply-accumulates.
    """

    plans: list[LayerPlan]
    chosen: Chosen
    times: Mapping[str, LayerTime] = field(default_factory=dict)
    rounds: Sequence[Mapping[str, Any]] = ()
    setting: Setting | None = None

    def to_json(self, asked: float) -> dict[str, Any]:
        """What the report holds of the planner.

        Args:
            asked: the speedup that the user wanted.

        Returns:
            JSON-able values.
        """
        budget, selection = self.chosen.budget, self.chosen.selection
        lines = self.chosen.lines()
        for line in lines:
            timed = self.times.get(line["name"])
            line["measured_ms"] = timed.ms_after if timed is not None else None
        return {
            "rule": "knapsack",
            "unit": budget.unit,
            "setting": None
            if self.setting is None
            else {
                "runtime": self.setting.runtime,
                "threads": self.setting.threads,
                "batch": self.setting.batch,
                "device": self.setting.device,
            },
            "asked": asked,
            "budget": budget.fixed + budget.left,
            "spent": budget.fixed + selection.cost,
            "fixed": budget.fixed,
            "total": budget.total,
            "loss": selection.loss,
            "bound": selection.bound,
            "gap": selection.gap,
            "proved": selection.proved,
            "price": selection.price,
            "rounds": [dict(one) for one in self.rounds],
            "layers": lines,
            "trials": [],
        }
