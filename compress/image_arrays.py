"""Images in memory: arrays of preprocessed images, or of pictures.

Floating-point images count as preprocessed. Integers of 8 bits are pictures: they are resized, cropped
and normalised exactly as if they had been decoded from a file.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cnncompress.errors import DataError
from cnncompress.image_decoding import plain
from cnncompress.image_files import check_picture_channels
from cnncompress.image_loading import LoadedImages
from cnncompress.image_source import draw, list_hash
from cnncompress.image_tensors import TensorSource, as_tensor, check_preprocessed, content_key
from cnncompress.network import Preprocess

Pixels = npt.NDArray[np.uint8]
PICTURE_CHANNELS = (1, 3, 4)


def array_source(
    images: Tensor | npt.NDArray[Any],
    labels: Sequence[int] | None,
    *,
    preprocess: Preprocess | None,
    limit: int | None,
    seed: int,
    name: str,
    max_bad: float,
) -> TensorSource | LoadedImages:
    """Open images in one array.

    Args:
        images: floating point (n, channels, height, width), preprocessed; or uint8 (n, height, width),
            (n, height, width, channels) or (n, channels, height, width).
        labels: class numbers, or None.
        preprocess: of the network; None as in `cnncompress.data.open_source`.
        limit: size of the random sample to draw; None takes all.
        seed: of the sample.
        name: of the array in messages.
        max_bad: largest share of bad images.

    Returns:
        The source.

    Raises:
        DataError: shape, type or labels don't fit.
    """
    tensor = as_tensor(images, name=name)
    if tensor.ndim < 3 or len(tensor) == 0:
        raise DataError(f"{name}: expected (n, channels, height, width), got shape {tuple(tensor.shape)}")
    if labels is not None and len(labels) != len(tensor):
        raise DataError(f"{name}: {len(tensor)} images but {len(labels)} labels; give one per image")
    positions = draw(len(tensor), limit, seed)
    count = f"{len(positions)}" if len(positions) == len(tensor) else f"{len(positions)} of {len(tensor)}"
    if limit is not None:
        tensor = tensor[positions]
        labels = None if labels is None else [labels[position] for position in positions]
    tensor = tensor.cpu()
    if tensor.dtype == torch.uint8:
        prepare = preprocess or Preprocess()
        pictures = channels_last(tensor.numpy(), prepare, name=name)
        return pictures_source(
            lambda index: as_picture(pictures[index]),
            [content_key(picture) for picture in pictures],
            labels,
            preprocess=prepare,
            description=f"{count} images of {name} (8 bits)",
            max_bad=max_bad,
        )
    check_preprocessed(tensor, preprocess, name=name)
    return TensorSource(
        tensor, labels, description=f"{count} images of {name} (preprocessed)", max_bad=max_bad
    )


def pictures_source(
    picture: Callable[[int], Image.Image],
    keys: Sequence[str],
    labels: Sequence[int] | None,
    *,
    preprocess: Preprocess,
    description: str,
    max_bad: float,
) -> LoadedImages:
    """Open pictures in memory.

    Args:
        picture: from a position in the list to an image of any mode.
        keys: a digest of each picture.
        labels: class numbers, or None.
        preprocess: of the network.
        description: one line for the report.
        max_bad: largest share of bad images.

    Returns:
        The source.
    """
    check_picture_channels(preprocess)
    grey = len(preprocess.mean) == 1
    return LoadedImages(
        lambda index: preprocess.pixels(plain(picture(index), grey=grey)),
        preprocess=preprocess,
        keys=keys,
        labels=labels,
        hash=list_hash(keys, labels),
        description=description,
        max_bad=max_bad,
    )


def channels_last(images: npt.NDArray[Any], preprocess: Preprocess, *, name: str) -> Pixels:
    """Bring 8-bit images to the layout of pictures.

    Args:
        images: uint8 (n, height, width), (n, height, width, channels) or (n, channels, height, width).
        preprocess: of the network; decides where both layouts are possible.
        name: of the array in messages.

    Returns:
        Uint8 (n, height, width) or (n, height, width, channels), not copied.

    Raises:
        DataError: neither layout has 1, 3 or 4 channels.
    """
    if images.ndim == 3:
        return images
    if images.ndim == 4:
        first, last = images.shape[1] in PICTURE_CHANNELS, images.shape[3] in PICTURE_CHANNELS
        if first and (not last or images.shape[1] == len(preprocess.mean)):
            return images.transpose(0, 2, 3, 1)
        if last:
            return images
    raise DataError(f"{name}: 8-bit images need 1, 3 or 4 channels, got shape {images.shape}")


def as_picture(pixels: Pixels) -> Image.Image:
    """Make a PIL image.

    Args:
        pixels: uint8 (height, width) or (height, width, 1, 3 or 4).

    Returns:
        The image in mode ``L``, ``RGB`` or ``RGBA``.
    """
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(flat))
