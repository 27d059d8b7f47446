"""Images in tar shards, read where they lie."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from cnncompress.errors import DataError
from cnncompress.image_decoding import SUFFIXES, UnreadableImageError, decode_image
from cnncompress.image_files import check_picture_channels
from cnncompress.image_labels import class_numbers, read_labels
from cnncompress.image_loading import CACHE_BYTES, THREADS, LoadedImages
from cnncompress.image_source import Texts, draw, list_hash
from cnncompress.network import Preprocess
from cnncompress.tar_index import TarIndex, read_index

_LARGEST = 2**29  # bytes of one image; more is damage, and would be held in memory


class TarSource(LoadedImages):
    """Images decoded from tar shards; the same to the bit as from the unpacked files.

    The hash covers each shard's file name, each image's name in it, its size in bytes and its label.

    Args:
        index: of the images, in the order of the list.
        labels: class numbers, or None.
        preprocess: from a decoded image to the network's input.
        description: one line for the report.
        max_bad: largest share of unreadable images, rounded up to whole images.
        threads: that decode; no influence on the result.
        cache_bytes: most memory for finished pixels.
    """

    def __init__(
        self,
        index: TarIndex,
        labels: Sequence[int] | None,
        preprocess: Preprocess,
        *,
        description: str,
        max_bad: float = 0.01,
        threads: int = THREADS,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._index = index
        self._grey = len(preprocess.mean) == 1
        shards = [str(shard.resolve()) for shard in index.shards]
        super().__init__(
            self._pixels,
            preprocess=preprocess,
            keys=Texts(len(index), lambda place: f"{shards[index.shard[place]]}/{index.name(place)}"),
            labels=labels,
            hash=list_hash(_entries(index), labels),
            description=description,
            max_bad=max_bad,
            threads=threads,
            cache_bytes=cache_bytes,
        )

    @property
    def sizes(self) -> Sequence[int]:
        """Bytes of each image."""
        sizes: Sequence[int] = self._index.size  # type: ignore[assignment]  # an array of them
        return sizes

    def content(self, position: int, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of one image as they are stored; any number of threads may ask at a time.

        Args:
            position: in the list.
            start: first byte that is wanted.
            stop: the one after the last; None for the end.

        Returns:
            What is stored there.

        Raises:
            UnreadableImageError: the shard is gone or has been cut, or the image is too large.
        """
        stop = int(self._index.size[position]) if stop is None else stop
        if stop - start > _LARGEST:
            raise UnreadableImageError(f"{stop - start} bytes are too many for one image")
        # opened anew for each: next to decoding it costs nothing, and open files are limited
        try:
            with self._index.shards[self._index.shard[position]].open("rb") as file:
                file.seek(int(self._index.offset[position]) + start)
                content: bytes = file.read(stop - start)
        except OSError as error:
            raise UnreadableImageError(f"the shard can't be read ({error.strerror or error})") from None
        if len(content) < stop - start:
            raise UnreadableImageError("the shard has been cut since it was opened")
        return content

    def _pixels(self, position: int) -> Tensor:
        content = self.content(position)
        if not content:
            raise UnreadableImageError("empty file")
        return self._preprocess.pixels(decode_image(io.BytesIO(content), grey=self._grey))


def tar_source(
    shards: Sequence[Path],
    *,
    name: str,
    preprocess: Preprocess,
    limit: int | None = None,
    seed: int = 0,
    labels: Path | None = None,
    categories: Sequence[str] = (),
    max_bad: float = 0.01,
    need_labels: bool = False,
    cache_bytes: int = CACHE_BYTES,
) -> TarSource:
    """Open tar shards; their headers are read once.

    Args:
        shards: uncompressed archives.
        name: what the user called them, for the description.
        preprocess: from a decoded image to the network's input.
        limit: size of the random sample to draw; None takes all images in their own order.
        seed: of the sample.
        labels: file of lines ``filename,label``; it has precedence over what the shards hold.
        categories: the network's class names; empty if unknown.
        max_bad: largest share of unreadable images.
        need_labels: refuse labels that are missing or don't fit, instead of opening the shards without.
        cache_bytes: most memory for decoded pixels.

    Returns:
        The source.

    Raises:
        DataError: a shard can't be read, there are no images, or the labels don't fit.
    """
    check_picture_channels(preprocess)
    found = read_index(shards)
    if not len(found):
        raise DataError(f"{name}: no images in it ({', '.join(sorted(SUFFIXES))})")
    positions = draw(len(found), limit, seed)
    chosen = found if limit is None else found.take(positions)
    if labels is None:
        table, kind = _class_table(found, categories, need_labels=need_labels, name=name)
        numbers = None if table is None else [table[label] for label in chosen.label.tolist()]
    else:
        numbers = read_labels(labels, Texts(len(chosen), chosen.name), categories)
        kind = f"labels of {labels.name}"
    count = f"{len(chosen)}" if len(chosen) == len(found) else f"{len(chosen)} of {len(found)}"
    shown = "1 shard" if len(shards) == 1 else f"{len(shards)} shards"
    samples = "1 sample" if found.without_image == 1 else f"{found.without_image} samples"
    passed = f", {samples} without an image passed over" if found.without_image else ""
    return TarSource(
        chosen,
        numbers,
        preprocess,
        description=f"{count} images of {name} ({shown}, {kind}{passed})",
        max_bad=max_bad,
        cache_bytes=cache_bytes,
    )


def _class_table(
    index: TarIndex, categories: Sequence[str], *, need_labels: bool, name: str
) -> tuple[list[int] | None, str]:
    """Class number by position in ``index.classes``, and what to say of them."""
    missing = np.flatnonzero(index.label < 0)
    if len(missing) == len(index):
        return None, "no labels"
    if len(missing):
        first = int(missing[0])
        shard = index.shards[index.shard[first]]
        which = f"the first is {index.name(first)} in {shard}"
        problem = f"{len(missing)} of {len(index)} images have no label, {which}"
        if need_labels:
            raise DataError(
                f"{name}: {problem}; each needs a file .cls, or a .json with a 'label', right beside it"
            )
        return None, f"no labels: {problem}"
    try:
        by_name = class_numbers(index.classes, categories)
    except DataError as error:
        if need_labels:
            raise DataError(f"{name}: {error}; or give a labels file") from None
        return None, f"no labels: {error}"
    return [by_name[label] for label in index.classes], f"{len(index.classes)} classes"


def _entries(index: TarIndex) -> Iterator[str]:
    for place, (shard, size) in enumerate(zip(index.shard.tolist(), index.size.tolist(), strict=True)):
        yield f"{index.shards[shard].name}\0{index.name(place)}\0{size}"
