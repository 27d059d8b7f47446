"""Folders and lists of image files."""

import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from cnncompress.errors import DataError
from cnncompress.image_decoding import SUFFIXES, UnreadableImageError, read_image
from cnncompress.image_labels import class_numbers, read_labels
from cnncompress.image_loading import CACHE_BYTES, THREADS, LoadedImages
from cnncompress.image_source import draw, list_hash
from cnncompress.network import Preprocess


class FileSource(LoadedImages):
    """Images decoded from files.

    The hash covers each file's path relative to the root, its size in bytes and its label: reading
    all of ImageNet to digest the content would take minutes, and times of change differ between copies.

    Args:
        paths: of the files, in the order of the list.
        names: of the files relative to the root, for the hash.
        labels: class numbers, or None.
        preprocess: from a decoded image to the network's input.
        description: one line for the report.
        max_bad: largest share of unreadable images, rounded up to whole images.
        threads: that decode; no influence on the result.
        cache_bytes: most memory for finished pixels.
    """

    def __init__(
        self,
        paths: Iterable[str],
        names: Iterable[str],
        labels: Sequence[int] | None,
        preprocess: Preprocess,
        *,
        description: str,
        max_bad: float,
        threads: int,
        cache_bytes: int,
    ) -> None:
        # text, not Path: for a million files that is a hundred megabytes instead of one gigabyte
        located: list[str] = []
        sizes = array("q")
        folders: dict[str, str] = {}
        for path in paths:
            file, size = _located(path, folders)
            located.append(file)
            sizes.append(size)
        self.sizes: Sequence[int] = sizes
        self._grey = len(preprocess.mean) == 1
        entries = (f"{name}\0{size}" for name, size in zip(names, sizes, strict=True))
        super().__init__(
            self._pixels,
            preprocess=preprocess,
            keys=located,
            labels=labels,
            hash=list_hash(entries, labels),
            description=description,
            max_bad=max_bad,
            threads=threads,
            cache_bytes=cache_bytes,
        )

    def content(self, position: int, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of one file.

        Args:
            position: in the list.
            start: first byte that is wanted.
            stop: the one after the last; None for the end.

        Returns:
            What is there, less at the end of the file.

        Raises:
            UnreadableImageError: the file can't be read.
        """
        try:
            with Path(self._keys[position]).open("rb") as file:
                file.seek(start)
                return file.read(-1 if stop is None else stop - start)
        except OSError as error:
            raise UnreadableImageError(f"can't be read ({error.strerror or error})") from None

    def _pixels(self, index: int) -> Tensor:
        return self._preprocess.pixels(read_image(Path(self._keys[index]), grey=self._grey))


def paths_source(
    paths: Sequence[Path],
    labels: Sequence[int] | None,
    preprocess: Preprocess,
    root: Path,
    *,
    description: str = "",
    max_bad: float = 0.01,
    threads: int = THREADS,
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
        map(str, paths),
        (relative_name(path, root) for path in paths),
        labels,
        preprocess,
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
    check_picture_channels(preprocess)
    found = sorted(_walk(folder))
    if not found:
        raise DataError(f"{folder}: no images in it ({', '.join(sorted(SUFFIXES))})")
    chosen = [found[position] for position in draw(len(found), limit, seed)]
    numbers, kind = None, "no labels"
    if labels is not None:
        numbers = read_labels(labels, chosen, categories)
        kind = f"labels of {labels.name}"
    elif all("/" in name for name in found):
        classes = {name.partition("/")[0] for name in found}
        try:
            by_name = class_numbers(list(classes), categories)
            numbers = [by_name[name.partition("/")[0]] for name in chosen]
            kind = f"{len(by_name)} class folders"
        except DataError as error:
            if need_labels:
                raise DataError(f"{folder}: {error}; or give a labels file") from None
            kind = f"no labels: {error}"
    count = f"{len(chosen)}" if len(chosen) == len(found) else f"{len(chosen)} of {len(found)}"
    return FileSource(
        (f"{folder}/{name}" for name in chosen),
        chosen,
        numbers,
        preprocess,
        description=f"{count} images of {folder} ({kind})",
        max_bad=max_bad,
        threads=THREADS,
        cache_bytes=cache_bytes,
    )


def has_images(folder: Path) -> bool:
    """Whether a folder holds images.

    Args:
        folder: to look in and below; hidden files and folders are passed over.

    Returns:
        True as soon as one is found.
    """
    return next(_walk(folder), None) is not None


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


def _walk(folder: Path) -> Iterator[str]:
    """Names of the images in a folder and below, relative to it, with forward slashes."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: can't be read ({error.strerror})") from None

    seen = {folder.resolve()}
    for parent, children, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(parent)
        # a link to a folder above would be walked for ever
        open_to_walk = sorted(name for name in children if not name.startswith("."))
        children[:] = [name for name in open_to_walk if (here / name).resolve() not in seen]
        seen.update((here / name).resolve() for name in children)
        below = relative_name(here, folder)
        prefix = "" if below == "." else f"{below}/"
        yield from (f"{prefix}{name}" for name in names if _is_image(name))


def _is_image(name: str) -> bool:
    stem, dot, ending = name.rpartition(".")
    return bool(stem) and not name.startswith(".") and dot + ending.lower() in SUFFIXES


def _located(path: str, folders: dict[str, str]) -> tuple[str, int]:
    """The resolved path and the size of a file; folders are resolved once each."""
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    file = folders[folder].rstrip(os.sep) + os.sep + name
    try:
        status = os.lstat(file)
        if stat.S_ISLNK(status.st_mode):
            file = os.path.realpath(file)
            status = os.lstat(file)
    except OSError:
        return file, -1  # vanished or forbidden: named when it is to be decoded
    return file, status.st_size
