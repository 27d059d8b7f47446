"""Part of a source's images, in any order, ready for the network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnncompress.errors import DataError
from cnncompress.image_source import Batch, ImageSource
from cnncompress.training.augmentation import Augmentation, centre


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

    def batches(
        self,
        size: int,
        order: torch.Generator | None = None,
        augmentation: Augmentation | None = None,
    ) -> Iterator[LabelledBatch]:
        """The images in batches.

        Args:
            size: images in a batch.
            order: draws their order and their augmentation; None for the order of the list.
            augmentation: what may happen to them; needs ``order``.

        Yields:
            Batches; a `DataError` ends it at a label that isn't a class of the network.
        """
        places = torch.randperm(len(self._chosen), generator=order) if order is not None else None
        chosen = self._chosen if places is None else [self._chosen[place] for place in places.tolist()]
        for batch in self._source.batches(size, chosen):
            self._check_labels(batch)
            pixels = batch.images.to(self._like.device, self._like.dtype)
            wanted = self._size or (pixels.shape[-2], pixels.shape[-1])
            if augmentation is not None and order is not None:
                pixels = augmentation(pixels, wanted, order)
            else:
                pixels = centre(pixels, wanted)
            labels = batch.labels.to(self._like.device) if batch.labels is not None else None
            yield LabelledBatch(pixels.contiguous(memory_format=self._layout), labels)

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
