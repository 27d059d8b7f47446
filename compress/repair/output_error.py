"""How far a compressed network's output is from the original's on held-out images."""

from collections.abc import Collection
from math import inf, isnan

import torch
from torch import nn

from cnncompress.distortion.output_loss import OutputLoss
from cnncompress.distributed import World
from cnncompress.errors import DataError
from cnncompress.image_source import ImageSource
from cnncompress.memory_layout import layout_of

_SQUARED = OutputLoss("squared")


class OutputError:
    """Judges whole networks against the original on always the same images.

    Args:
        original: in evaluation mode.
        source: the images; a part of them for each process.
        held_out: positions of the images that judge.
        batch_size: images run at a time.
        world: the processes.
    """

    def __init__(
        self,
        original: nn.Module,
        source: ImageSource,
        held_out: Collection[int],
        *,
        batch_size: int,
        world: World,
    ) -> None:
        self._original, self._source, self._world = original, source, world
        self._order, self._batch_size = sorted(held_out), batch_size
        self._layout = layout_of(original)

    def of(self, compressed: nn.Module) -> float:
        """The share of the output's energy that is lost.

        Args:
            compressed: in evaluation mode.

        Returns:
            ||f - f̂||² / ||f||² over all outputs; infinite where an output is NaN.

        Raises:
            DataError: none of the images could be read.
        """
        reference = next(self._original.parameters())
        sums = torch.zeros(3, dtype=torch.float64, device=reference.device)
        for batch in self._source.batches(self._batch_size, self._order):
            images = batch.images.to(reference.device, reference.dtype, memory_format=self._layout)
            with torch.inference_mode():
                expected, found = self._original(images), compressed(images)
            count = len(images)
            sums[0] += _SQUARED.total(expected, found, count)
            sums[1] += _SQUARED.weight(expected, count)
            sums[2] += count
        error, energy, images_seen = self._world.sum(sums).tolist()
        if not images_seen:
            raise DataError(f"no held-out image could be read from {self._source.description}")
        if isnan(error) or isnan(energy):
            return inf
        return error / energy if energy > 0 else 0.0
