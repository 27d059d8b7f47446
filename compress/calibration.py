"""What one pass over the calibration images tells of the original network."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from cnncompress.arrays import to_array
from cnncompress.collector import Collector
from cnncompress.decompositions import Decomposition
from cnncompress.decompositions.base import Need
from cnncompress.distributed import ALONE, World, sharded
from cnncompress.distributed.shard import settle
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo
from cnncompress.memory_layout import layout_of
from cnncompress.options import KNAPSACK, Options
from cnncompress.patch_samples import PatchSamples
from cnncompress.responses import Statistics
from cnncompress.sampling import enough_positions
from cnncompress.sensitivity import sensitivities
from cnncompress.waiting import Watched

_SHARE_OF_MEMORY = 2  # of what activations may take, for the planner's patches, which are gone before these


@dataclass(frozen=True)
class Calibration:
    """Moments, samples and derivatives of the layers that were watched.

    Attributes:
        collector: moments and samples.
        gradients: mean squared derivatives by the weights, for layers whose method needs them.
        patches: what the planner compares replacements on; None for rules that don't.
    """

    collector: Collector
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    patches: PatchSamples | None = None

    def statistics(self, name: str, backend: Literal["numpy", "cupy"] = "numpy") -> Statistics | None:
        """What is known of one layer.

        Args:
            name: of the layer.
            backend: library of the arrays.

        Returns:
            The statistics, or None if the layer wasn't watched.
        """
        outputs = self.collector.numpy_moments(name)
        if outputs is None:
            return None
        inputs = self.collector.numpy_input_moments(name)
        if backend != "numpy":
            outputs = self.collector.moments(name).map(lambda tensor: to_array(tensor, backend))
            if inputs is not None:
                inputs = self.collector.input_moments(name).map(lambda tensor: to_array(tensor, backend))
        gradients = self.gradients.get(name)
        return Statistics(outputs, inputs, None if gradients is None else to_array(gradients, backend))


def calibrate(
    original: nn.Module,
    layers: Sequence[LayerInfo],
    menus: Mapping[str, Sequence[Decomposition]],
    source: ImageSource,
    options: Options,
    report: Reporter,
    *,
    again: bool = False,
    world: World = ALONE,
) -> Calibration:
    """One pass of the original network over the calibration images, and one for gradients if a method asks.

    Args:
        original: the network, BatchNorm folded.
        layers: to watch.
        menus: methods that may replace them.
        source: the images.
        options: of the run.
        report: receives the progress.
        again: whether the samples will be wanted more than once.
        world: the processes that share the work.

    Returns:
        What was found.
    """
    fitted = max(1, round((1 - options.holdout) * len(source)))

    def positions(layer: LayerInfo) -> int:
        if options.positions:
            return options.positions
        if needs(layer, "moments"):  # whole patches are regressed on, none is kept
            return enough_positions(layer, images=fitted, samples_per_entry=6, most=200)
        return enough_positions(layer, images=fitted)

    def needs(layer: LayerInfo, what: Need) -> bool:
        return any(what in method.needs for method in menus[layer.name])

    def needing(what: Need) -> list[LayerInfo]:
        return [layer for layer in layers if needs(layer, what)]

    collector = Collector(
        layers,
        positions=positions,
        seed=options.seed,
        keep=options.compare or again,
        inputs=[layer.name for layer in needing("inputs")],
        blocks={layer.name: menus[layer.name][0].blocks for layer in layers},
    )
    patches = None
    if options.ranks == KNAPSACK:
        share = options.memory // _SHARE_OF_MEMORY
        patches = PatchSamples(layers, images=len(source), seed=options.seed, memory=share)
    if not layers:
        return Calibration(collector)
    stage, begun = "calibrate", time.perf_counter()
    dealt = sharded(source, world)
    mine = Watched(dealt)
    report(StageStarted(stage, -(-len(source) // world.size)))
    reference, layout = next(original.parameters()), layout_of(original)
    with torch.inference_mode(), ExitStack() as watched:
        watchers: list[Collector | PatchSamples] = [collector, *([] if patches is None else [patches])]
        begins = [watched.enter_context(watcher.watching(original)) for watcher in watchers]
        for batch in mine.batches(options.batch_size):
            for begin in begins:
                begin(batch.indices.tolist())
            original(batch.images.to(reference.device, reference.dtype, memory_format=layout))
            report(StageAdvanced(stage, len(batch.images)))
    settle(dealt)
    collector.share(world, reference.device)
    if patches is not None:
        patches.share(world, reference.device)
    report(StageDone(stage, time.perf_counter() - begun, len(collector.indices), mine.waited))
    weighed = needing("gradients")
    gradients: dict[str, Tensor] = {}
    if weighed:
        found = world.first(
            lambda: {
                name: each.cpu()
                for name, each in sensitivities(original, weighed, source, report=report).items()
            }
        )
        gradients = {name: each.to(reference.device) for name, each in found.items()}
    return Calibration(collector, gradients, patches)
