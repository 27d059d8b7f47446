"""The whole run: calibrate, plan, factorize, evaluate, measure."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnncompress.absorption import absorb_orders
from cnncompress.arrays import choose_backend
from cnncompress.calibration import calibrate
from cnncompress.clock import Clock
from cnncompress.data import Source, check_disjoint, open_source
from cnncompress.decompositions import Factors, make
from cnncompress.default_data import default_data
from cnncompress.devices import usable_device
from cnncompress.effective_kernel import filters_of
from cnncompress.environment import environment
from cnncompress.evaluate import Comparison, compare
from cnncompress.events import (
    Note,
    Reporter,
    StageDone,
    StageStarted,
    silent,
)
from cnncompress.factorize import factorize_, originals
from cnncompress.finetune import Finetuned, finetune_layers, trained_layers
from cnncompress.folding import copy_sharing_weights, fold_batchnorms, foldable
from cnncompress.gather import Context, held_out_images
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.loading import load
from cnncompress.measure import latencies
from cnncompress.memory_layout import CONTIGUOUS_NOTE, faster_layout
from cnncompress.network import Network, Preprocess
from cnncompress.options import Options
from cnncompress.output import write_results
from cnncompress.plan import LayerPlan, Plan
from cnncompress.planning import outline
from cnncompress.prefix import Prefix
from cnncompress.summary import summarize
from cnncompress.training import Recipe
from cnncompress.variants import VARIANTS, compare_variants
from cnncompress.worthwhile import plan_worthwhile

__all__ = ["Options", "Result", "compress", "compress_model", "default_data", "load"]


@dataclass(frozen=True)
class Result:
    """A compressed network.

    Attributes:
        model: plain torch layers, in evaluation mode.
        network: the original.
        plan: every decision.
        report: what report.json holds.
    """

    model: nn.Module
    network: Network
    plan: Plan
    report: dict[str, Any]

    def save(self, path: str | Path, *, overwrite: bool = False, report: Reporter = silent) -> Path:
        """Write model.safetensors, plan.json, model.onnx, report.json and report.html.

        Args:
            path: of a new folder.
            overwrite: whether earlier results there may be replaced.
            report: receives the progress.

        Returns:
            The folder.
        """
        return write_results(
            path,
            self.model,
            self.plan.to_json(),
            self.report,
            self.network,
            overwrite=overwrite,
            progress=report,
        )


def compress_model(
    model: nn.Module,
    data: Source,
    *,
    speedup: float = 4.0,
    eval_data: Source | None = None,
    train_data: Source | None = None,
    report: Reporter = silent,
    **options: Any,
) -> Result:
    """Compress any torch network.

    Args:
        model: never changed.
        data: calibration images, preprocessed batches or anything that
            `cnncompress.data.open_source` reads; labels aren't needed.
        speedup: original over compressed cost of the convolutions.
        eval_data: images with labels, to measure the accuracy.
        train_data: images to fine-tune on; None takes the calibration images.
        report: receives the progress.
        **options: further fields of `Options`.

    Returns:
        The compressed network with its plan and report.
    """
    chosen = Options(speedup=speedup, **options)
    raw = Preprocess()
    opened = open_source(data, preprocess=None, limit=chosen.images, seed=chosen.seed)
    first = next(iter(opened.batches(1))).images
    channels, height, width = first.shape[1:]
    plain = Preprocess(resize=None, crop=(height, width), mean=(0.0,) * channels, std=(1.0,) * channels)
    shaped = raw if (channels, height, width) == (3, *raw.crop) else plain
    network = Network(name=type(model).__name__, model=model, preprocess=shaped)
    evaluation = (
        open_source(eval_data, preprocess=shaped, need_labels=True) if eval_data is not None else None
    )
    training = open_source(train_data, preprocess=shaped) if train_data is not None else None
    return compress(network, opened, evaluation, chosen, report, training=training)


def compress(
    network: Network,
    calibration: ImageSource | None,
    evaluation: ImageSource | None,
    options: Options,
    report: Reporter = silent,
    *,
    training: ImageSource | None = None,
) -> Result:
    """Compress a network.

    Args:
        network: never changed.
        calibration: images; None takes `default_data`.
        evaluation: images with labels; None compares the two networks on held-out calibration images.
        options: of the run.
        report: receives the progress.
        training: images to fine-tune on; None takes the calibration images.

    Returns:
        The compressed network with its plan and report.
    """
    clock = Clock(report)
    device = usable_device(options.device)
    backend = choose_backend(options.solver, device)
    if calibration is None:
        calibration, default_evaluation, note = default_data(network, options.images, options.seed)
        evaluation = evaluation or default_evaluation
        network = replace(network, notes=(*network.notes, *note))
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
    folded = foldable(found)
    original = fold_batchnorms(network.model, folded).to(device).to(memory_format=layout)
    layers = inspect_layers(original, network.input_size)
    outlined = outline(layers, options)
    if options.finetune:
        trained_layers(
            options.finetune, list(outlined.methods), layers
        )  # refused now rather than after the work
    known = calibrate(original, outlined.observed, outlined.methods, calibration, options, clock)
    weights = {name: weight for name, (weight, _) in originals(original, list(outlined.methods)).items()}
    plans, times = plan_worthwhile(
        outlined, weights, known.statistics, original, options, clock, pinned=network.features
    )

    compressed = copy_sharing_weights(original)
    prefix = Prefix(compressed, calibration, batch_size=options.batch_size, memory=options.memory)
    context = Context(
        calibration=known, prefix=prefix, holdout=options.holdout, seed=options.seed, backend=backend
    )
    factors = _factorize(compressed, layers, plans, context, clock)
    pictures = _first_filters(original, compressed, layers, plans)
    absorbed = absorb_orders(compressed, pinned=network.features)
    images = calibration if training is None else training
    compressed, finetuned = _finetune(original, compressed, layers, plans, images, options, clock)
    alone = _compare_variants(original, layers, plans, context, calibration, options, clock)

    comparison = _compare(original, compressed, network, calibration, evaluation, options, clock)
    timed = (
        latencies(original, compressed, network.input_size, repeats=10, report=clock)
        if options.measure
        else ()
    )
    plan = Plan(
        network=network.name,
        source=network.source,
        input_size=network.input_size,
        preprocess=network.preprocess.to_json(),
        features=network.features,
        categories=network.categories,
        folded=folded,
        layers=tuple(plans),
        absorbed=absorbed,
        options=options.to_json(),
        seed=options.seed,
        data_hash=calibration.hash,
        environment=environment(),
    )
    settled = outlined.given is not None or all(
        planned.method == "none" or outlined.settled(layer, options)
        for layer, planned in zip(layers, plans, strict=True)
    )
    summary = summarize(
        network=network,
        asked=None if settled else options.speedup,
        plan=plan,
        layers=layers,
        original=network.model,
        compressed=compressed,
        collector=known.collector,
        layer_times=times,
        filters=pictures,
        finetuned=finetuned,
        factors=factors,
        alone=alone,
        comparison=comparison,
        calibration=calibration,
        evaluation=evaluation,
        latency=timed,
        timing=clock.seconds,
    )
    return Result(compressed.to("cpu"), network, plan, summary)


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


def _finetune(
    original: nn.Module,
    compressed: nn.Module,
    layers: Sequence[LayerInfo],
    plans: Sequence[LayerPlan],
    images: ImageSource,
    options: Options,
    report: Reporter,
) -> tuple[nn.Module, Finetuned | None]:
    """Train the layers above the compressed ones, if the user wants it."""
    if not options.finetune:
        return compressed, None
    replaced = [planned.name for planned in plans if planned.method != "none"]
    recipe = Recipe(epochs=options.epochs, learning_rate=options.learning_rate, seed=options.seed)
    return finetune_layers(
        original,
        compressed,
        chosen=trained_layers(options.finetune, replaced, layers),
        source=images,
        recipe=recipe,
        holdout=options.holdout,
        report=report,
    )


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


def _compare_variants(
    original: nn.Module,
    layers: tuple[LayerInfo, ...],
    plans: list[LayerPlan],
    context: Context,
    calibration: ImageSource,
    options: Options,
    report: Reporter,
) -> dict[str, dict[str, float]]:
    """Each kind of solution on a copy of its own, if the user wants to see it."""
    if not options.compare:
        return {}

    def errors(changed: Sequence[LayerPlan]) -> dict[str, float]:
        copy = copy_sharing_weights(original)
        prefix = Prefix(copy, calibration, batch_size=options.batch_size, memory=options.memory)
        found = factorize_(copy, layers, changed, replace(context, prefix=prefix))
        return {name: factors.errors[factors.chosen] for name, factors in found.items() if factors.chosen}

    stage, begun = "compare", time.perf_counter()
    report(StageStarted(stage, len(VARIANTS), "kinds of solutions"))
    found = compare_variants(plans, errors, report)
    report(StageDone(stage, time.perf_counter() - begun))
    return found


def _compare(
    original: nn.Module,
    compressed: nn.Module,
    network: Network,
    calibration: ImageSource,
    evaluation: ImageSource | None,
    options: Options,
    report: Reporter,
) -> Comparison:
    """On the evaluation images, or on those calibration images that were not fitted."""
    only = None
    if evaluation is None:
        unreadable = {bad.key for bad in calibration.bad}
        readable = [i for i, key in enumerate(calibration.keys) if key not in unreadable]
        only = held_out_images(readable, share=options.holdout, seed=options.seed)
    return compare(
        original,
        compressed,
        evaluation if evaluation is not None else calibration,
        features=network.features,
        batch_size=options.batch_size,
        only=only,
        report=report,
    )
