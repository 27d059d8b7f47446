"""Part of a source's images, ready for the network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnncompress.distributed import ALONE, Shard, World
from cnncompress.errors import DataError
from cnncompress.image_source import Batch, ImageSource
from cnncompress.training.augmentation import centre
from cnncompress.training.reading import Read, read_groups


@dataclass(frozen=True)
class LabelledBatch:
    """Images that the network can read at once.

    Attributes:
        images: shape (n, channels, height, width), on the network's device.
        labels: class numbers on that device, or None where there are none.
    """

    images: Tensor
    labels: Tensor | None


class Images:
    """Part of a source's images.

    What is decoded stays in the source's own cache as far as it reaches; the order is random in any case.
    An image that can't be read makes its batch smaller and moves no other one, so that the batches are the
    same however many processes share them.

    Args:
        source: the images.
        chosen: positions in the source's list.
        like: gives type and device.
        layout: memory format of the images.
        classes: outputs of the network, which labels must fit; None leaves them unchecked.
        size: height and width that the network reads, where the source's images are larger; they are cut at
            random in training and in the centre otherwise.
    """

    def __init__(
        self,
        source: ImageSource,
        chosen: Sequence[int],
        *,
        like: Tensor,
        layout: torch.memory_format = torch.channels_last,
        classes: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._source, self._chosen, self._like = source, tuple(sorted(chosen)), like
        self._layout, self._classes, self._size = layout, classes, size

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def known_readable(self) -> int:
        """How many of them aren't known to be bad."""
        return len(set(self._chosen).intersection(readable(self._source)))

    def batches(self, size: int, world: World = ALONE) -> Iterator[LabelledBatch]:
        """The images in batches, in the order of the list; every n-th batch of n processes.

        Args:
            size: images in a batch.
            world: the processes that share the batches.

        Yields:
            Batches; a `DataError` ends it at a label that isn't a class of the network.
        """
        starts = range(size * world.rank, len(self), size * world.size)
        for read in self.groups([range(start, min(start + size, len(self))) for start in starts]):
            if read is not None:
                pixels = read.batch.images
                yield self.ready(centre(pixels, self.input_size(pixels)), read.batch.labels)

    def groups(self, places: Sequence[Sequence[int]]) -> Iterator[Read | None]:
        """Read groups of images.

        Args:
            places: positions among the chosen ones; each comes up once.

        Yields:
            What was read of each group, the images on the network's device and not cut yet; None where none
            of it can be read. A `DataError` ends it at a label that isn't a class of the network.
        """
        for read in read_groups(self._source, [[self._chosen[place] for place in group] for group in places]):
            if read is not None:
                self._check_labels(read.batch)
                pixels = read.batch.images.to(self._like.device, self._like.dtype)
                yield Read(read.slots, Batch(pixels, read.batch.indices, read.batch.labels))
            else:
                yield None

    def input_size(self, pixels: Tensor) -> tuple[int, int]:
        """Height and width that the network reads.

        Args:
            pixels: images of the source.

        Returns:
            That of the images, unless they are to be cut.
        """
        return self._size or (pixels.shape[-2], pixels.shape[-1])

    def ready(self, pixels: Tensor, labels: Tensor | None) -> LabelledBatch:
        """Bring images to the network's memory format.

        Args:
            pixels: cut, on the network's device.
            labels: theirs.

        Returns:
            The batch.
        """
        found = labels.to(self._like.device) if labels is not None else None
        return LabelledBatch(pixels.contiguous(memory_format=self._layout), found)

    def settle(self, world: World) -> None:
        """Tell all processes after a pass which images could not be read; too many are a `DataError`.

        Args:
            world: the processes that read them.
        """
        if not world.is_alone:
            Shard(self._source, world).settle()

    def check_any(self, count: int) -> None:
        """Refuse a pass that read nothing, in all processes alike.

        Args:
            count: images of the pass that could be used, those of all processes.

        Raises:
            DataError: there are none.
        """
        if not count:
            raise DataError(
                f"none of the {len(self)} images drawn for this from {self._source.description} can be used; "
                "remove those that can't be read, or give more"
            )

    def _check_labels(self, batch: Batch) -> None:
        if batch.labels is None or self._classes is None:
            return
        wrong = ((batch.labels < 0) | (batch.labels >= self._classes)).nonzero().flatten().tolist()
        if wrong:
            key = self._source.keys[int(batch.indices[wrong[0]])]
            raise DataError(
                f"{key}: its label is {int(batch.labels[wrong[0]])}, but the network has {self._classes} "
                f"classes, 0 to {self._classes - 1}; mend the labels, or train without them"
            )


def readable(source: ImageSource) -> list[int]:
    """Positions of the images that aren't known to be bad.

    Args:
        source: all its bad images are known after a pass.

    Returns:
        In the order of the list.
    """
    bad = {image.key for image in source.bad}
    return [position for position, key in enumerate(source.keys) if key not in bad]
