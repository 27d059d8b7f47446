"""Whatever holds images -> a fixed list that is read in batches, bad images skipped, counted and named."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cnncompress.array_files import as_labels, images_and_labels, read_array_file
from cnncompress.errors import DataError
from cnncompress.image_arrays import array_source
from cnncompress.image_batches import MEMORY_BYTES, iterable_source
from cnncompress.image_copies import check_disjoint
from cnncompress.image_decoding import SUFFIXES
from cnncompress.image_files import folder_source, has_images, paths_source
from cnncompress.image_loading import CACHE_BYTES
from cnncompress.image_source import BadImage, Batch, ImageSource
from cnncompress.map_images import is_map_style, map_source
from cnncompress.network import Preprocess
from cnncompress.shard_names import is_tar, shards_matching, shards_within
from cnncompress.tar_shards import tar_source

__all__ = ["BadImage", "Batch", "ImageSource", "Source", "check_disjoint", "open_source", "paths_source"]

Source = str | Path | ImageSource | Tensor | npt.NDArray[Any] | Iterable[Any]


def open_source(
    source: Source,
    *,
    preprocess: Preprocess | None,
    limit: int | None = None,
    seed: int = 0,
    labels: Path | None = None,
    categories: Sequence[str] = (),
    max_bad: float = 0.01,
    need_labels: bool = False,
    cache_bytes: int = CACHE_BYTES,
    memory_bytes: int = MEMORY_BYTES,
) -> ImageSource:
    """Open images of any kind; the list is fixed from here on.

    Args:
        source: a folder of images, or of class sub-folders with images; tar shards in webdataset's layout,
            as one file, a folder of them, or a pattern such as ``train-{000..146}.tar`` or ``val/*.tar``;
            a file ``.npz`` or ``.pt``; a tensor or array, or a pair or dictionary of ``images`` and
            ``labels``; a dataset with items by number; a list of PIL images, a DataLoader or any iterable of
            batches, which is read once and kept; or an image source, returned as it is. Floating-point
            images count as preprocessed, all others are resized, cropped and normalised.
        preprocess: of the network. None where it is to be told from the images: preprocessed ones may have
            any shape, all others are prepared as for ImageNet.
        limit: most images: a random sample by ``seed``, in random order; of an iterable, the first ones.
            None takes all in their own order.
        seed: of the sample.
        labels: for a folder or shards, a file of lines ``filename,label``, the label a class number or name.
        categories: the network's class names in the order of its outputs; empty if unknown.
        max_bad: largest share of images that may be unreadable, rounded up to whole images.
        need_labels: refuse a source without labels, or whose classes don't fit the network's.
        cache_bytes: most memory for decoded pixels of what can be read again (a folder, shards, a dataset);
            images beyond it are decoded in each pass.
        memory_bytes: most memory for the images of an iterable; those beyond it go to a temporary file.

    Returns:
        The source.

    Raises:
        DataError: nothing to read there, not readable, not fitting the network, or labels missing.
    """
    if isinstance(source, ImageSource):
        opened = source
    elif isinstance(source, str | Path) and not _is_array_file(source):
        opened = _stored(
            source,
            preprocess=preprocess or Preprocess(),
            limit=limit,
            seed=seed,
            labels=labels,
            categories=categories,
            max_bad=max_bad,
            need_labels=need_labels,
            cache_bytes=cache_bytes,
        )
    else:
        opened = _in_memory(
            source,
            preprocess=preprocess,
            limit=limit,
            seed=seed,
            max_bad=max_bad,
            cache_bytes=cache_bytes,
            memory_bytes=memory_bytes,
        )
    if need_labels and not opened.has_labels:
        raise DataError(
            f"{opened.description}: the class of each image is needed; "
            "give class sub-folders, a labels file, shards with .cls, or arrays 'images' and 'labels'"
        )
    return opened


def _is_array_file(source: str | Path) -> bool:
    path = Path(source).expanduser()
    return path.suffix.lower() in {".npz", ".pt", ".pth"} and path.is_file()


def _stored(source: str | Path, *, preprocess: Preprocess, **options: Any) -> ImageSource:
    path = Path(source).expanduser()
    shards: list[Path] = []
    if path.is_dir():
        shards = shards_within(path)
        if not shards or has_images(path):
            return folder_source(path, preprocess=preprocess, **options)
    elif path.exists():
        shards = [path] if is_tar(path) else []
    else:
        shards = shards_matching(str(path))
    if shards:
        return tar_source(shards, name=str(source), preprocess=preprocess, **options)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() in SUFFIXES:
        raise DataError(f"{path}: one image is too little; give the folder it is in")
    raise DataError(
        f"{path}: unknown kind of data; give a folder of images, a tar archive of them, or a file .npz or .pt"
    )


def _in_memory(
    source: Any,
    *,
    preprocess: Preprocess | None,
    limit: int | None,
    seed: int,
    max_bad: float,
    cache_bytes: int,
    memory_bytes: int,
) -> ImageSource:
    images, labels, name = _arrays(source)
    if images is not None:
        numbers = as_labels(labels, name=name)
        return array_source(
            images, numbers, preprocess=preprocess, limit=limit, seed=seed, name=name, max_bad=max_bad
        )
    common: dict[str, Any] = {
        "preprocess": preprocess,
        "limit": limit,
        "max_bad": max_bad,
        "memory_bytes": memory_bytes,
    }
    if is_map_style(source):
        return map_source(source, seed=seed, cache_bytes=cache_bytes, **common)
    return iterable_source(_iterable(source), **common)


def _arrays(source: Any) -> tuple[Any, Any, str]:
    """Whole arrays of images and labels if the source is some, else nothing; and its name."""
    name = f"the {type(source).__name__}"
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        return *read_array_file(path), str(path)
    if isinstance(source, Tensor | np.ndarray):
        return source, None, name
    if isinstance(source, dict) or (isinstance(source, tuple) and len(source) == 2):
        images, labels = images_and_labels(source)
        if isinstance(images, Tensor | np.ndarray):
            return images, labels, name
    return None, None, name


def _iterable(source: Any) -> Iterable[Any]:
    try:
        iter(source)
    except TypeError:
        raise DataError(f"can't read images from {type(source).__name__}; give a folder or batches") from None
    return source  # type: ignore[no-any-return]  # iter() has shown it
