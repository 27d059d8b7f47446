"""Random variants of training images, drawn by a generator of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2f

from cnncompress.errors import OptionError


@dataclass(frozen=True)
class Drawn:
    """What happens to each image of a batch.

    Attributes:
        corners: row and column where each one's crop begins, shape (2, n), or None without a crop.
        mirrored: truth values of shape (n,), or None where none is.
    """

    corners: Tensor | None
    mirrored: Tensor | None

    def of(self, places: Sequence[int]) -> "Drawn":
        """What happens to some of the images.

        Args:
            places: of these images in the batch.

        Returns:
            Their part.
        """
        return Drawn(
            None if self.corners is None else self.corners[:, list(places)],
            None if self.mirrored is None else self.mirrored[list(places)],
        )


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may happen to an image; each image of a batch draws for itself.

    Attributes:
        shift: pixels by which an image moves at most, up or down and left or right; what comes in is zero,
            which is the mean colour of normalised images. This is the random crop of a padded image.
        flip: mirror half of the images left to right.
        crop_resized: crop at random from the resized image instead of its centre, as is usual for ImageNet;
            only for networks whose preprocessing crops.
    """

    shift: int = 0
    flip: bool = False
    crop_resized: bool = False

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise OptionError(f"an image can't be shifted by {self.shift} pixels; give 0 or more")

    def draw(
        self, count: int, have: tuple[int, int], size: tuple[int, int], generator: torch.Generator
    ) -> Drawn:
        """Draw what happens to a batch, whoever runs its images.

        Args:
            count: images in it.
            have: their height and width.
            size: height and width of what the network reads; at most theirs.
            generator: on the CPU.

        Returns:
            The draws.
        """
        room = [length + 2 * self.shift - want for length, want in zip(have, size, strict=True)]
        corners = None
        if room != [0, 0]:
            corners = torch.stack([torch.randint(most + 1, (count,), generator=generator) for most in room])
        mirrored = torch.rand(count, generator=generator) < 0.5 if self.flip else None
        return Drawn(corners, mirrored)

    def vary(self, images: Tensor, size: tuple[int, int], drawn: Drawn) -> Tensor:
        """Make the drawn variant of each image.

        Args:
            images: normalised, shape (n, channels, height, width).
            size: height and width of what the network reads.
            drawn: for these images.

        Returns:
            Shape (n, channels, *size).
        """
        if drawn.corners is not None:
            images = _crops(v2f.pad(images, [self.shift]) if self.shift else images, size, drawn.corners)
        if drawn.mirrored is not None:
            chosen = drawn.mirrored.to(images.device)[:, None, None, None]
            images = torch.where(chosen, v2f.horizontal_flip(images), images)
        return images


def centre(images: Tensor, size: tuple[int, int]) -> Tensor:
    """What the network reads when nothing is random.

    Args:
        images: shape (n, channels, height, width).
        size: height and width of the crop.

    Returns:
        Shape (n, channels, *size).
    """
    if tuple(images.shape[-2:]) == size:
        return images
    cropped: Tensor = v2f.center_crop(images, list(size))
    return cropped


def _crops(images: Tensor, size: tuple[int, int], corners: Tensor) -> Tensor:
    # v2.RandomCrop would cut all images of a batch alike
    return torch.stack(
        [
            v2f.crop(image, top, left, *size)
            for image, top, left in zip(images.unbind(), *corners.tolist(), strict=True)
        ]
    )
