"""Runs a network up to one layer after another without starting from the image each time.

The network is traced once. Values that are alive at a layer are kept for all images when they fit the
memory that was granted, and the next layer is reached from there; where they don't fit, they are
computed again from the last place where they did. Networks that can't be traced are run from the image
for each layer, stopping at it.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from cnncompress.image_source import ImageSource
from cnncompress.memory_layout import layout_of
from cnncompress.stepwise import Steps, Values, copied, size_of


class Prefix:
    """The part of a network before the layer that is looked at.

    Args:
        model: replaced in place, layer by layer, by the caller; this class only runs it.
        source: the images.
        batch_size: images run at a time.
        memory: bytes that kept values may take.
        processes: among which the images are dealt out.
    """

    def __init__(
        self, model: nn.Module, source: ImageSource, *, batch_size: int, memory: int, processes: int = 1
    ) -> None:
        self._model = model
        self._source = source
        self._batch_size = batch_size
        self._memory = memory
        self._processes = processes
        self._layout = layout_of(model)  # now: replacements don't tell
        self._steps = Steps.of(model)
        self._start = 0
        self._kept: list[tuple[Sequence[int], Values]] | None = None

    def inputs_of(self, name: str) -> Iterator[tuple[Sequence[int], Tensor]]:
        """What one layer reads, for all images.

        Layers must be asked for in the order in which they run, each one once, to its end.

        Args:
            name: of the layer.

        Yields:
            The positions of a batch's images in the list of all, and the layer's input.
        """
        if self._steps is None:
            yield from self._stopping_at(name)
            return
        stop = self._steps.place_of(name)
        assert stop is not None, f"{name} runs within another module"
        kept: list[tuple[Sequence[int], Values]] | None = None
        batches = -(-len(self._source) // (self._batch_size * self._processes))
        for place, (indices, values) in enumerate(self._states()):
            reached = self._advance(values, stop)
            yield indices, self._steps.input_of(stop, reached)
            if place == 0 and size_of(reached) * batches <= self._memory:
                kept = []
            if kept is not None:
                kept.append((indices, reached))
                if self._kept is not None:
                    self._kept[place] = (indices, {})  # not read again: make room
        if kept is not None:
            self._start, self._kept = stop, kept

    def _states(self) -> Iterator[tuple[Sequence[int], Values]]:
        """The kept values of each batch, or its images."""
        if self._kept is not None:
            for indices, values in self._kept:
                yield indices, dict(values)
            return
        for batch in self._source.batches(self._batch_size):
            images = self._ready(batch.images)
            assert self._steps is not None
            yield batch.indices.tolist(), self._steps.begun(images)

    def _ready(self, images: Tensor) -> Tensor:
        reference = next(self._model.parameters())
        return images.to(reference.device, reference.dtype, memory_format=self._layout)

    def _advance(self, values: Values, stop: int) -> Values:
        """Run the nodes from the kept place up to ``stop``; keep only what is used from there on."""
        assert self._steps is not None
        if self._kept is not None:
            # a function may write into its argument, and kept values are read again
            values = copied(values)
        return self._steps.advance(values, self._model, start=self._start, stop=stop)

    def _stopping_at(self, name: str) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Run whole forward passes that end at the layer."""
        caught: list[Tensor] = []

        def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            caught.append(inputs[0])
            raise _Reached

        handle = self._model.get_submodule(name).register_forward_pre_hook(stop)
        try:
            for batch in self._source.batches(self._batch_size):
                with torch.inference_mode(), suppress(_Reached):
                    self._model(self._ready(batch.images))
                yield batch.indices.tolist(), caught.pop()
        finally:
            handle.remove()


class _Reached(Exception):  # noqa: N818  # not an error: it ends a forward pass early
    """The layer has been reached."""
