"""A network with what is needed to feed it: input size, preprocessing, where it came from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a PIL image to the network's input: resize, centre crop, scale to [0, 1], normalise.

    Attributes:
        resize: length of the shorter side after resizing, in pixels; None leaves the size alone.
        crop: height and width of the centre crop, in pixels.
        mean: per channel, on the [0, 1] scale.
        std: per channel, on the [0, 1] scale.
        interpolation: a name of `torchvision.transforms.InterpolationMode`'s values.
    """

    resize: int | None = 256
    crop: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"

    def __call__(self, image: Image.Image) -> Tensor:
        """Prepare one image.

        Args:
            image: any mode; one-channel networks get grey, all others RGB.

        Returns:
            Float32 of shape (channels, height, width).
        """
        return self.normalize(self.pixels(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """Resize and crop one image: all of the preprocessing that can be stored in 8 bits.

        Args:
            image: any mode; one-channel networks get grey, all others RGB.

        Returns:
            Uint8 of shape (channels, height, width).
        """
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        if self.resize is not None:
            image = tvf.resize(image, [self.resize], InterpolationMode(self.interpolation), antialias=True)
        image = tvf.center_crop(image, list(self.crop))
        pixels: Tensor = tvf.pil_to_tensor(image)
        return pixels

    def normalize(self, pixels: Tensor) -> Tensor:
        """Scale uint8 pixels to [0, 1], then subtract the mean and divide by the deviation.

        Args:
            pixels: uint8, shape (..., channels, height, width).

        Returns:
            Float32 of the same shape.
        """
        images: Tensor = tvf.normalize(pixels.to(torch.float32) / 255, list(self.mean), list(self.std))
        return images

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            A dictionary that `from_json` reads back.
        """
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Preprocess":
        """Read what `to_json` wrote.

        Args:
            value: the fields.

        Returns:
            The preprocessing.
        """
        return cls(
            resize=value["resize"],
            crop=(value["crop"][0], value["crop"][1]),
            mean=tuple(value["mean"]),
            std=tuple(value["std"]),
            interpolation=value["interpolation"],
        )


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network and what is needed to feed it.

    Attributes:
        name: as the user typed it, for example ``"vgg16"``.
        model: in eval mode; never changed by us.
        preprocess: from an image file to the model's input.
        features: name of the submodule whose output is the network's last feature map (``"features"``
            for VGG), compared in the report; None compares only the output.
        categories: class names in the order of the outputs; empty if unknown.
        source: JSON-able recipe that `cnncompress.models.rebuild` turns into the same architecture
            without weights; ``{"kind": "object"}`` when only the caller can rebuild it.
        weights: where the weights came from, one line for the report.
        notes: what the user must know, for example that the classifier is missing.
    """

    name: str
    model: nn.Module
    preprocess: Preprocess = field(default_factory=Preprocess)
    features: str | None = None
    categories: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=lambda: {"kind": "object"})
    weights: str = "the caller's"
    notes: tuple[str, ...] = ()

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        return (len(self.preprocess.mean), *self.preprocess.crop)
