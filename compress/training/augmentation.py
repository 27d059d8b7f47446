"""Random variants of training images, drawn by a generator of one's own."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2f

from cnncompress.errors import OptionError


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

    def __call__(self, images: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw a variant of each image.

        Args:
            images: normalised, shape (n, channels, height, width).
            size: height and width of what the network reads; at most that of the images.
            generator: on the CPU.

        Returns:
            Shape (n, channels, *size).
        """
        padded = v2f.pad(images, [self.shift]) if self.shift else images
        images = _crops(padded, size, generator)
        if self.flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            chosen = mirrored.to(images.device)[:, None, None, None]
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


def _crops(images: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    room = [have - want for have, want in zip(images.shape[-2:], size, strict=True)]
    if room == [0, 0]:
        return images
    # v2.RandomCrop would cut all images of a batch alike
    tops, lefts = (torch.randint(most + 1, (len(images),), generator=generator).tolist() for most in room)
    return torch.stack(
        [
            v2f.crop(image, top, left, *size)
            for image, top, left in zip(images.unbind(), tops, lefts, strict=True)
        ]
    )
