"""Images from any Python iterable: a DataLoader, a generator, a list of PIL images."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnncompress.array_files import as_labels, images_and_labels
from cnncompress.errors import DataError
from cnncompress.image_arrays import as_picture, channels_last
from cnncompress.image_loading import LoadedImages
from cnncompress.image_tensors import as_tensor, check_preprocessed
from cnncompress.network import Preprocess
from cnncompress.spool import Spool
from cnncompress.spooled_images import KeptPictures, KeptTensors, SpooledImages

MEMORY_BYTES = 2**30

One = tuple[Tensor | Image.Image, int | None]


def iterable_source(
    source: Iterable[Any],
    *,
    preprocess: Preprocess | None,
    limit: int | None,
    max_bad: float,
    name: str = "",
    memory_bytes: int = MEMORY_BYTES,
) -> SpooledImages | LoadedImages:
    """Keep the first images of an iterable.

    It is read once, so that a shuffling DataLoader and a one-shot generator give the same images in
    every pass too; nothing is read beyond the batch in which the limit is reached. What doesn't fit in
    memory goes to a temporary file.

    Args:
        source: of batches or single images: tensors, arrays or PIL images, each alone, paired with labels,
            or in a dictionary with ``images`` and perhaps ``labels``.
        preprocess: of the network; None as in `cnncompress.data.open_source`.
        limit: number of images to keep, the first ones; None keeps all.
        max_bad: largest share of bad images.
        name: of the source in messages; by default that of its class.
        memory_bytes: most memory for the images.

    Returns:
        The source.

    Raises:
        DataError: there are no images, they are of several kinds, don't fit the network, or don't fit on
            the disk.
    """
    name = name or f"the {type(source).__name__}"
    tensors = KeptTensors(Spool(name=name, memory_bytes=memory_bytes))
    pictures = KeptPictures(Spool(name=name, memory_bytes=memory_bytes), preprocess or Preprocess())
    labels: list[int] = []
    for image, number in islice(one_by_one(source, preprocess, name), limit):
        labels += [] if number is None else [number]
        if isinstance(image, Tensor):
            tensors.append(image)
        else:
            pictures.append(image)
        if tensors.keys and pictures.keys:
            raise DataError(f"{name}: some images are floating point, some are not; give one kind")
    count = len(tensors.keys) + len(pictures.keys)
    if not count:
        raise DataError(f"{name}: no images in it")
    if labels and len(labels) < count:
        raise DataError(f"{name}: {len(labels)} of {count} images have a label; give all or none")
    description = f"{count} images of {name}"
    kept = tensors if tensors.keys else pictures
    return kept.source(labels or None, description=description, max_bad=max_bad)


def one_by_one(source: Iterable[Any], preprocess: Preprocess | None, name: str) -> Iterator[One]:
    """Take batches apart.

    Args:
        source: of batches or single images, as for `iterable_source`.
        preprocess: of the network; None as in `cnncompress.data.open_source`.
        name: of the source in messages.

    Yields:
        A picture, or a preprocessed image as float32 (channels, height, width); and its class number or None.

    Raises:
        DataError: it holds something else, or the number of labels is wrong.
    """
    for item in source:
        images, labels = images_and_labels(item)
        numbers = as_labels(labels, name=name)
        batch = _batch(images, preprocess, name)
        if numbers is not None and len(numbers) != len(batch):
            raise DataError(
                f"{name}: a batch of {len(batch)} images has {len(numbers)} labels; give one per image"
            )
        for index, image in enumerate(batch):
            yield image, None if numbers is None else numbers[index]


def _batch(images: Any, preprocess: Preprocess | None, name: str) -> list[Tensor | Image.Image]:
    if isinstance(images, Image.Image):
        images.load()
        return [images]
    if not isinstance(images, Tensor | np.ndarray):
        raise DataError(f"{name}: expected tensors, arrays or PIL images, got {type(images).__name__}")
    tensor = as_tensor(images, name=name).cpu()
    tensor = tensor[None] if tensor.ndim == 3 else tensor
    if tensor.dtype == torch.uint8:
        return [
            as_picture(pixels)
            for pixels in channels_last(tensor.numpy(), preprocess or Preprocess(), name=name)
        ]
    check_preprocessed(tensor, preprocess, name=name)
    # copied: some loaders fill the same memory again
    return list(tensor.to(torch.float32, copy=True))
