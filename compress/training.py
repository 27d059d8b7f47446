"""One loop that trains part of a network on a fixed list of images."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnncompress.image_source import ImageSource

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From a network's output, the images and their labels to a mean over the images."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the images, at most.
        learning_rate: of stochastic gradient descent.
        batch_size: images of one step.
        momentum: of the gradient.
        weight_decay: on all trained weights.
        seed: of the order of the images.
    """

    epochs: int = 5
    learning_rate: float = 1e-3
    batch_size: int = 32
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0


@dataclass(frozen=True)
class LabelledBatch:
    """Images that the network can read at once, and their labels if they have any."""

    images: Tensor
    labels: Tensor | None


class Images:
    """Part of a source's images, kept in memory where they fit.

    Args:
        source: the images.
        chosen: positions in the source's list.
        like: gives type and device.
        memory: bytes that kept images may take.
        layout: memory format of the images.
    """

    def __init__(
        self,
        source: ImageSource,
        chosen: Sequence[int],
        *,
        like: Tensor,
        memory: int,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self._source, self._chosen, self._like = source, frozenset(chosen), like
        self._layout = layout
        first = next(iter(source.batches(1))).images
        fits = first.numel() * first.element_size() * len(chosen) <= memory
        self._kept = list(self._read(1)) if fits else None

    def __len__(self) -> int:
        return len(self._chosen)

    def batches(self, size: int, order: torch.Generator | None = None) -> Iterator[LabelledBatch]:
        """The images in batches.

        Args:
            size: images in a batch.
            order: draws their order; None for that of the list, and so are images that don't fit memory.

        Yields:
            Batches.
        """
        if self._kept is None:
            yield from self._read(size)
            return
        count = len(self._kept)
        places = torch.randperm(count, generator=order).tolist() if order is not None else range(count)
        for first in range(0, count, size):
            taken = [self._kept[place] for place in places[first : first + size]]
            labels = [one.labels for one in taken if one.labels is not None]
            yield LabelledBatch(
                torch.cat([one.images for one in taken]), torch.cat(labels) if labels else None
            )

    def _read(self, size: int) -> Iterator[LabelledBatch]:
        for batch in self._source.batches(size):
            mine = torch.tensor([int(i) in self._chosen for i in batch.indices])
            if bool(mine.any()):
                images = batch.images[mine].to(self._like.device, self._like.dtype)
                labels = batch.labels[mine].to(self._like.device) if batch.labels is not None else None
                yield LabelledBatch(images.contiguous(memory_format=self._layout), labels)


def train(
    model: nn.Module,
    trained: Sequence[nn.Parameter],
    images: Images,
    loss: Loss,
    recipe: Recipe,
) -> Iterator[float]:
    """Stochastic gradient descent; the caller looks at the network after each epoch and may stop.

    Args:
        model: in the mode that it shall be trained in.
        trained: its parameters that change.
        images: to train on.
        loss: what to lower.
        recipe: how.

    Yields:
        The mean loss of each epoch; not a number as soon as a step's loss isn't finite, and then no more.
    """
    optimizer = torch.optim.SGD(
        trained, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    order = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        total = 0.0
        for batch in images.batches(recipe.batch_size, order):
            value = loss(model(batch.images), batch.images, batch.labels)
            if not bool(torch.isfinite(value)):
                yield math.nan
                return
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
            optimizer.step()
            total += float(value.detach()) * len(batch.images)
        yield total / len(images)
