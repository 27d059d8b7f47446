"""How long a pass waits for its images."""

import time
from collections.abc import Callable, Iterator, Sequence

from cnncompress.image_source import BadImage, Batch, FindsBad, ImageSource, View


class Watched(View):
    """An image source that counts its images and the seconds that are spent waiting for them.

    Only the time inside the source counts, not what its reader does with a batch before it asks for the next
    one. Where processes share a pass, it is this one that is dealt out: ``sharded(Watched(source), world)``.

    Args:
        source: to read from.
        clock: seconds from any fixed point in time.

    Attributes:
        images: that were read.
        waited: seconds that reading them took.
    """

    def __init__(self, source: ImageSource, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(source)
        self._clock = clock
        self._noted: dict[str, BadImage] = {}
        self.images, self.waited = 0, 0.0

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Images that could not be read, here or in another process."""
        own = self._source.bad
        known = {image.key for image in own}
        return (*own, *(image for key, image in self._noted.items() if key not in known))

    def note_bad(self, found: Sequence[BadImage]) -> None:
        """Learn of bad images that another process has found.

        Args:
            found: of this source's list.
        """
        if isinstance(self._source, FindsBad):
            self._source.note_bad(found)
        else:
            self._noted.update((image.key, image) for image in found)

    def reset(self) -> None:
        """Count from zero."""
        self.images, self.waited = 0, 0.0

    def batches(self, batch_size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Read images, and count.

        Args:
            batch_size: images in a batch; the last one may hold fewer.
            order: positions in the list, those to read in this order; None for all in that of the list.

        Yields:
            The batches of the source.
        """
        batches = self._source.batches(batch_size, order)
        try:
            while (batch := self._timed(batches)) is not None:
                self.images += len(batch.images)
                yield batch
        finally:
            close = getattr(batches, "close", None)
            if close is not None:  # an abandoned pass: the source's threads end at once
                close()

    def _timed(self, batches: Iterator[Batch]) -> Batch | None:
        begun = self._clock()
        try:
            return next(batches, None)
        finally:
            self.waited += self._clock() - begun
