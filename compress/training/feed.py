"""What each step of an epoch trains on, and which of it falls to this process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from cnncompress.distributed import World
from cnncompress.training.augmentation import Drawn
from cnncompress.training.images import Images, LabelledBatch
from cnncompress.training.reading import Read
from cnncompress.training.recipe import Recipe


@dataclass(frozen=True)
class Part:
    """What a process runs at once.

    Attributes:
        batch: its images.
        weight: what their mean loss counts, such that the mean over the processes, summed over the parts of
            a step, is the mean over the step's images.
        is_spread: whether the other processes run other images; else all run the same ones.
    """

    batch: LabelledBatch
    weight: float
    is_spread: bool


@dataclass(frozen=True)
class Step:
    """What the weights change by at once.

    Attributes:
        number: within the epoch, from 0.
        images: of all processes.
        parts: to be run one after the other, the same number in all processes.
    """

    number: int
    images: int
    parts: tuple[Part, ...]


class Feed:
    """The steps of an epoch.

    A step's batch is drawn as one process would draw it, and so is what may happen to its images; then each
    of n processes takes every n-th image. Where that leaves a process without any, all of them run all of it.

    Args:
        images: to train on.
        recipe: its batch size, accumulation, augmentation and seed.
        epoch: its number, from 0.
        world: the processes.
        first: step to begin with.
        state: what `state` returned after the step before that; None at the start of an epoch.
    """

    def __init__(
        self,
        images: Images,
        recipe: Recipe,
        epoch: int,
        world: World,
        *,
        first: int = 0,
        state: Tensor | None = None,
    ) -> None:
        self._images, self._recipe, self._world, self._first = images, recipe, world, first
        self._generator = torch.Generator().manual_seed(drawn_seed(recipe.seed, epoch))
        self._order = torch.randperm(len(images), generator=self._generator).tolist()
        if state is not None:
            self._generator.set_state(state)

    def state(self) -> Tensor:
        """How far the random draws are.

        Returns:
            State of their generator after the step that was given last.
        """
        return self._generator.get_state()

    def __iter__(self) -> Iterator[Step]:
        size, rank, count = self._recipe.batch_size, self._world.rank, self._world.size
        starts = range(self._first * size, len(self._order), size)
        plan = [self._parts(self._order[start : start + size]) for start in starts]
        reading = self._images.groups([part[rank::count] for parts in plan for part in parts])
        for number, parts in enumerate(plan, start=self._first):
            own = [next(reading) for _ in parts]
            yield self._step(number, parts, own)

    def _parts(self, batch: list[int]) -> list[list[int]]:
        # single images would leave BatchNorm nothing to compare
        count = max(1, min(self._recipe.accumulate, len(batch) // 2))
        bounds = [len(batch) * part // count for part in range(count + 1)]
        return [batch[start:stop] for start, stop in pairwise(bounds)]

    def _step(self, number: int, parts: Sequence[list[int]], own: Sequence[Read | None]) -> Step:
        counts = self._counts(own)
        total = int(counts.sum())
        ready: list[Part] = []
        drawn: Drawn | None = None
        offset = 0
        for places, share, found in zip(parts, own, counts, strict=True):
            spread = bool((found > 0).all())
            whole = not spread and bool(found.any())
            read = next(self._images.groups([places])) if whole else share
            if read is not None:
                drawn = drawn or self._draw(sum(map(len, parts)), read.batch.images)
                first, stride = (self._world.rank, self._world.size) if spread else (0, 1)
                slots = [offset + first + stride * slot for slot in read.slots]
                batch = self._prepared(read, drawn.of(slots))
                weight = len(batch.images) * (self._world.size if spread else 1) / total
                ready.append(Part(batch, weight, spread))
            offset += len(places)
        return Step(number, total, tuple(ready))

    def _counts(self, own: Sequence[Read | None]) -> Tensor:
        """Images of each part and process that could be read."""
        table = torch.zeros(len(own), self._world.size, dtype=torch.int64)
        table[:, self._world.rank] = torch.tensor([len(read.slots) if read else 0 for read in own])
        return self._world.sum(table)

    def _draw(self, count: int, pixels: Tensor) -> Drawn:
        have = (pixels.shape[-2], pixels.shape[-1])
        wanted = self._images.input_size(pixels)
        return self._recipe.augmentation.draw(count, have, wanted, self._generator)

    def _prepared(self, read: Read, drawn: Drawn) -> LabelledBatch:
        pixels = read.batch.images
        wanted = self._images.input_size(pixels)
        varied = self._recipe.augmentation.vary(pixels, wanted, drawn)
        return self._images.ready(varied, read.batch.labels)


def drawn_seed(*numbers: int) -> int:
    """A seed of a torch generator for one of many uses.

    Args:
        *numbers: the run's seed, and what tells the use from the others.

    Returns:
        63 bits.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
