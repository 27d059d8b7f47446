"""Reading a source's images in given groups, so that an unreadable one leaves a gap and moves no other."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch

from cnncompress.image_source import Batch, ImageSource


class Read(NamedTuple):
    """What could be read of a group.

    Attributes:
        slots: which of the images that were asked for, in rising order.
        batch: these images.
    """

    slots: list[int]
    batch: Batch


def read_groups(source: ImageSource, groups: Sequence[Sequence[int]]) -> Iterator[Read | None]:
    """Read groups of images in one pass, so that the source can read ahead.

    Args:
        source: the images.
        groups: positions in the source's list; a position comes up once.

    Yields:
        What was read of each group; None where there is nothing in it.
    """
    wanted = [position for group in groups for position in group]
    size = max(map(len, groups), default=0)
    stream = _numbered(source, wanted, size) if wanted else iter(())
    held: Read | None = None
    start = 0
    for stop in accumulate(map(len, groups)):
        taken: list[Read] = []
        while held := held or next(stream, None):
            inside, held = _cut(held, stop)
            if inside is not None:
                taken.append(inside)
            if held is not None or (inside is not None and inside.slots[-1] == stop - 1):
                break
        yield _joined(taken, start) if taken else None
        start = stop


def _numbered(source: ImageSource, wanted: Sequence[int], size: int) -> Iterator[Read]:
    """Batches with the places of their images among those wanted; the source has left out the bad ones."""
    place = -1
    for batch in source.batches(size, wanted):
        places = []
        for index in batch.indices.tolist():
            place += 1
            while wanted[place] != index:
                place += 1
            places.append(place)
        if places:
            yield Read(places, batch)


def _cut(read: Read, stop: int) -> tuple[Read | None, Read | None]:
    cut = bisect_left(read.slots, stop)
    if cut == len(read.slots):
        return read, None
    if cut == 0:
        return None, read
    return _part(read, slice(cut)), _part(read, slice(cut, None))


def _part(read: Read, part: slice) -> Read:
    images, indices, labels = read.batch.images, read.batch.indices, read.batch.labels
    return Read(
        read.slots[part], Batch(images[part], indices[part], None if labels is None else labels[part])
    )


def _joined(taken: Sequence[Read], start: int) -> Read:
    slots = [slot - start for read in taken for slot in read.slots]
    batches = [read.batch for read in taken]
    if len(batches) == 1:
        return Read(slots, batches[0])
    labels = [batch.labels for batch in batches if batch.labels is not None]
    joined = Batch(
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.indices for batch in batches]),
        torch.cat(labels) if labels else None,
    )
    return Read(slots, joined)
