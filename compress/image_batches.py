"""Images from any Python iterable: a DataLoader, a dataset, a generator, a list of PIL images."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnncompress.array_files import as_labels, images_and_labels
from cnncompress.errors import DataError
from cnncompress.image_arrays import as_picture, channels_last, pictures_source
from cnncompress.image_loading import LoadedImages
from cnncompress.image_tensors import TensorSource, as_tensor, check_preprocessed, content_key
from cnncompress.network import Preprocess

MOST_BYTES = 8 * 2**30

One = tuple[Tensor | Image.Image, int | None]


def iterable_source(
    source: Iterable[Any], *, preprocess: Preprocess | None, limit: int | None, max_bad: float
) -> TensorSource | LoadedImages:
    """Keep the first images of an iterable in memory.

    It is read once, so that a shuffling DataLoader and a one-shot generator give the same images in
    every pass too; nothing is read beyond the batch in which the limit is reached.

    Args:
        source: of batches or single images: tensors, arrays or PIL images, each alone, paired with labels,
            or in a dictionary with ``images`` and perhaps ``labels``.
        preprocess: of the network; None as in `cnncompress.data.open_source`.
        limit: number of images to keep, the first ones; None keeps all.
        max_bad: largest share of bad images.

    Returns:
        The source.

    Raises:
        DataError: there are no images, they are of several kinds, don't fit the network, or need more
            than 8 GiB.
    """
    name = f"the {type(source).__name__}"
    images: list[Tensor | Image.Image] = []
    numbers: list[int | None] = []
    size = 0
    for image, number in islice(_one_by_one(source, preprocess, name), limit):
        images.append(image)
        numbers.append(number)
        size += image.nbytes if isinstance(image, Tensor) else image.width * image.height * 4
        if size > MOST_BYTES:
            raise DataError(
                f"{name}: more than {MOST_BYTES >> 30} GiB of images; give a limit, or a folder of files"
            )
    if not images:
        raise DataError(f"{name}: no images in it")
    labels = [number for number in numbers if number is not None]
    if labels and len(labels) < len(images):
        raise DataError(f"{name}: {len(labels)} of {len(images)} images have a label; give all or none")
    description = f"{len(images)} images of {name}"
    tensors = [image for image in images if isinstance(image, Tensor)]
    pictures = [image for image in images if isinstance(image, Image.Image)]
    if tensors and pictures:
        raise DataError(f"{name}: some images are floating point, some are not; give one kind")
    if tensors:
        shapes = {tuple(image.shape) for image in tensors}
        if len(shapes) > 1:
            raise DataError(f"{name}: preprocessed images must be of one shape, got {sorted(shapes)[:3]}")
        return TensorSource(torch.stack(tensors), labels or None, description=description, max_bad=max_bad)
    return pictures_source(
        pictures.__getitem__,
        [content_key(np.asarray(picture)) for picture in pictures],
        labels or None,
        preprocess=preprocess or Preprocess(),
        description=description,
        max_bad=max_bad,
    )


def _one_by_one(source: Iterable[Any], preprocess: Preprocess | None, name: str) -> Iterator[One]:
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
