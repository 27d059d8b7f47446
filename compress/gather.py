"""For one layer, what the original network answers beside what the compressed prefix delivers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cnncompress.arrays import to_array
from cnncompress.calibration import Calibration
from cnncompress.decompositions import Decomposition, Ranks
from cnncompress.distributed.sums import add_up
from cnncompress.distributed.world import ALONE, World
from cnncompress.errors import DataError
from cnncompress.inspect import LayerInfo
from cnncompress.prefix import Prefix
from cnncompress.responses import Responses, Samples
from cnncompress.solvers.joint_moments import JointMoments


@dataclass(frozen=True, kw_only=True)
class Context:
    """What stays the same for all layers of a run.

    Attributes:
        calibration: what is known of the original network.
        prefix: runs the network that is being compressed.
        holdout: share of the images that judge and are not fitted.
        seed: draws those images.
        backend: library of the solvers.
        world: the processes that share the work.
    """

    calibration: Calibration
    prefix: Prefix
    holdout: float
    seed: int
    backend: Literal["numpy", "cupy"]
    world: World = ALONE


def held_out_images(indices: Sequence[int], *, share: float, seed: int) -> frozenset[int]:
    """The images that judge: drawn by the seed, at least one, and at least one is left to fit.

    Args:
        indices: positions of the readable images in the list of all.
        share: between 0 and 1.
        seed: of the run.

    Returns:
        Positions of the held-out images.

    Raises:
        DataError: there are fewer than two images.
    """
    if len(indices) < 2:
        raise DataError(
            f"{len(indices)} calibration image can't be split into fitted and held-out ones; give at least 2"
        )
    count = min(max(1, round(share * len(indices))), len(indices) - 1)
    drawn = np.random.default_rng((seed, 1)).choice(np.sort(indices), count, replace=False)
    return frozenset(int(i) for i in drawn)


class _Gathered:
    """Samples of the images that are fitted, or of those that judge."""

    def __init__(self, *, summed: bool) -> None:
        self._summed = summed
        self._targets: list[Tensor] = []
        self._patches: list[Tensor] = []
        self._inside: list[Tensor] = []
        self._images: list[Tensor] = []
        self.moments: JointMoments | None = None

    def add(self, target: Tensor, patches: Tensor, inside: Tensor | None, images: Tensor) -> None:
        """Keep those of a batch, or only their moments."""
        self._targets.append(target)
        self._images.append(images)
        if self._summed:
            more = JointMoments.of(patches, target.to(patches.dtype))
            self.moments = more if self.moments is None else self.moments + more
            patches = patches[:, :0]
        self._patches.append(patches)
        if inside is not None:
            self._inside.append(inside)

    def samples(self, world: World, backend: Literal["numpy", "cupy"], *, margin: bool) -> Samples:
        """All samples, in the first process those of all processes; they are forgotten here."""
        images = torch.cat(self._images) if self._images else torch.empty(0, dtype=torch.int64)
        target = to_array(world.columns(_joined(self._targets), images), backend)
        patches = _joined(self._patches)
        patches = patches if self._summed else world.columns(patches, images)
        inside = to_array(world.columns(_joined(self._inside), images), backend) if margin else None
        return Samples(target, to_array(patches, backend), inside)


def _joined(parts: list[Tensor]) -> Tensor:
    """Columns side by side, each part freed as soon as it is copied: patches with a margin take gigabytes."""
    if not parts:  # another process had all images
        return torch.empty(0, 0)
    whole = parts[0].new_empty(len(parts[0]), sum(part.shape[1] for part in parts))
    end = whole.shape[1]
    while parts:
        part = parts.pop()
        whole[:, end - part.shape[1] : end] = part
        end -= part.shape[1]
    return whole


def responses_of(layer: LayerInfo, method: Decomposition, ranks: Ranks, context: Context) -> Responses:
    """Targets from the original network and patches from the compressed prefix, at the same places.

    Of several processes each runs its own images; the first one gets the samples of all, in the order in
    which one process alone would have had them, and solves.

    Args:
        layer: the layer.
        method: that shall replace it.
        ranks: of the replacement.
        context: where they come from.

    Returns:
        Responses as arrays of the solvers' library; without samples in all processes but the first.
    """
    collector, backend, world = context.calibration.collector, context.backend, context.world
    sampler, margin = collector.sampler(layer.name), method.margin(layer, ranks)
    judges = held_out_images(collector.indices, share=context.holdout, seed=context.seed)
    parts = {False: _Gathered(summed="moments" in method.needs), True: _Gathered(summed=False)}
    target, seen = collector.take_samples(layer.name), 0
    for indices, inputs in context.prefix.inputs_of(layer.name):
        patches = sampler.patches(inputs, indices, margin=margin)
        inside = sampler.inside(indices, margin=margin) if margin else None
        count = patches.shape[1]
        answers, seen = target[:, seen : seen + count], seen + count
        images = torch.tensor(indices).repeat_interleave(count // len(indices))
        judging = torch.tensor([index in judges for index in images.tolist()])
        for which, part in parts.items():
            mine = judging == which
            there = mine.to(patches.device)
            around = None if inside is None else inside[:, mine]
            part.add(answers[:, there], patches[:, there], around, images[mine])
    statistics = context.calibration.statistics(layer.name, backend)
    assert statistics is not None
    moments = add_up(parts[False].moments, JointMoments, world, target.device)
    return Responses(
        statistics,
        parts[False].samples(world, backend, margin=bool(margin)),
        parts[True].samples(world, backend, margin=bool(margin)),
        layer.activation,
        moments.map(lambda tensor: to_array(tensor, backend)) if moments is not None else None,
    )
