"""Datasets whose items are read by their number: a torch ``Dataset`` and whatever behaves like one."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from cnncompress.errors import DataError
from cnncompress.image_batches import MEMORY_BYTES, One, iterable_source, one_by_one
from cnncompress.image_decoding import UnreadableImageError, plain
from cnncompress.image_files import check_picture_channels
from cnncompress.image_loading import CACHE_BYTES, LoadedImages
from cnncompress.image_source import ImageSource, Texts, draw, list_hash
from cnncompress.image_tensors import content_key
from cnncompress.network import Preprocess

_PROBES = 8


class MapImages(LoadedImages):
    """Images of a dataset, each read when it is needed; labels come with them.

    What the list holds can't be told without reading all of it. Its hash and keys cover the dataset's class,
    its length, the content of up to eight of its items and each image's number.

    Args:
        dataset: with ``len()`` and items by number; one thread at a time asks it.
        positions: which of its items.
        example: one of them.
        fingerprint: digest of some of them.
        preprocess: of the network; None as in `cnncompress.data.open_source`.
        max_bad: largest share of items that can't be read, rounded up to whole images.
        cache_bytes: most memory for finished images; those beyond it are read anew in each pass.
    """

    def __init__(
        self,
        dataset: Any,
        positions: Sequence[int],
        example: One,
        fingerprint: str,
        *,
        preprocess: Preprocess | None,
        max_bad: float,
        cache_bytes: int,
    ) -> None:
        self._dataset, self._positions, self._given = dataset, positions, preprocess
        self._lock = threading.Lock()
        image, number = example
        self._shape = tuple(image.shape) if isinstance(image, Tensor) else None
        name, total = name_of(dataset), len(dataset)
        count = f"{len(positions)}" if len(positions) == total else f"{len(positions)} of {total}"
        keys = Texts(len(positions), lambda place: f"{name} {fingerprint} of {total}: {positions[place]}")
        super().__init__(
            self._loaded,
            preprocess=preprocess or Preprocess(),
            keys=keys,
            labels=None,
            hash=list_hash(keys, None),
            description=f"{count} images of {name}",
            max_bad=max_bad,
            threads=1,
            cache_bytes=cache_bytes,
        )
        if number is not None:
            self._labels = torch.full((len(positions),), -1, dtype=torch.int64)
        if self._shape is None:
            check_picture_channels(self._preprocess)

    def _loaded(self, place: int) -> Tensor:
        with self._lock:  # a dataset needn't bear several threads
            image, number = taken(self._dataset, self._positions[place], self._given)
        if self._labels is not None:
            if number is None:
                raise UnreadableImageError("has no label, unlike others")
            self._labels[place] = number
        if isinstance(image, Tensor):
            if tuple(image.shape) != self._shape:
                raise UnreadableImageError(f"preprocessed, of shape {tuple(image.shape)}, unlike others")
            if not bool(torch.isfinite(image).all()):
                raise UnreadableImageError("holds NaN or infinity")
            return image
        if self._shape is not None:
            raise UnreadableImageError("not preprocessed, unlike others")
        return self._preprocess.pixels(plain(image, grey=len(self._preprocess.mean) == 1))

    def _finished(self, pixels: Tensor) -> Tensor:
        return pixels if self._shape is not None else super()._finished(pixels)


def map_source(
    dataset: Any,
    *,
    preprocess: Preprocess | None,
    limit: int | None,
    seed: int,
    max_bad: float,
    cache_bytes: int = CACHE_BYTES,
    memory_bytes: int = MEMORY_BYTES,
) -> ImageSource:
    """Open a dataset of single images or of batches.

    Some of its items are read twice. Where these differ, as they do with random augmentation, all are read
    once and kept, as are the batches of a dataset of batches.

    Args:
        dataset: as `is_map_style` recognises it.
        preprocess: of the network; None as in `cnncompress.data.open_source`.
        limit: size of the random sample to draw; None takes all. Of batches, number of the first images.
        seed: of the sample.
        max_bad: largest share of bad images.
        cache_bytes: most memory for images that can be read again.
        memory_bytes: most memory for those that can't; a temporary file holds the rest.

    Returns:
        The source.

    Raises:
        DataError: it is empty, or none of some of its items can be read.
    """
    name, total = name_of(dataset), len(dataset)
    if total == 0:
        raise DataError(f"{name}: no images in it")
    positions: Sequence[int] = range(total) if limit is None else draw(total, limit, seed)
    kept: dict[str, Any] = {
        "preprocess": preprocess,
        "max_bad": max_bad,
        "name": name,
        "memory_bytes": memory_bytes,
    }
    probes = sorted({int(place) for place in np.linspace(0, total - 1, _PROBES)})
    try:
        found = _readable(dataset, probes, preprocess, name)
        again = _readable(dataset, probes, preprocess, name)
    except BatchesError:
        return iterable_source((dataset[place] for place in range(total)), limit=limit, **kept)
    digests = [_digest(one) for one in found]
    if digests != [_digest(one) for one in again]:
        return iterable_source((dataset[place] for place in positions), limit=None, **kept)
    return MapImages(
        dataset,
        positions,
        found[0],
        sha256("\n".join(digests).encode()).hexdigest()[:16],
        preprocess=preprocess,
        max_bad=max_bad,
        cache_bytes=cache_bytes,
    )


def is_map_style(source: Any) -> bool:
    """Whether something has a length and items by number, and is no plain list.

    Args:
        source: anything.

    Returns:
        True for a torch ``Dataset`` and the like.
    """
    if isinstance(source, list | tuple | str | bytes | Mapping | IterableDataset):
        return False
    if not hasattr(type(source), "__getitem__"):
        return False
    with suppress(TypeError, NotImplementedError):
        return len(source) >= 0
    return False


def taken(dataset: Any, place: int, preprocess: Preprocess | None) -> One:
    """Read one item.

    Args:
        dataset: to read from.
        place: of the item.
        preprocess: of the network; None as in `cnncompress.data.open_source`.

    Returns:
        A picture or a preprocessed image, and its class number or None.

    Raises:
        UnreadableImageError: reading fails, or the item is no image.
        BatchesError: the item is several images.
    """
    try:
        found = list(one_by_one([dataset[place]], preprocess, f"item {place}"))
    except Exception as error:  # a dataset is anybody's code
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UnreadableImageError(reason) from None
    if len(found) != 1:
        raise BatchesError("a batch, not an image")
    return found[0]


def name_of(dataset: Any) -> str:
    """What a dataset is called in messages.

    Args:
        dataset: anything.

    Returns:
        After its class.
    """
    return f"the {type(dataset).__name__}"


class BatchesError(UnreadableImageError):
    """An item holds several images."""


def _readable(dataset: Any, places: Sequence[int], preprocess: Preprocess | None, name: str) -> list[One]:
    found: list[One] = []
    reason = ""
    for place in places:
        try:
            found.append(taken(dataset, place, preprocess))
        except BatchesError:
            raise
        except UnreadableImageError as error:
            reason = reason or str(error)
    if not found:
        raise DataError(f"{name}: none of items {', '.join(map(str, places))} can be read: {reason}")
    return found


def _digest(one: One) -> str:
    image, number = one
    return f"{content_key(np.asarray(image))} {number}"
