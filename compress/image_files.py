"""Folders and lists of image files."""

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from cnncompress.errors import DataError
from cnncompress.image_decoding import SUFFIXES, read_image
from cnncompress.image_labels import class_numbers, read_labels
from cnncompress.image_loading import CACHE_BYTES, LoadedImages
from cnncompress.image_source import draw, list_hash
from cnncompress.network import Preprocess


class FileSource(LoadedImages):
    """Images decoded from files.

    The hash covers each file's path relative to the root, its size in bytes and its label: reading
    all of ImageNet to digest the content would take minutes, and times of change differ between copies.

    Args:
        paths: of the files, in the order of the list.
        labels: class numbers, or None.
        preprocess: from a decoded image to the network's input.
        root: the folder that the paths are named relative to.
        description: one line for the report.
        max_bad: largest share of unreadable images, rounded up to whole images.
        threads: that decode; no influence on the result.
        cache_bytes: most memory for finished pixels.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int] | None,
        preprocess: Preprocess,
        root: Path,
        *,
        description: str,
        max_bad: float,
        threads: int,
        cache_bytes: int,
    ) -> None:
        self.paths = tuple(paths)
        self.sizes = tuple(_size(path) for path in self.paths)
        self._grey = len(preprocess.mean) == 1
        named = [
            f"{relative_name(path, root)}\0{size}" for path, size in zip(self.paths, self.sizes, strict=True)
        ]
        super().__init__(
            self._pixels,
            preprocess=preprocess,
            keys=[str(path.resolve()) for path in self.paths],
            labels=labels,
            hash=list_hash(named, labels),
            description=description,
            max_bad=max_bad,
            threads=threads,
            cache_bytes=cache_bytes,
        )

    def _pixels(self, index: int) -> Tensor:
        return self._preprocess.pixels(read_image(self.paths[index], grey=self._grey))


def paths_source(
    paths: Sequence[Path],
    labels: Sequence[int] | None,
    preprocess: Preprocess,
    root: Path,
    *,
    description: str = "",
    max_bad: float = 0.01,
    threads: int = 2,
    cache_bytes: int = CACHE_BYTES,
) -> FileSource:
    """Open a list of image files.

    Args:
        paths: of the files, in the order of the list.
        labels: one class number per file, or None.
        preprocess: from a decoded image to the network's input.
        root: the folder that the paths are named relative to in the hash.
        description: one line for the report; by default the number of images and the root.
        max_bad: largest share of unreadable images, rounded up to whole images.
        threads: that decode; no influence on the result.
        cache_bytes: most memory for finished pixels.

    Returns:
        The source.

    Raises:
        DataError: the list is empty, the labels don't match it, or the network doesn't take pictures.
    """
    if not paths:
        raise DataError(f"{root}: the list of images is empty")
    if labels is not None and len(labels) != len(paths):
        raise DataError(f"{root}: {len(paths)} images but {len(labels)} labels; give one per image")
    check_picture_channels(preprocess)
    return FileSource(
        paths,
        labels,
        preprocess,
        root,
        description=description or f"{len(paths)} images of {root}",
        max_bad=max_bad,
        threads=threads,
        cache_bytes=cache_bytes,
    )


def folder_source(
    folder: Path,
    *,
    preprocess: Preprocess,
    limit: int | None,
    seed: int,
    labels: Path | None,
    categories: Sequence[str],
    max_bad: float,
    need_labels: bool = False,
    cache_bytes: int = CACHE_BYTES,
) -> FileSource:
    """Open a folder: images in class sub-folders, or all images found in it and below.

    Args:
        folder: to look in; hidden files and folders are passed over, links are followed.
        preprocess: from a decoded image to the network's input.
        limit: size of the random sample to draw; None takes all images in sorted order.
        seed: of the sample.
        labels: file of lines ``filename,label``; it has precedence over class sub-folders.
        categories: the network's class names; empty if unknown.
        max_bad: largest share of unreadable images.
        need_labels: refuse class sub-folders that don't fit the network's classes, instead of opening
            them without labels, as is right for calibration.
        cache_bytes: most memory for decoded pixels.

    Returns:
        The source.

    Raises:
        DataError: the folder can't be read or holds no images, or the labels don't fit.
    """
    found = _image_files(folder)
    chosen = [found[position] for position in draw(len(found), limit, seed)]
    numbers, kind = None, "no labels"
    if labels is not None:
        numbers = read_labels(labels, [relative_name(path, folder) for path in chosen], categories)
        kind = f"labels of {labels.name}"
    elif all(path.parent != folder for path in found):
        classes = [_class_name(path, folder) for path in found]
        try:
            by_name = class_numbers(classes, categories)
            numbers = [by_name[_class_name(path, folder)] for path in chosen]
            kind = f"{len(by_name)} class folders"
        except DataError as error:
            if need_labels:
                raise DataError(f"{folder}: {error}; or give a labels file") from None
            kind = f"no labels: {error}"
    count = f"{len(chosen)}" if len(chosen) == len(found) else f"{len(chosen)} of {len(found)}"
    description = f"{count} images of {folder} ({kind})"
    return paths_source(
        chosen,
        numbers,
        preprocess,
        folder,
        description=description,
        max_bad=max_bad,
        cache_bytes=cache_bytes,
    )


def check_picture_channels(preprocess: Preprocess) -> None:
    """Refuse pictures for a network that takes something else.

    Args:
        preprocess: of the network.

    Raises:
        DataError: the network takes neither grey nor RGB.
    """
    if len(preprocess.mean) not in {1, 3}:
        raise DataError(
            f"the network takes {len(preprocess.mean)} channels but image files have 1 or 3; "
            "give preprocessed float tensors (.npz or .pt)"
        )


def relative_name(path: Path, root: Path) -> str:
    """Name a file relative to a folder, the same on all systems.

    Args:
        path: of the file.
        root: the folder.

    Returns:
        With forward slashes; the path itself where it lies elsewhere.
    """
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _class_name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).parts[0]


def _image_files(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: can't be read ({error.strerror})") from None

    found: list[Path] = []
    seen = {folder.resolve()}
    for parent, children, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(parent)
        # a link to a folder above would be walked for ever
        open_to_walk = sorted(name for name in children if not name.startswith("."))
        children[:] = [name for name in open_to_walk if (here / name).resolve() not in seen]
        seen.update((here / name).resolve() for name in children)
        images = (name for name in names if Path(name).suffix.lower() in SUFFIXES)
        found += [here / name for name in images if not name.startswith(".")]
    if not found:
        raise DataError(f"{folder}: no images in it ({', '.join(sorted(SUFFIXES))})")
    return sorted(found, key=lambda path: relative_name(path, folder))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # vanished or forbidden: named when it is to be decoded
