"""Images and labels as they come out of the files .npz and .pt, and of data loaders."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from cnncompress.errors import DataError


def read_array_file(path: Path) -> tuple[Any, Any]:
    """Read images and labels from a file of arrays; nothing in it is executed.

    Args:
        path: ``.npz`` with ``images`` and perhaps ``labels``; or ``.pt`` with a tensor, a dictionary of
            these names, or a pair of images and labels.

    Returns:
        Images, and labels or None, as they are in the file.

    Raises:
        DataError: the file can't be read or has no images.
    """
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                content: Any = {key: arrays[key] for key in ("images", "labels") if key in arrays}
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (BadZipFile, OSError, ValueError, EOFError, KeyError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0][:160]
        raise DataError(f"{path}: can't be read ({reason or type(error).__name__})") from None
    except Exception as error:  # pickle.UnpicklingError and what else a foreign pickle provokes
        raise DataError(
            f"{path}: holds more than tensors ({type(error).__name__}); save tensors only"
        ) from None
    images, labels = images_and_labels(content)
    if images is None:
        raise DataError(f"{path}: no array named 'images' in it")
    return images, labels


def images_and_labels(content: Any) -> tuple[Any, Any]:
    """Take apart what a data loader or a file holds.

    Args:
        content: a dictionary with ``images`` (or ``image``) and perhaps ``labels`` (or ``label``), a pair of
            images and labels, a list of one, or the images themselves.

    Returns:
        Images (None where a dictionary has none), and labels or None.
    """
    if isinstance(content, dict):
        labels = content.get("labels", content.get("label"))
        return content.get("images", content.get("image")), labels
    if isinstance(content, list | tuple) and content:
        return content[0], (content[1] if len(content) > 1 else None)
    return content, None


def as_labels(labels: Any, *, name: str) -> list[int] | None:
    """Class numbers from whatever holds them.

    Args:
        labels: an integer, a tensor, array or sequence of integers (floats without fraction pass), or None.
        name: of the data in messages.

    Returns:
        The numbers, or None.

    Raises:
        DataError: they are not one class number per image.
    """
    if labels is None:
        return None
    try:
        values = np.atleast_1d(np.asarray(labels))
        numbers = values.astype(np.int64)
        fits = values.ndim == 1 and bool((numbers == values).all()) and bool((numbers >= 0).all())
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise DataError(f"{name}: labels must be one class number per image, from 0")
    return [int(number) for number in numbers]
