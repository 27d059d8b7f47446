"""One network with its calibration, from which any number of compressed networks is made."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cnncompress.absorption import absorb_orders
from cnncompress.arrays import choose_backend
from cnncompress.calibration import Calibration, calibrate
from cnncompress.clock import Clock
from cnncompress.data import check_disjoint
from cnncompress.decompositions import Factors, make
from cnncompress.default_data import default_data
from cnncompress.devices import usable_device
from cnncompress.distributed import ALONE, World, require_same, sharded
from cnncompress.effective_kernel import filters_of
from cnncompress.environment import environment
from cnncompress.evaluate import Comparison, OriginalOutputs, compare
from cnncompress.events import Note, Reporter, StageDone, StageStarted, silent
from cnncompress.factorize import factorize_, originals
from cnncompress.finetuning.choice import reconstructed_layers, trained_layers
from cnncompress.finetuning.finetune import Finetuned, finetune_layers
from cnncompress.folding import copy_sharing_weights, fold_batchnorms, foldable
from cnncompress.gather import Context, held_out_images
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.layer_timing import LayerTime
from cnncompress.measure import Latency, latencies
from cnncompress.memory_layout import CONTIGUOUS_NOTE, faster_layout
from cnncompress.network import Network
from cnncompress.options import KNAPSACK, Options
from cnncompress.plan import LayerPlan, Plan
from cnncompress.planner.counted import budget_of, plan_counted
from cnncompress.planner.judge import Judge, unjudged
from cnncompress.planner.menus import LayerMenu
from cnncompress.planner.planned import Planned
from cnncompress.planner.selection import spend
from cnncompress.planner.timed import plan_latency
from cnncompress.planning import outline
from cnncompress.prefix import Prefix
from cnncompress.repair import Repaired, repair_network
from cnncompress.result import Result
from cnncompress.summary import summarize
from cnncompress.training.distill import Distillation
from cnncompress.training.parts import in_parts
from cnncompress.variants import VARIANTS, compare_variants
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


class Session:
    """Calibrates once; see `cnncompress.api.compress`.

    Args:
        network: never changed.
        calibration: images; None takes `default_data`.
        evaluation: images with labels; None compares the two networks on held-out calibration images.
        options: of the run.
        report: receives the progress.
        training: images to fine-tune on; None takes the calibration images.
        speedups: that will be asked for, if not only that of the options.
        world: the processes that share the work; all make the same networks.
    """

    def __init__(
        self,
        network: Network,
        calibration: ImageSource | None,
        evaluation: ImageSource | None,
        options: Options,
        report: Reporter,
        *,
        training: ImageSource | None = None,
        speedups: Sequence[float] = (),
        world: World = ALONE,
    ) -> None:
        report = report if world.is_first else silent
        self._world = world
        clock = Clock(report)
        device = usable_device(options.device)
        self._backend = choose_backend(options.solver, device)
        if calibration is None:
            with world.first_goes():  # a download is done once
                calibration, default_evaluation, note = default_data(network, options.images, options.seed)
            evaluation = evaluation or default_evaluation
            network = replace(network, notes=(*network.notes, *note))
        require_same((calibration, evaluation, training), world)
        if evaluation is not None:
            check_disjoint(calibration, evaluation)
            if training is not None:
                check_disjoint(training, evaluation)
        layout = faster_layout(network.model, network.input_size)
        if layout is torch.contiguous_format:
            network = replace(network, notes=(*network.notes, CONTIGUOUS_NOTE))
        for note_text in network.notes:
            clock(Note(note_text))
        found = inspect_layers(network.model, network.input_size)
        self.folded = foldable(found)
        self.original = fold_batchnorms(network.model, self.folded).to(device).to(memory_format=layout)
        self.layers = inspect_layers(self.original, network.input_size)
        self.network, self.evaluation, self.options = network, evaluation, options
        self._source = calibration
        self._training = calibration if training is None else training
        self._speedups = tuple(speedups) or (options.speedup,)
        # the hardest first: what can't be reached is refused before any work
        self.outlined = outline(self.layers, replace(options, speedup=max(self._speedups)))
        if options.finetune:  # refused now rather than after the work
            chosen = trained_layers(options.finetune, list(self.outlined.menus), self.layers)
            if options.distill == "layers":
                reconstructed_layers(chosen, list(self.outlined.menus))
        menus = self.outlined.menus
        watched = self.outlined.observed
        self._menus: list[LayerMenu] = []
        if options.ranks == KNAPSACK:
            watched = tuple(layer for layer in self.layers if layer.name in menus)
            self._menus = unjudged(self.outlined, options)
            if options.budget != "latency":
                hardest = replace(options, speedup=max(self._speedups))
                spend(self._menus, budget_of(self.outlined, hardest))
        self._known: Calibration = calibrate(
            self.original,
            watched,
            menus,
            calibration,
            options,
            clock,
            again=len(self._speedups) > 1,
            world=world,
        )
        self._weights = originals(self.original, list(menus))
        self._unjudged = True
        self._answers = OriginalOutputs(self.original, network.features, memory=options.memory)
        self._shared, self._report = clock, report

    def run(self, options: Options | None = None) -> Result:
        """Make a compressed network.

        Args:
            options: with another speedup than that of the session, or fewer methods; None for its own.

        Returns:
            The network with its plan and report.
        """
        options = options or self.options
        network, clock = self.network, Clock(self._report)
        settled = self.settle(options, clock)
        plans = settled.plans
        compressed = copy_sharing_weights(self.original)
        prefix = self._prefix(compressed, options)
        context = Context(
            calibration=self._known,
            prefix=prefix,
            holdout=options.holdout,
            seed=options.seed,
            backend=self._backend,
            world=self._world,
        )
        factors = _factorize(compressed, self.layers, plans, context, clock)
        pictures = _first_filters(self.original, compressed, self.layers, plans)
        compressed, repaired = self._repaired(compressed, plans, options, clock)
        absorbed = absorb_orders(compressed, pinned=network.features)
        untrained = self._compare(compressed, options, clock) if options.finetune else None
        compressed, finetuned = self._finetuned(compressed, plans, options, clock)
        alone = self._compare_variants(plans, context, options, clock)
        comparison = self._compare(compressed, options, clock)
        timed = self._timed(compressed, options, clock)
        plan = Plan(
            network=network.name,
            source=network.source,
            input_size=network.input_size,
            preprocess=network.preprocess.to_json(),
            features=network.features,
            categories=network.categories,
            folded=self.folded,
            layers=tuple(plans),
            absorbed=absorbed,
            options=options.to_json(),
            seed=options.seed,
            data_hash=self._source.hash,
            environment=environment(),
        )
        as_asked = self.outlined.given is not None or all(
            planned.method == "none" or self.outlined.settled(layer, options)
            for layer, planned in zip(self.layers, plans, strict=True)
        )
        summary = summarize(
            network=network,
            asked=None if as_asked else options.speedup,
            plan=plan,
            layers=self.layers,
            original=network.model,
            compressed=compressed,
            collector=self._known.collector,
            layer_times=settled.times,
            filters=pictures,
            repaired=repaired,
            finetuned=finetuned,
            untrained=untrained,
            factors=factors,
            alone=alone,
            comparison=comparison,
            calibration=self._source,
            evaluation=self.evaluation,
            latency=timed,
            timing=clock.with_shared(self._shared),
            throughput=clock.throughput_with_shared(self._shared),
            processes=self._world.size,
            planner=settled.planner,
        )
        return Result(compressed.to("cpu"), network, plan, summary)

    def settle(self, options: Options, report: Reporter) -> Settled:
        """Choose methods and ranks of all layers, without solving any.

        Args:
            options: with another speedup than that of the session, or fewer methods.
            report: receives the progress.

        Returns:
            What is to be done.
        """
        pinned = self.network.features
        # what the clock says differs between processes: one decides
        if options.ranks != KNAPSACK:
            weights = {name: weight for name, (weight, _) in self._weights.items()}
            plans, times = self._world.first(
                lambda: plan_worthwhile(
                    self.outlined,
                    weights,
                    self._known.statistics,
                    self.original,
                    options,
                    report,
                    pinned=pinned,
                )
            )
            return Settled(plans, times)
        menus = self._judged(report)
        if options.method != self.options.method:
            menus = [menu.among(options.method_names) for menu in menus]
        return self._world.first(lambda: self._spent(menus, options, report))

    def _repaired(
        self, compressed: nn.Module, plans: Sequence[LayerPlan], options: Options, report: Reporter
    ) -> tuple[nn.Module, Repaired | None]:
        """Mend what was replaced in closed form, if that is wanted."""
        if not options.repairs:
            return compressed, None
        return repair_network(
            self.original,
            compressed,
            self.layers,
            _replaced(plans),
            sharded(self._source, self._world),
            holdout=options.holdout,
            seed=options.seed,
            batch_size=options.batch_size,
            memory=options.memory,
            world=self._world,
            report=report,
        )

    def _finetuned(
        self, compressed: nn.Module, plans: Sequence[LayerPlan], options: Options, report: Reporter
    ) -> tuple[nn.Module, Finetuned | None]:
        """Train the layers above the compressed ones or all of them, if the user wants it."""
        if not options.finetune:
            return compressed, None
        replaced = _replaced(plans)
        return finetune_layers(
            self.original,
            compressed,
            chosen=trained_layers(options.finetune, replaced, self.layers),
            source=self._training,
            recipe=in_parts(options.finetuning(), self.network.input_size),
            holdout=options.holdout,
            distill=Distillation(kind=options.distill) if options.distill else None,
            replaced=replaced,
            world=self._world,
            report=report,
        )

    def _spent(self, menus: Sequence[LayerMenu], options: Options, report: Reporter) -> Settled:
        """Spend the budget on the menus."""
        pinned = self.network.features
        planned: Planned
        if options.budget == "latency":
            planned = plan_latency(
                self.outlined, menus, self.original, self.network.input_size, options, report, pinned=pinned
            )
        else:
            planned = plan_counted(self.outlined, menus, self.original, options, report, pinned=pinned)
        record = planned.to_json(options.speedup) | {"distortion": options.distortion}
        return Settled(planned.plans, planned.times, record)

    def _prefix(self, model: nn.Module, options: Options) -> Prefix:
        return Prefix(
            model,
            sharded(self._source, self._world),
            batch_size=options.batch_size,
            memory=options.memory,
            processes=self._world.size,
        )

    def _judged(self, clock: Reporter) -> list[LayerMenu]:
        if self._unjudged:
            judge = Judge(
                self._menus,
                self.original,
                self._weights,
                self._known,
                self._source,
                self.options,
                clock,
                world=self._world,
            )
            self._menus, self._unjudged = judge.menus(), False
            self._known = replace(self._known, patches=None)  # make room
        return self._menus

    def _compare(self, compressed: nn.Module, options: Options, report: Reporter) -> Comparison:
        """On the evaluation images, or on those calibration images that were not fitted."""
        only = None
        if self.evaluation is None:
            unreadable = {bad.key for bad in self._source.bad}
            readable = [i for i, key in enumerate(self._source.keys) if key not in unreadable]
            only = held_out_images(readable, share=options.holdout, seed=options.seed)
        return compare(
            self._answers,
            compressed,
            self.evaluation if self.evaluation is not None else self._source,
            features=self.network.features,
            batch_size=options.batch_size,
            only=only,
            world=self._world,
            report=report,
        )

    def _timed(self, compressed: nn.Module, options: Options, report: Reporter) -> tuple[Latency, ...]:
        if not options.measure:
            return ()
        budgeted = options.budget == "latency"
        return self._world.first(
            lambda: latencies(
                self.original,
                compressed,
                self.network.input_size,
                runtimes=(options.runtime if budgeted else "torch",),
                threads=(options.threads if budgeted else 1,),
                batches=(options.batch if budgeted else 1,),
                repeats=20 if budgeted else 10,
                report=report,
            )
        )

    def _compare_variants(
        self, plans: list[LayerPlan], context: Context, options: Options, report: Reporter
    ) -> dict[str, dict[str, float]]:
        """Each kind of solution on a copy of its own, if the user wants to see it."""
        if not options.compare:
            return {}

        def errors(changed: Sequence[LayerPlan]) -> dict[str, float]:
            copy = copy_sharing_weights(self.original)
            within = replace(context, prefix=self._prefix(copy, options))
            found = factorize_(copy, self.layers, changed, within)
            return {name: factors.errors[factors.chosen] for name, factors in found.items() if factors.chosen}

        stage, begun = "compare", time.perf_counter()
        report(StageStarted(stage, len(VARIANTS), "kinds of solutions"))
        found = compare_variants(plans, errors, report)
        report(StageDone(stage, time.perf_counter() - begun))
        return found


def _factorize(
    compressed: nn.Module,
    layers: tuple[LayerInfo, ...],
    plans: list[LayerPlan],
    context: Context,
    report: Reporter,
) -> dict[str, Factors]:
    stage, begun = "factorize", time.perf_counter()
    report(StageStarted(stage, sum(plan.method != "none" for plan in plans), "layers"))
    factors = factorize_(compressed, layers, plans, context, report)
    report(StageDone(stage, time.perf_counter() - begun))
    return factors


def _replaced(plans: Sequence[LayerPlan]) -> list[str]:
    return [planned.name for planned in plans if planned.method != "none"]


def _first_filters(
    original: nn.Module, compressed: nn.Module, layers: Sequence[LayerInfo], plans: Sequence[LayerPlan]
) -> dict[str, Any] | None:
    """The filters of the first layer that was replaced, before and after, if they look at colours."""
    for layer, planned in zip(layers, plans, strict=True):
        if planned.method != "none" and make(planned.method, planned.options).convolves:
            before, after = (model.get_submodule(layer.name) for model in (original, compressed))
            assert isinstance(before.weight, torch.Tensor)
            return filters_of(before.weight, after, layer)
    return None
