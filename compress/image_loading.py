"""Images that are made one by one when they are needed: decoded from files, or cropped from photographs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from cnncompress.image_decoding import UnreadableImageError
from cnncompress.image_source import BadImage, BadImages, Batch, check_batch_size
from cnncompress.network import Preprocess

CACHE_BYTES = 256 * 2**20
READ_AHEAD = 2  # batches
THREADS = 2


class LoadedImages:
    """An image source whose images a function makes, in threads, with a cache of finished pixels.

    The cache holds the resized and cropped pixels in 8 bits, a quarter of the network's input, and the
    normalisation is done anew for each batch: the result is the same to the bit with and without it.

    Args:
        load: from a position in the list to uint8 pixels (channels, height, width); it runs in threads and
            raises `UnreadableImageError` for a bad image.
        preprocess: its ``normalize`` turns pixels into the network's input.
        keys: what identifies each image.
        labels: class numbers, or None.
        hash: over the list.
        description: one line for the report.
        max_bad: largest share of unreadable images, rounded up to whole images.
        threads: that load images; no influence on the result.
        cache_bytes: most memory for finished pixels; images beyond it are loaded anew in each pass.
    """

    def __init__(
        self,
        load: Callable[[int], Tensor],
        *,
        preprocess: Preprocess,
        keys: Sequence[str],
        labels: Sequence[int] | None,
        hash: str,
        description: str,
        max_bad: float = 0.01,
        threads: int = THREADS,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._load = load
        self._preprocess = preprocess
        self._keys = tuple(keys) if isinstance(keys, list) else keys
        self._labels = None if labels is None else torch.tensor(list(labels), dtype=torch.int64)
        self._hash = hash
        self._description = description
        self._bad = BadImages(total=len(self._keys), allowed=max_bad)
        self._threads = threads
        self._cache: dict[int, Tensor] = {}
        self._cache_bytes_left = cache_bytes

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def hash(self) -> str:
        """SHA-256 over the list."""
        return self._hash

    @property
    def has_labels(self) -> bool:
        """Whether every image has a class number."""
        return self._labels is not None

    @property
    def description(self) -> str:
        """One line for the report."""
        return self._description

    @property
    def keys(self) -> Sequence[str]:
        """What identifies each image."""
        return self._keys

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Images that could not be read so far."""
        return self._bad.listed()

    def note_bad(self, found: Sequence[BadImage]) -> None:
        """Learn of bad images that another process has found; too many in all are a `DataError`.

        Args:
            found: of this source's list.
        """
        reasons = {image.key: image.reason for image in found}
        for index, key in enumerate(self._keys):
            if key in reasons and index not in self._bad:
                self._bad.add(index, key, reasons[key])

    def batches(self, batch_size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Load images.

        Args:
            batch_size: images in a batch; the last one may hold fewer.
            order: positions in the list, those to load in this order; None for all in that of the list.

        Yields:
            Batches of the readable images; a `DataError` ends it when too many can't be read.
        """
        check_batch_size(batch_size)
        wanted = range(len(self)) if order is None else order
        readable = self._readable(wanted, ahead=READ_AHEAD * batch_size)
        while chunk := list(islice(readable, batch_size)):
            indices = torch.tensor([index for index, _ in chunk], dtype=torch.int64)
            images = self._finished(torch.stack([pixels for _, pixels in chunk]))
            yield Batch(images, indices, None if self._labels is None else self._labels[indices])

    def _finished(self, pixels: Tensor) -> Tensor:
        """From what was loaded, stacked, to the network's input."""
        return self._preprocess.normalize(pixels)

    def _readable(self, wanted: Iterable[int], *, ahead: int) -> Iterator[tuple[int, Tensor]]:
        for index, pixels in self._in_order(wanted, ahead=ahead):
            try:
                finished = pixels if isinstance(pixels, Tensor) else pixels.result()
            except UnreadableImageError as error:
                self._bad.add(index, self._keys[index], str(error))
                continue
            self._remember(index, finished)
            yield index, finished

    def _in_order(
        self, wanted: Iterable[int], *, ahead: int
    ) -> Iterator[tuple[int, Tensor | Future[Tensor]]]:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="images")
        waiting: deque[tuple[int, Tensor | Future[Tensor]]] = deque()
        try:
            for index in wanted:
                if index in self._bad:
                    continue
                # the pool starts its threads on the first submit: a fully cached pass starts none
                cached = self._cache.get(index)
                waiting.append((index, pool.submit(self._load, index) if cached is None else cached))
                if len(waiting) > ahead:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _remember(self, index: int, pixels: Tensor) -> None:
        size = pixels.numel() * pixels.element_size()
        if index not in self._cache and size <= self._cache_bytes_left:
            self._cache[index] = pixels
            self._cache_bytes_left -= size
