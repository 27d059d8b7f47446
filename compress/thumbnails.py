"""Small pictures of images, as text that a page can hold."""

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from cnncompress.errors import CompressError
from cnncompress.image_source import ImageSource
from cnncompress.network import Preprocess

PREFIX = "data:image/jpeg;base64,"
_SIDE = 96  # pixels, at most
_QUALITY = 80
_BATCH = 4  # images read at a time
_OUTSIDE = 0.1  # beyond [0, 1], from which on the images didn't go through the preprocessing
_MODES = {1: "L", 3: "RGB"}


def thumbnails(source: ImageSource, indices: Sequence[int], preprocess: Preprocess) -> dict[int, str]:
    """Read some images once more and make small pictures of them.

    Args:
        source: of the images, as the network gets them.
        indices: their positions in the source.
        preprocess: what they went through.

    Returns:
        Data URIs of JPEG files by position. Images that can't be read any more or that are no pictures are
        missing: a report does without them.
    """
    found: dict[int, str] = {}
    try:
        for batch in source.batches(_BATCH, list(indices)) if indices else ():
            for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
                picture = thumbnail(image, preprocess)
                if picture is not None:
                    found[index] = picture
    except (CompressError, OSError):
        return found
    return found


def thumbnail(image: Tensor, preprocess: Preprocess) -> str | None:
    """One image as a small picture.

    Args:
        image: shape (channels, height, width), normalised.
        preprocess: what it went through. If it obviously didn't, its own range of values is shown.

    Returns:
        A data URI of a JPEG file of at most 96 pixels a side; None unless there are one or three channels
        of finite values.
    """
    channels = len(image)
    if channels not in _MODES or not bool(torch.isfinite(image).all()):
        return None
    values = image.detach().to("cpu", torch.float32)
    if len(preprocess.mean) == channels == len(preprocess.std):
        deviation, mean = (torch.tensor(part)[:, None, None] for part in (preprocess.std, preprocess.mean))
        values = values * deviation + mean
    low, high = float(values.min()), float(values.max())
    if low < -_OUTSIDE or high > 1 + _OUTSIDE:
        values = (values - low) / (high - low) if high > low else torch.full_like(values, 0.5)
    pixels = (255 * values.clamp(0, 1)).round().to(torch.uint8)
    array = pixels[0] if channels == 1 else pixels.permute(1, 2, 0)
    picture = Image.fromarray(array.contiguous().numpy(), _MODES[channels])
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return PREFIX + base64.b64encode(buffer.getvalue()).decode()
