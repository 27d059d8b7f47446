"""How the channels of neighbouring convolutions vary together, measured on images.

Ioannou et al., "Deep Roots: Improving CNN Efficiency with Hierarchical Filter Groups",
https://arxiv.org/abs/1605.06489, appendix A.2. Neighbours are convolutions that run one after the other;
where branches meet, these need not feed each other. A sample is a pixel of a convolution's own output.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cnncompress.errors import OptionError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.image_source import ImageSource
from cnncompress.inspect import inspect_layers
from cnncompress.memory_layout import layout_of
from cnncompress.pixel_pairs import Pair, PairMoments, neighbouring_pairs
from cnncompress.solvers.grouping import (
    Grouping,
    common_divisors,
    group_channels,
    group_pair,
    suggested_groups,
)
from cnncompress.solvers.moments import Moments
from cnncompress.solvers.whitening import absolute_correlation, whitened_cross_covariance

Floats = NDArray[np.float64]

PIXELS = 256
_SAMPLES_PER_CHANNEL = 10


@dataclass(frozen=True, eq=False)
class LayerCorrelation:
    """Correlations within one layer.

    Attributes:
        name: of the convolution.
        channels: that it puts out.
        samples: pixels that were looked at.
        correlation: absolute, shape (channels, channels).
        groupings: the best of each number of groups.
    """

    name: str
    channels: int
    samples: int
    correlation: Floats
    groupings: tuple[Grouping, ...]

    @property
    def suggested(self) -> int:
        """Number of groups that describes the channels best, 1 for none."""
        return suggested_groups(self.groupings)


@dataclass(frozen=True, eq=False)
class PairCovariance:
    """Covariance between two layers.

    Attributes:
        first: name of the convolution that runs first.
        second: name of the next one.
        grid: height and width that both maps were brought to.
        own_groups: of the second convolution, 1 unless it is a grouped one.
        samples: pixels that were looked at.
        plain: covariance of the responses as they are, shape (first's channels, second's channels).
        whitened: covariance of the whitened responses, of the same shape.
        groupings: the best of each number of groups, of the whitened covariance.
    """

    first: str
    second: str
    grid: tuple[int, int]
    own_groups: int
    samples: int
    plain: Floats
    whitened: Floats
    groupings: tuple[Grouping, ...]

    @property
    def suggested(self) -> int:
        """Number of groups that describes both layers' channels best, 1 for none."""
        return suggested_groups(self.groupings)


@dataclass(frozen=True, eq=False)
class CovarianceStudy:
    """What one pass over images tells.

    Attributes:
        layers: in the order of execution.
        pairs: in the order of execution.
        images: that were read.
        pixels: that were drawn of each image, at most.
        notes: what lessens the worth of the numbers.
    """

    layers: tuple[LayerCorrelation, ...]
    pairs: tuple[PairCovariance, ...]
    images: int
    pixels: int
    notes: tuple[str, ...]


def study_covariance(
    model: nn.Module,
    input_size: tuple[int, int, int],
    source: ImageSource,
    *,
    pairs: Sequence[str] = (),
    pixels: int = PIXELS,
    batch_size: int = 10,
    seed: int = 0,
    report: Reporter = silent,
) -> CovarianceStudy:
    """Measure correlations within, and whitened covariances between, neighbouring convolutions.

    Of two maps of different sizes the smaller is repeated to the size of the larger, and of large maps some
    pixels are drawn by the seed, the same in both layers. The memory that is needed on top of the network's
    own doesn't grow with the images: for each pair 8 (c1 + c2)² bytes of moments (8 MB for 512 channels each)
    and the drawn pixels of one batch.

    Args:
        model: left as it was; run in evaluation mode.
        input_size: channels, height and width of one input.
        source: images, ready for the network.
        pairs: names of first layers, with wildcards; none for all pairs.
        pixels: drawn of each image and pair, at most.
        batch_size: images run at a time.
        seed: of the pixels and of the search for groups.
        report: receives the progress.

    Returns:
        The study.

    Raises:
        ModelError: the network has no two convolutions that run once in a pass.
        OptionError: ``pairs`` matches none, or a number is below 1.
        NumericsError: responses hold NaN or infinity.
    """  # noqa: DOC502  # some are raised by what is called
    for name, value in (("pixels", pixels), ("batch_size", batch_size)):
        if value < 1:
            raise OptionError(f"{name} must be at least 1, got {value}")
    wanted = neighbouring_pairs(inspect_layers(model, input_size), pairs)
    gathered = _gather(model, wanted, source, pixels, batch_size, seed, report)
    stage, begun = "group channels", time.perf_counter()
    blocks = _own_blocks(wanted)
    report(StageStarted(stage, len(blocks) + len(wanted), "matrices"))
    layers = []
    for layer, (pair, part) in blocks.items():
        layers.append(_correlation(layer, gathered.of(pair), part, seed))
        report(StageAdvanced(stage))
    found = []
    for pair in wanted:
        found.append(_covariance(pair, gathered.of(pair), seed))
        report(StageAdvanced(stage))
    report(StageDone(stage, time.perf_counter() - begun))
    return CovarianceStudy(tuple(layers), tuple(found), gathered.images, pixels, _notes(found))


def _gather(
    model: nn.Module,
    pairs: Sequence[Pair],
    source: ImageSource,
    pixels: int,
    batch_size: int,
    seed: int,
    report: Reporter,
) -> PairMoments:
    gathered = PairMoments(pairs, pixels=pixels, seed=seed)
    reference, layout = next(model.parameters()), layout_of(model)
    modes = {module: module.training for module in model.modules()}
    stage, begun = "covariances", time.perf_counter()
    report(StageStarted(stage, len(source)))
    try:
        model.eval()
        with torch.inference_mode(), gathered.watching(model) as begin:
            for batch in source.batches(batch_size):
                begin(batch.indices.tolist())
                model(batch.images.to(reference.device, reference.dtype, memory_format=layout))
                report(StageAdvanced(stage, len(batch.images)))
    finally:
        for module, training in modes.items():
            module.training = training
    report(StageDone(stage, time.perf_counter() - begun))
    return gathered


def _own_blocks(pairs: Sequence[Pair]) -> Mapping[str, tuple[Pair, slice]]:
    """For each layer a pair and the layer's channels in its moments, if possible without repeated pixels."""
    found: dict[str, tuple[Pair, slice]] = {}
    for pair in pairs:
        split = pair.first.out_channels
        for layer, part in ((pair.first, slice(split)), (pair.second, slice(split, None))):
            if layer.name not in found or layer.output_size == pair.grid:
                found[layer.name] = (pair, part)
    return found


def _correlation(name: str, moments: Moments, part: slice, seed: int) -> LayerCorrelation:
    correlation = absolute_correlation(moments.covariance[part, part])
    channels = len(correlation)
    groupings = group_channels(correlation, common_divisors(channels), seed=seed)
    return LayerCorrelation(name, channels, moments.count, correlation, groupings)


def _covariance(pair: Pair, moments: Moments, seed: int) -> PairCovariance:
    split = pair.first.out_channels
    whitened = whitened_cross_covariance(moments.covariance, first=split)
    groupings = group_pair(whitened, common_divisors(*whitened.shape), seed=seed)
    plain = moments.covariance[:split, split:]
    names = (pair.first.name, pair.second.name)
    return PairCovariance(*names, pair.grid, pair.second.groups, moments.count, plain, whitened, groupings)


def _notes(pairs: Sequence[PairCovariance]) -> tuple[str, ...]:
    notes = []
    for pair in pairs:
        channels = sum(pair.whitened.shape)
        if pair.samples < _SAMPLES_PER_CHANNEL * channels:
            notes.append(
                f"{pair.first} and {pair.second}: {pair.samples} pixels for {channels} channels; covariances "
                "that are whitened on so few are mostly noise, more images will help"
            )
    return tuple(notes)
