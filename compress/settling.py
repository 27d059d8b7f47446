"""What is to be done with every layer of a network: one calibration serves any number of speedups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cnncompress.calibration import Calibration
from cnncompress.distributed import World
from cnncompress.events import Reporter
from cnncompress.image_source import ImageSource
from cnncompress.layer_timing import LayerTime
from cnncompress.network import Network
from cnncompress.options import KNAPSACK, Options
from cnncompress.plan import LayerPlan
from cnncompress.planner.counted import plan_counted
from cnncompress.planner.judge import Judge
from cnncompress.planner.menus import LayerMenu
from cnncompress.planner.planned import Planned
from cnncompress.planner.timed import plan_latency
from cnncompress.planning import Outline
from cnncompress.solvers import Array
from cnncompress.worthwhile import plan_worthwhile


@dataclass(frozen=True)
class Settled:
    """What is to be done with every layer.

    Attributes:
        plans: in the order of execution.
        times: of the replacements that were timed alone, by the layer's name.
        planner: how the budget was spent, for the report; None for rules that don't tell.
    """

    plans: list[LayerPlan]
    times: Mapping[str, LayerTime]
    planner: dict[str, Any] | None = None


class Settler:
    """Chooses methods and ranks; what candidates lose is judged once, when it is first asked for.

    Args:
        network: for its input size and its feature map.
        original: the network, BatchNorm folded.
        outlined: which layers may be replaced.
        menus: by what, not judged yet; empty for rules that take none.
        weights: and biases of these layers.
        known: of the calibration.
        source: the calibration images.
        options: of the run.
        world: the processes that share the work.
    """

    def __init__(
        self,
        network: Network,
        original: nn.Module,
        outlined: Outline,
        menus: Sequence[LayerMenu],
        *,
        weights: Mapping[str, tuple[Array, Array]],
        known: Calibration,
        source: ImageSource,
        options: Options,
        world: World,
    ) -> None:
        self._network, self._original, self._outlined = network, original, outlined
        self._menus, self._weights, self._known = list(menus), weights, known
        self._source, self._options, self._world = source, options, world
        self._unjudged = True

    def settle(self, options: Options, report: Reporter) -> Settled:
        """Choose methods and ranks of all layers, without solving any.

        Args:
            options: with another speedup than that of the session, or fewer methods.
            report: receives the progress.

        Returns:
            What is to be done.
        """
        pinned = self._network.features
        # what the clock says differs between processes: one decides
        if options.ranks != KNAPSACK:
            weights = {name: weight for name, (weight, _) in self._weights.items()}
            plans, times = self._world.first(
                lambda: plan_worthwhile(
                    self._outlined,
                    weights,
                    self._known.statistics,
                    self._original,
                    options,
                    report,
                    pinned=pinned,
                )
            )
            return Settled(plans, times)
        menus = self._judged(report)
        if options.method != self._options.method:
            menus = [menu.among(options.method_names) for menu in menus]
        return self._world.first(lambda: self._spent(menus, options, report))

    def _spent(self, menus: Sequence[LayerMenu], options: Options, report: Reporter) -> Settled:
        """Spend the budget on the menus."""
        pinned = self._network.features
        planned: Planned
        if options.budget == "latency":
            planned = plan_latency(
                self._outlined,
                menus,
                self._original,
                self._network.input_size,
                options,
                report,
                pinned=pinned,
            )
        else:
            planned = plan_counted(self._outlined, menus, self._original, options, report, pinned=pinned)
        record = planned.to_json(options.speedup) | {"distortion": options.distortion}
        return Settled(planned.plans, planned.times, record)

    def _judged(self, clock: Reporter) -> list[LayerMenu]:
        if self._unjudged:
            judge = Judge(
                self._menus,
                self._original,
                self._weights,
                self._known,
                self._source,
                self._options,
                clock,
                world=self._world,
            )
            self._menus, self._unjudged = judge.menus(), False
            self._known = replace(self._known, patches=None)  # make room
        return self._menus
