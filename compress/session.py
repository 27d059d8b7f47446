"""One network with its calibration, from which any number of compressed networks is made."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from cnncompress.absorption import absorb_orders
from cnncompress.arrays import choose_backend
from cnncompress.calibration import calibrate
from cnncompress.clock import Clock
from cnncompress.data import check_disjoint
from cnncompress.decompositions import Factors
from cnncompress.default_data import default_data
from cnncompress.devices import usable_device
from cnncompress.distributed import ALONE, World, require_same, sharded
from cnncompress.environment import environment
from cnncompress.events import Note, Reporter, StageDone, StageStarted, silent
from cnncompress.factorize import factorize_, originals
from cnncompress.finetuning.choice import reconstructed_layers, trained_layers
from cnncompress.first_filters import first_filters
from cnncompress.folding import copy_sharing_weights, fold_batchnorms, foldable
from cnncompress.gather import Context
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.measure import Latency, latencies
from cnncompress.memory_layout import CONTIGUOUS_NOTE, faster_layout
from cnncompress.network import Network
from cnncompress.options import KNAPSACK, Options
from cnncompress.plan import LayerPlan, Plan
from cnncompress.planner.counted import budget_of
from cnncompress.planner.judge import unjudged
from cnncompress.planner.menus import LayerMenu
from cnncompress.planner.selection import spend
from cnncompress.planning import outline
from cnncompress.prefix import Prefix
from cnncompress.recovery import Recovery
from cnncompress.result import Result
from cnncompress.settling import Settled, Settler
from cnncompress.side_by_side import SideBySide
from cnncompress.summary import summarize
from cnncompress.variants import VARIANTS, compare_variants


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
        candidates: list[LayerMenu] = []
        if options.ranks == KNAPSACK:
            watched = tuple(layer for layer in self.layers if layer.name in menus)
            candidates = unjudged(self.outlined, options)
            if options.budget != "latency":
                hardest = replace(options, speedup=max(self._speedups))
                spend(candidates, budget_of(self.outlined, hardest))
        known = calibrate(
            self.original,
            watched,
            menus,
            calibration,
            options,
            clock,
            again=len(self._speedups) > 1,
            world=world,
        )
        self._settler = Settler(
            network,
            self.original,
            self.outlined,
            candidates,
            weights=originals(self.original, list(menus)),
            known=known,
            source=calibration,
            options=options,
            world=world,
        )
        self._known = replace(known, patches=None)  # the settler alone needs them, for a while
        self._judges = SideBySide(
            self.original, network, calibration, evaluation, memory=options.memory, world=world
        )
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
        settled = self._settler.settle(options, clock)
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
        pictures = first_filters(self.original, compressed, self.layers, plans)
        recovery = Recovery(
            original=self.original,
            layers=self.layers,
            plans=plans,
            options=options,
            world=self._world,
            report=clock,
        )
        compressed, repaired = recovery.repaired(compressed, self._source)
        absorbed = absorb_orders(compressed, pinned=network.features)
        untrained = self._judges.compare(compressed, options, clock) if options.finetune else None
        compressed, finetuned = recovery.finetuned(compressed, self._training, network.input_size)
        alone = self._compare_variants(plans, context, options, clock)
        comparison = self._judges.compare(compressed, options, clock)
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
            changed=self._judges.changed(comparison, examples=options.examples),
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
        return self._settler.settle(options, report)

    def _prefix(self, model: nn.Module, options: Options) -> Prefix:
        return Prefix(
            model,
            sharded(self._source, self._world),
            batch_size=options.batch_size,
            memory=options.memory,
            processes=self._world.size,
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
