"""Preprocessed images in one floating-point tensor."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnncompress.errors import DataError
from cnncompress.image_source import BadImage, BadImages, Batch, check_batch_size, list_hash
from cnncompress.network import Preprocess


class TensorSource:
    """Preprocessed images in one tensor; those with NaN or infinity are bad.

    Args:
        images: floating point (n, channels, height, width).
        labels: class numbers, or None.
        description: one line for the report.
        max_bad: largest share of bad images, rounded up to whole images.
    """

    def __init__(
        self, images: Tensor, labels: Sequence[int] | None, *, description: str, max_bad: float
    ) -> None:
        self._images = images
        self._labels = None if labels is None else torch.tensor(list(labels), dtype=torch.int64)
        self.description = description
        self.keys: Sequence[str] = tuple(content_key(image.to(torch.float32).numpy()) for image in images)
        self.hash = list_hash(self.keys, labels)
        self._bad = BadImages(total=len(images), allowed=max_bad)
        for index, image in enumerate(images):
            if not bool(torch.isfinite(image).all()):
                self._bad.add(index, f"image {index}", "holds NaN or infinity")
        self._good = torch.tensor([index for index in range(len(images)) if index not in self._bad])

    def __len__(self) -> int:
        return len(self._images)

    @property
    def has_labels(self) -> bool:
        """Whether every image has a class number."""
        return self._labels is not None

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Images that hold NaN or infinity."""
        return self._bad.listed()

    def batches(self, batch_size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Read images.

        Args:
            batch_size: images in a batch; the last one may hold fewer.
            order: positions in the list, those to read in this order; None for all in that of the list.

        Yields:
            Batches of the finite images.
        """
        check_batch_size(batch_size)
        good = self._good
        if order is not None:
            wanted = torch.as_tensor(order, dtype=torch.int64)
            good = wanted[torch.isin(wanted, self._good)]
        for indices in torch.split(good, batch_size):
            images = self._images[indices].to(torch.float32)
            yield Batch(images, indices, None if self._labels is None else self._labels[indices])


def as_tensor(images: Any, *, name: str) -> Tensor:
    """Look at an array as a tensor.

    Args:
        images: tensor or array.
        name: of the array in messages.

    Returns:
        A detached tensor that shares the memory where it can.

    Raises:
        DataError: it is no array of numbers.
    """
    if isinstance(images, np.ndarray) and not (images.flags.writeable and images.flags.c_contiguous):
        images = images.copy(order="C")  # torch warns of the one and refuses negative strides
    try:
        return torch.as_tensor(images).detach()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{name}: images must be one array of numbers, got {type(images).__name__}") from None


def check_preprocessed(images: Tensor, preprocess: Preprocess | None, *, name: str) -> None:
    """Refuse images that the network doesn't take.

    Args:
        images: (n, channels, height, width).
        preprocess: of the network; None admits every size and number of channels.
        name: of the array in messages.

    Raises:
        DataError: type or shape don't fit.
    """
    if not images.is_floating_point():
        raise DataError(f"{name}: images must be uint8 or floating point, got {images.dtype}")
    if preprocess is None:
        wanted = "(n, channels, height, width)"
        fits = images.ndim == 4
    else:
        shape = (len(preprocess.mean), *preprocess.crop)
        wanted = f"(n, {', '.join(map(str, shape))})"
        fits = tuple(images.shape[1:]) == shape
    if not fits:
        raise DataError(
            f"{name}: preprocessed images must have shape {wanted}, "
            f"got {tuple(images.shape)}; uint8 images are resized and normalised for you"
        )


def content_key(pixels: npt.NDArray[Any]) -> str:
    """Identify an image by what it shows.

    Args:
        pixels: any shape and type.

    Returns:
        A digest of shape, type and values.
    """
    digest = sha256(f"{pixels.dtype} {pixels.shape} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return f"sha256:{digest.hexdigest()}"
