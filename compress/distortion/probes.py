"""What the network's output really loses when one layer alone is replaced.

The part of the network before a layer runs once for all replacements that follow: its values are kept if
they fit the memory that was granted, else they are computed again from the images. Networks that can't be
traced run from the image for each replacement.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.distortion.frozen import frozen_copy
from cnncompress.distortion.output_loss import OutputLoss
from cnncompress.errors import DataError, NumericsError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.image_source import ImageSource
from cnncompress.memory_layout import layout_of
from cnncompress.stepwise import Steps, Values, copied, size_of

_MEMORY = 500_000_000


def probe_losses(
    original: nn.Module,
    replacements: Iterable[tuple[str, nn.Module]],
    source: ImageSource,
    *,
    only: Sequence[int],
    batch_size: int = 8,
    memory: int = _MEMORY,
    report: Reporter = silent,
) -> dict[str, float]:
    """The loss of the output with one layer replaced, for each of several replacements.

    Args:
        original: left as it was, run in evaluation mode.
        replacements: layers' names with what stands for them, in evaluation mode; taken one by one. Those in
            the order of execution take the least time.
        source: the images.
        only: positions in its list of the images to run; those that can't be read are left out.
        batch_size: images run at a time.
        memory: bytes that values before a layer may take; outputs are kept besides.
        report: receives the progress.

    Returns:
        For each name the loss of `OutputLoss`: nats of divergence for class scores, else a share of the
        output's energy.

    Raises:
        NumericsError: an output is NaN or infinite, or the original's is zero everywhere.
    """
    stage, begun = "probe", time.perf_counter()
    report(StageStarted(stage, None, "layers"))
    bench = _Bench(frozen_copy(original), source, only, batch_size=batch_size, memory=memory)
    losses: dict[str, float] = {}
    for name, module in replacements:
        loss = bench.loss(name, module)
        if not isfinite(loss):
            raise NumericsError(
                f"{name}: replaced alone, it makes the network's output hold NaN or infinity; "
                "check the weights and the preprocessing"
            )
        losses[name] = loss
        report(StageAdvanced(stage))
    report(StageDone(stage, time.perf_counter() - begun))
    return losses


class _Bench:
    """One network and its answers, on which layers are exchanged by turns."""

    def __init__(
        self, network: nn.Module, source: ImageSource, only: Sequence[int], *, batch_size: int, memory: int
    ) -> None:
        self._network, self._source, self._only = network, source, only
        self._batch_size, self._memory = batch_size, memory
        self._layout = layout_of(network)
        self._steps = Steps.of(network)
        self._start = 0
        self._kept: list[Values] | None = None
        with torch.inference_mode():
            self._expected = [(network(images.clone()), len(images)) for images in self._images()]
        if not self._expected:
            raise DataError(f"none of the images to probe could be read from {source.description}")
        self._loss = OutputLoss.of(self._expected[0][0])
        self._weight = sum(self._loss.weight(*answer) for answer in self._expected)
        if not self._weight > 0:
            raise NumericsError(
                "the network's output is zero or NaN on the images to probe; "
                "check the weights and the preprocessing"
            )

    def loss(self, name: str, module: nn.Module) -> float:
        """The loss with one layer replaced."""
        reference = next(self._network.parameters())
        module = module.to(reference.device, reference.dtype)
        place = self._steps.place_of(name) if self._steps is not None else None
        answers = (
            self._whole(name, module)
            if self._steps is None or place is None
            else self._from(self._steps, place, name, module)
        )
        total = sum(
            self._loss.total(expected, found, images)
            for (expected, images), found in zip(self._expected, answers, strict=True)
        )
        return total / self._weight

    def _from(self, steps: Steps, place: int, name: str, module: nn.Module) -> Iterator[Any]:
        """Outputs, of which only the part from the layer on is run for it."""
        if place < self._start:
            self._start, self._kept = 0, None
        kept: list[Values] | None = None
        for number, values in enumerate(self._states(steps)):
            reached = steps.advance(values, self._network, start=self._start, stop=place)
            if number == 0 and size_of(reached) * len(self._expected) <= self._memory:
                kept = []
            if kept is not None:
                kept.append(copied(reached))
                if self._kept is not None:
                    self._kept[number] = {}  # not read again: make room
            yield steps.finish(reached, self._network, start=place, swapped={name: module})
        if kept is not None:
            self._start, self._kept = place, kept

    def _states(self, steps: Steps) -> Iterator[Values]:
        """The kept values of each batch, or its images, free to be overwritten."""
        if self._kept is None:
            for images in self._images():
                yield steps.begun(images.clone())
            return
        for values in self._kept:
            yield copied(values)

    def _whole(self, name: str, module: nn.Module) -> Iterator[Any]:
        """Outputs of whole forward passes."""

        def replace(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            del layer, output
            return module(*inputs)

        handle = self._network.get_submodule(name).register_forward_hook(replace)
        try:
            for images in self._images():
                with torch.inference_mode():
                    answer = self._network(images.clone())
                yield answer
        finally:
            handle.remove()

    def _images(self) -> Iterator[Tensor]:
        reference = next(self._network.parameters())
        for batch in self._source.batches(self._batch_size, self._only):
            yield batch.images.to(reference.device, reference.dtype, memory_format=self._layout)
