"""Images that two sources have in common."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Protocol, runtime_checkable

import numpy as np

from cnncompress.errors import DataError
from cnncompress.image_decoding import UnreadableImageError
from cnncompress.image_source import ImageSource

_PROBE = 1024  # bytes


@runtime_checkable
class Stored(Protocol):
    """Images that lie in files, or within archives."""

    @property
    def sizes(self) -> Sequence[int]:
        """Bytes of each image, below 0 if unknown."""

    def content(self, position: int, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of one image, or a part of them; an `UnreadableImageError` if they can't be read."""


def check_disjoint(calibration: ImageSource, evaluation: ImageSource) -> None:
    """Refuse to evaluate on images that were calibrated on.

    Images are the same when their keys are (a file's resolved path, a tensor's values); and stored ones,
    in folders or in shards, when they agree byte for byte.

    Args:
        calibration: images that the compressed network is fitted to.
        evaluation: images that its accuracy is measured on.

    Raises:
        DataError: an image is in both.
    """
    known = set(calibration.keys)
    shared = [(key, key) for key in evaluation.keys if key in known]
    if not shared and isinstance(calibration, Stored) and isinstance(evaluation, Stored):
        pairs = _copies(calibration, evaluation)
        shared = [(evaluation.keys[one], calibration.keys[other]) for one, other in pairs]
    if shared:
        first, second = shared[0]
        counted = "1 image is" if len(shared) == 1 else f"{len(shared)} images are"
        named = first if first == second else f"{first} is {second}"
        raise DataError(
            f"{counted} in both the calibration and the evaluation data ({named}); "
            "the accuracy would flatter: remove them from one of the two"
        )


def _copies(calibration: Stored, evaluation: Stored) -> Iterator[tuple[int, int]]:
    """Positions in the evaluation and in the calibration, one pair for each image of the evaluation."""
    sizes = np.asarray(calibration.sizes, dtype=np.int64)
    by_size = np.argsort(sizes, kind="stable")
    ordered = sizes[by_size]
    ours, theirs = _Digests(calibration), _Digests(evaluation)
    for position, size in enumerate(evaluation.sizes):
        if size <= 0:
            continue
        # only images of one size can be copies, so that few are read
        first, last = np.searchsorted(ordered, size, "left"), np.searchsorted(ordered, size, "right")
        for candidate in by_size[first:last].tolist():
            if theirs.same(position, ours, candidate, int(size)):
                yield position, candidate
                break


class _Digests:
    """Digests of a source's images, each made once."""

    def __init__(self, source: Stored) -> None:
        self._source = source
        self._known: dict[tuple[int, int, int], bytes] = {}

    def same(self, position: int, other: "_Digests", candidate: int, size: int) -> bool:
        """Whether two images of one size agree: in a piece from their middle, then in all bytes."""
        middle = max(0, (size - _PROBE) // 2)
        for start, stop in ((middle, min(size, middle + _PROBE)), (0, size)):
            digest = self._digest(position, start, stop)
            if digest == b"" or digest != other._digest(candidate, start, stop):
                return False
        return True

    def _digest(self, position: int, start: int, stop: int) -> bytes:
        if (position, start, stop) not in self._known:
            try:
                content = self._source.content(position, start, stop)
                self._known[position, start, stop] = sha256(content).digest()
            except UnreadableImageError:
                self._known[position, start, stop] = b""  # skipped and named in the pass
        return self._known[position, start, stop]
