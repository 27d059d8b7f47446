"""Whatever holds images -> a fixed list that is read in batches, bad images skipped, counted and named."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cnncompress.array_files import as_labels, images_and_labels, read_array_file
from cnncompress.errors import DataError
from cnncompress.image_arrays import array_source
from cnncompress.image_batches import iterable_source
from cnncompress.image_decoding import SUFFIXES
from cnncompress.image_files import FileSource, folder_source, paths_source
from cnncompress.image_loading import CACHE_BYTES
from cnncompress.image_source import BadImage, Batch, ImageSource
from cnncompress.network import Preprocess

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
) -> ImageSource:
    """Open images of any kind; the list is fixed from here on.

    Args:
        source: a folder of images, or of class sub-folders with images; a file ``.npz`` or ``.pt``;
            a tensor or array, or a pair or dictionary of ``images`` and ``labels``; a list of PIL images;
            a DataLoader, dataset or any iterable of batches, which is read once and kept in memory; or an
            image source, returned as it is. Floating-point images count as preprocessed, all others are
            resized, cropped and normalised.
        preprocess: of the network. None where it is to be told from the images: preprocessed ones may have
            any shape, all others are prepared as for ImageNet.
        limit: most images: a random sample by ``seed``, in random order; of an iterable, the first ones.
            None takes all in their own order.
        seed: of the sample.
        labels: for a folder, a file of lines ``filename,label``, the label a class number or name.
        categories: the network's class names in the order of its outputs; empty if unknown.
        max_bad: largest share of images that may be unreadable, rounded up to whole images.
        need_labels: refuse a source without labels, or whose classes don't fit the network's.
        cache_bytes: of a folder: most memory for decoded pixels; images beyond it are decoded in each pass.

    Returns:
        The source.

    Raises:
        DataError: nothing to read there, not readable, not fitting the network, or labels missing.
    """
    opened = _open(source, preprocess, limit, seed, labels, categories, max_bad, need_labels, cache_bytes)
    if need_labels and not opened.has_labels:
        raise DataError(
            f"{opened.description}: the class of each image is needed; "
            "give class sub-folders, a labels file, or arrays 'images' and 'labels'"
        )
    return opened


def check_disjoint(calibration: ImageSource, evaluation: ImageSource) -> None:
    """Refuse to evaluate on images that were calibrated on.

    Files are the same when their resolved paths are, or their content; tensors when their values are.

    Args:
        calibration: images that the compressed network is fitted to.
        evaluation: images that its accuracy is measured on.

    Raises:
        DataError: an image is in both.
    """
    known = set(calibration.keys)
    shared = [(key, key) for key in evaluation.keys if key in known]
    if not shared and isinstance(calibration, FileSource) and isinstance(evaluation, FileSource):
        shared = list(_copies(calibration, evaluation))
    if shared:
        first, second = shared[0]
        counted = "1 image is" if len(shared) == 1 else f"{len(shared)} images are"
        named = first if first == second else f"{first} is {second}"
        raise DataError(
            f"{counted} in both the calibration and the evaluation data ({named}); "
            "the accuracy would flatter: remove them from one of the two"
        )


def _open(
    source: Source,
    preprocess: Preprocess | None,
    limit: int | None,
    seed: int,
    labels: Path | None,
    categories: Sequence[str],
    max_bad: float,
    need_labels: bool,
    cache_bytes: int,
) -> ImageSource:
    if isinstance(source, ImageSource):
        return source
    name = f"the {type(source).__name__}"
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir():
            return folder_source(
                path,
                preprocess=preprocess or Preprocess(),
                limit=limit,
                seed=seed,
                labels=labels,
                categories=categories,
                max_bad=max_bad,
                need_labels=need_labels,
                cache_bytes=cache_bytes,
            )
        images, numbers = _file_content(path)
        name = str(path)
    else:
        images, numbers = _in_memory(source)
    if images is None:
        return iterable_source(_iterable(source), preprocess=preprocess, limit=limit, max_bad=max_bad)
    return array_source(
        images,
        as_labels(numbers, name=name),
        preprocess=preprocess,
        limit=limit,
        seed=seed,
        name=name,
        max_bad=max_bad,
    )


def _file_content(path: Path) -> tuple[Any, Any]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() in {".npz", ".pt", ".pth"}:
        return read_array_file(path)
    if path.suffix.lower() in SUFFIXES:
        raise DataError(f"{path}: one image is too little; give the folder it is in")
    raise DataError(f"{path}: unknown kind of data; give a folder of images, or a file .npz or .pt")


def _in_memory(source: Any) -> tuple[Any, Any]:
    # whole arrays if the source is some, else nothing
    if isinstance(source, Tensor | np.ndarray):
        return source, None
    if isinstance(source, dict) or (isinstance(source, tuple) and len(source) == 2):
        images, labels = images_and_labels(source)
        if isinstance(images, Tensor | np.ndarray):
            return images, labels
    return None, None


def _iterable(source: Any) -> Iterable[Any]:
    try:
        iter(source)
    except TypeError:
        raise DataError(f"can't read images from {type(source).__name__}; give a folder or batches") from None
    return source  # type: ignore[no-any-return]  # iter() has shown it


def _copies(calibration: FileSource, evaluation: FileSource) -> Iterator[tuple[str, str]]:
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for path, size in zip(calibration.paths, calibration.sizes, strict=True):
        by_size[size].append(path)
    digests: dict[Path, str] = {}
    for path, size in zip(evaluation.paths, evaluation.sizes, strict=True):
        # only files of one size can be copies, so that few are read
        for candidate in by_size.get(size, ()) if size > 0 else ():
            if _digest(path, digests) == _digest(candidate, digests) != "":
                yield str(path), str(candidate)
                break


def _digest(path: Path, known: dict[Path, str]) -> str:
    if path not in known:
        try:
            with path.open("rb") as file:
                known[path] = file_digest(file, "sha256").hexdigest()
        except OSError:
            known[path] = ""  # unreadable: skipped and named in the pass
    return known[path]
