"""The contract of everything that yields images: a fixed list, read in batches as often as needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol, overload, runtime_checkable

import numpy as np
from torch import Tensor

from cnncompress.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Some images, ready for the network.

    Attributes:
        images: float32 (n, channels, height, width), preprocessed.
        indices: int64 (n,), the position of each image in the source's fixed list, whatever was skipped.
        labels: int64 (n,), or None where the source has none.
    """

    images: Tensor
    indices: Tensor
    labels: Tensor | None


class BadImage(NamedTuple):
    """An image that could not be read, and why."""

    key: str
    reason: str


@runtime_checkable
class ImageSource(Protocol):
    """A fixed list of images that can be read again and again in the same order."""

    def __len__(self) -> int:
        """Length of the fixed list, unreadable images included."""

    @property
    def hash(self) -> str:
        """SHA-256 in hexadecimal over the list, its labels included: equal lists, equal hash."""

    @property
    def has_labels(self) -> bool:
        """Whether every image has a class number."""

    @property
    def description(self) -> str:
        """What this is, one line for the report."""

    @property
    def keys(self) -> Sequence[str]:
        """What identifies each image: a file's resolved path, or a digest of a tensor's content."""

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Images that could not be read, in the order of the list; complete after a pass."""

    def batches(self, batch_size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Read images.

        Args:
            batch_size: images in a batch; the last one may hold fewer.
            order: positions in the list, those to read in this order; None for all in that of the list.

        Yields:
            Batches of the readable images.
        """


@runtime_checkable
class FindsBad(Protocol):
    """A source that finds out which images are bad while it reads them."""

    def note_bad(self, found: Sequence[BadImage]) -> None:
        """Learn of bad images that another process has found.

        Args:
            found: of this source's list.
        """


class Texts(Sequence[str]):
    """Texts that are made when they are asked for: a million keys would take hundreds of megabytes.

    Args:
        count: how many there are.
        text: from a position to the text.
    """

    def __init__(self, count: int, text: Callable[[int], str]) -> None:
        self._positions, self._text = range(count), text

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(map(self._text, self._positions[index]))
        return self._text(self._positions[index])


class View:
    """A source looked at in another way: the same list, which `batches` of a subclass reads.

    Args:
        source: the list.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @property
    def hash(self) -> str:
        """That of the source."""
        return self._source.hash

    @property
    def has_labels(self) -> bool:
        """Whether every image has a class number."""
        return self._source.has_labels

    @property
    def description(self) -> str:
        """What this is, one line for the report."""
        return self._source.description

    @property
    def keys(self) -> Sequence[str]:
        """What identifies each image."""
        return self._source.keys


class BadImages:
    """Counts unreadable images and stops the run when they are too many."""

    def __init__(self, *, total: int, allowed: float) -> None:
        self._total = total
        # rounded up: one broken file must not stop a run on thirty
        self._limit = int(np.ceil(allowed * total))
        self._found: dict[int, BadImage] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._found

    def add(self, index: int, key: str, reason: str) -> None:
        """Note one unreadable image.

        Args:
            index: its position in the list.
            key: what identifies it.
            reason: why it can't be read, a few words.

        Raises:
            DataError: more than the allowed share is unreadable, or all of them are.
        """
        self._found[index] = BadImage(key, reason)
        if len(self._found) > self._limit or len(self._found) == self._total:
            named = "; ".join(f"{bad.key} ({bad.reason})" for bad in self.listed()[:3])
            if len(self._found) == self._total:
                raise DataError(f"none of the {self._total} images can be read: {named}")
            raise DataError(
                f"{len(self._found)} of {self._total} images can't be read, more than the {self._limit} "
                f"allowed: {named}; remove or replace them, or allow a larger share"
            )

    def listed(self) -> tuple[BadImage, ...]:
        """All that were noted.

        Returns:
            In the order of the source's list.
        """
        return tuple(self._found[index] for index in sorted(self._found))


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size that isn't positive.

    Args:
        batch_size: images in a batch.

    Raises:
        DataError: it is below 1.
    """
    if batch_size < 1:
        raise DataError(f"a batch must hold at least 1 image, got {batch_size}")


def list_hash(entries: Iterable[str], labels: Sequence[int] | None) -> str:
    """Digest a list of images.

    Args:
        entries: one text per image that changes when the image does.
        labels: class numbers, or None.

    Returns:
        SHA-256 in hexadecimal; it depends on the order.
    """
    digest = sha256()
    for index, entry in enumerate(entries):
        label = "" if labels is None else str(labels[index])
        digest.update(f"{entry}\0{label}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def draw(total: int, limit: int | None, seed: int) -> list[int]:
    """Choose a fixed random sample.

    Samples of one seed are nested: the first 100 of 200 are those of a limit of 100.

    Args:
        total: number of images there are.
        limit: number of images wanted, in random order; None takes all, in their own order.
        seed: of the random order.

    Returns:
        Positions, at most ``limit`` of them.

    Raises:
        DataError: the limit is below 1.
    """
    if limit is None:
        return list(range(total))
    if limit < 1:
        raise DataError(f"the number of images must be at least 1, got {limit}")
    order = np.random.default_rng(seed).permutation(total)
    return [int(position) for position in order[:limit]]
