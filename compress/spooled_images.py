"""Images that were given once and are kept: in memory, or in a temporary file where they are many."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnncompress.image_decoding import UnreadableImageError, plain
from cnncompress.image_files import check_picture_channels
from cnncompress.image_loading import LoadedImages
from cnncompress.image_source import BadImage, BadImages, Batch, check_batch_size, list_hash
from cnncompress.image_tensors import content_key
from cnncompress.network import Preprocess
from cnncompress.spool import Spool


class SpooledImages:
    """Preprocessed images that a spool keeps.

    Args:
        spool: of float32 (channels, height, width).
        keys: a digest of each image.
        labels: class numbers, or None.
        bad: by position, why an image can't be used.
        description: one line for the report.
        max_bad: largest share of bad images, rounded up to whole images.
    """

    def __init__(
        self,
        spool: Spool,
        keys: Sequence[str],
        labels: Sequence[int] | None,
        bad: dict[int, str],
        *,
        description: str,
        max_bad: float,
    ) -> None:
        self._spool = spool
        self._labels = None if labels is None else torch.tensor(list(labels), dtype=torch.int64)
        self.description = description
        self.keys: Sequence[str] = tuple(keys)
        self.hash = list_hash(keys, labels)
        self._bad = BadImages(total=len(keys), allowed=max_bad)
        for index, reason in bad.items():
            self._bad.add(index, f"image {index}", reason)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def has_labels(self) -> bool:
        """Whether every image has a class number."""
        return self._labels is not None

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """Images that hold NaN or infinity."""
        return self._bad.listed()

    def batches(self, batch_size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Read images.

        Args:
            batch_size: images in a batch; the last one may hold fewer.
            order: positions in the list, those to read in this order; None for all in that of the list.

        Yields:
            Batches of the finite images.
        """
        check_batch_size(batch_size)
        wanted = range(len(self)) if order is None else order
        good = [int(index) for index in wanted if int(index) not in self._bad]
        for start in range(0, len(good), batch_size):
            chosen = good[start : start + batch_size]
            indices = torch.tensor(chosen, dtype=torch.int64)
            labels = None if self._labels is None else self._labels[indices]
            yield Batch(self._spool.read(chosen), indices, labels)


class KeptTensors:
    """Takes preprocessed images one by one.

    Args:
        spool: empty.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._bad: dict[int, str] = {}
        self.keys: list[str] = []

    def append(self, image: Tensor) -> None:
        """Keep one.

        Args:
            image: float32 (channels, height, width).
        """
        if not bool(torch.isfinite(image).all()):
            self._bad[len(self.keys)] = "holds NaN or infinity"
        self._spool.append(image)
        self.keys.append(content_key(image.numpy()))

    def source(self, labels: Sequence[int] | None, *, description: str, max_bad: float) -> SpooledImages:
        """All of them.

        Args:
            labels: class numbers, or None.
            description: one line for the report.
            max_bad: largest share of bad images.

        Returns:
            The source.
        """
        return SpooledImages(
            self._spool, self.keys, labels, self._bad, description=description, max_bad=max_bad
        )


class KeptPictures:
    """Takes pictures one by one and keeps the finished pixels: smaller than most originals, of one size.

    Args:
        spool: empty.
        preprocess: of the network.
    """

    def __init__(self, spool: Spool, preprocess: Preprocess) -> None:
        self._spool, self._preprocess = spool, preprocess
        self._bad: dict[int, str] = {}
        self.keys: list[str] = []

    def append(self, picture: Image.Image) -> None:
        """Keep one.

        Args:
            picture: of any mode, loaded.
        """
        check_picture_channels(self._preprocess)
        channels = len(self._preprocess.mean)
        try:
            pixels = self._preprocess.pixels(plain(picture, grey=channels == 1))
        except UnreadableImageError as error:
            self._bad[len(self.keys)] = str(error)
            pixels = torch.zeros(channels, *self._preprocess.crop, dtype=torch.uint8)
        self._spool.append(pixels)
        self.keys.append(content_key(np.asarray(picture)))

    def source(self, labels: Sequence[int] | None, *, description: str, max_bad: float) -> LoadedImages:
        """All of them.

        Args:
            labels: class numbers, or None.
            description: one line for the report.
            max_bad: largest share of bad images.

        Returns:
            The source.
        """
        spool, bad = self._spool, self._bad

        def load(position: int) -> Tensor:
            if position in bad:
                raise UnreadableImageError(bad[position])
            return spool.read([position])[0]

        return LoadedImages(
            load,
            preprocess=self._preprocess,
            keys=self.keys,
            labels=labels,
            hash=list_hash(self.keys, labels),
            description=description,
            max_bad=max_bad,
            threads=1,
            cache_bytes=0,
        )
