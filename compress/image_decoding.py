"""From an image file to pixels, with PIL alone."""

import struct
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cnncompress.errors import DataError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
# named, because some of PIL's other readers start programs (Ghostscript) on what claims to be an image
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "PPM")
LONGEST_ASPECT = 50  # a 1 x 9000 strip would be scaled up to gigabytes


class UnreadableImageError(DataError):
    """One image can't be decoded; the message says why in a few words."""


def read_image(path: Path, *, grey: bool = False) -> Image.Image:
    """Decode the first frame of a file, upright.

    Args:
        path: of the file.
        grey: return mode ``L`` instead of ``RGB``.

    Returns:
        The image in mode ``RGB`` or ``L``.

    Raises:
        UnreadableImageError: missing, empty, truncated, not an image, too large, or of an unusable kind.
    """
    try:
        if path.stat().st_size == 0:
            raise UnreadableImageError("empty file")
        with path.open("rb") as file:
            return decode_image(file, grey=grey)
    except FileNotFoundError:
        raise UnreadableImageError("no such file") from None
    except OSError as error:
        raise UnreadableImageError(_reason(error)) from None


def decode_image(file: BinaryIO, *, grey: bool = False) -> Image.Image:
    """Decode the first frame of what a file holds, upright.

    Args:
        file: of bytes, at its beginning; it may be in memory.
        grey: return mode ``L`` instead of ``RGB``.

    Returns:
        The image in mode ``RGB`` or ``L``.

    Raises:
        UnreadableImageError: truncated, not an image, too large, or of an unusable kind.
    """
    try:
        Image.init()
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            _check_shape(image)
            image.load()
            return plain(image, grey=grey)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image") from None
    except Exception as error:  # decoders of broken files raise whatever comes up
        raise UnreadableImageError(_reason(error)) from None


def plain(image: Image.Image, *, grey: bool = False) -> Image.Image:
    """Bring an image of any mode to 8 bits, RGB or grey, upright; transparency is dropped.

    Args:
        image: any mode, loaded.
        grey: return mode ``L`` instead of ``RGB``.

    Returns:
        The image in mode ``RGB`` or ``L``.

    Raises:
        UnreadableImageError: the mode has no known range, or no conversion.
    """
    with suppress(OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error, Warning):
        image = ImageOps.exif_transpose(image)  # where EXIF data are broken the pixels are still fine
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif image.mode == "F":
        raise UnreadableImageError("floating-point pixels of unknown range; save it with 8 or 16 bits")
    elif image.mode in {"P", "PA", "LA", "La", "RGBa"}:
        image = image.convert("RGBA")  # straight to RGB would warn, or fail, where there is transparency
    try:
        return image.convert("L" if grey else "RGB")
    except ValueError:
        raise UnreadableImageError(f"pixels of mode {image.mode} can't be shown as RGB") from None


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImageError("32-bit pixels of unknown range; save it with 8 or 16 bits")
    # PIL's own conversion clips at 255 instead of scaling
    return Image.fromarray((values // 257).astype(np.uint8))


def _check_shape(image: Image.Image) -> None:
    width, height = image.size
    if max(width, height) > LONGEST_ASPECT * min(width, height):
        raise UnreadableImageError(f"{width} x {height} pixels are too narrow a strip")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:120] or type(error).__name__
