"""Images to calibrate on when the user gives none: crops of two photographs, varied in many ways.

scikit-learn carries the two, so nothing is downloaded. Two photographs are a poor likeness of what a
network was trained on; crops at many scales, colours and arrangements make them a less poor one.
"""

import math
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.datasets import load_sample_images
from torch import Tensor

from cnncompress.errors import DataError
from cnncompress.image_files import check_picture_channels
from cnncompress.image_loading import LoadedImages
from cnncompress.image_source import list_hash
from cnncompress.network import Preprocess


@dataclass(frozen=True, kw_only=True)
class Variations:
    """How much the crops differ from one another.

    Attributes:
        smallest: side of the smallest crop, in pixels of the photograph; the largest is as high as it is.
        turns: probability of a rotation by 90, 180 or 270 degrees.
        channel_swaps: probability that the colour channels change places.
        hue: largest shift of the hue, as a share of the colour circle.
        saturation: largest relative change of the saturation.
        contrast: largest relative change of the contrast.
        brightness: largest relative change of the brightness.
        blur: largest radius of a Gaussian blur, in pixels of the finished crop.
        mosaics: probability that an image is made of 2 x 2 crops.
        blends: probability that a second crop shines through.
    """

    # chosen among some twenty mixes by how well their VGG-16 responses span those on other photographs
    smallest: int = 32
    turns: float = 0.75
    channel_swaps: float = 0.0
    hue: float = 0.0
    saturation: float = 0.2
    contrast: float = 0.2
    brightness: float = 0.2
    blur: float = 1.0
    mosaics: float = 0.5
    blends: float = 0.75


DEFAULT_VARIATIONS = Variations()


def photograph_crops(
    preprocess: Preprocess, count: int = 300, seed: int = 0, variations: Variations = DEFAULT_VARIATIONS
) -> LoadedImages:
    """Crops of the two photographs that ship with scikit-learn.

    Args:
        preprocess: of the network; the crops have its size and normalisation.
        count: number of crops.
        seed: crop i depends on the seed and on i alone.
        variations: how much the crops differ.

    Returns:
        A source without labels.

    Raises:
        DataError: there is to be no crop, or the network doesn't take pictures.
    """
    if count < 1:
        raise DataError(f"the number of crops must be at least 1, got {count}")
    check_picture_channels(preprocess)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    height, width = preprocess.crop
    grey = len(preprocess.mean) == 1

    def crop(index: int) -> Tensor:
        rng = np.random.default_rng((seed, index))
        image = _composition(photographs, (width, height), variations, rng)
        pixels = np.array(image.convert("L" if grey else "RGB"))
        return torch.from_numpy(pixels.reshape(height, width, -1).transpose(2, 0, 1).copy())

    options = ",".join(map(str, astuple(variations)))
    keys = [f"photograph-crop:{seed}/{index}:{width}x{height}:{options}" for index in range(count)]
    return LoadedImages(
        crop,
        preprocess=preprocess,
        keys=keys,
        labels=None,
        hash=list_hash(keys, None),
        description=f"{count} random crops of scikit-learn's two sample photographs",
    )


def _composition(
    photographs: list[Image.Image], size: tuple[int, int], options: Variations, rng: np.random.Generator
) -> Image.Image:
    # every number is drawn whether it is used or not, so that one option leaves the others' crops alone
    mosaic, blend = rng.random(2)
    weight = rng.uniform(0.3, 0.5)
    if mosaic < options.mosaics:
        image = _mosaic(photographs, size, options, rng)
    else:
        image = _crop(photographs, size, options, rng)
    if blend < options.blends:
        image = Image.blend(image, _crop(photographs, size, options, rng), weight)
    radius = rng.uniform(0, options.blur) if options.blur else 0.0
    return image.filter(ImageFilter.GaussianBlur(radius)) if radius > 0.3 else image


def _mosaic(
    photographs: list[Image.Image], size: tuple[int, int], options: Variations, rng: np.random.Generator
) -> Image.Image:
    width, height = size
    column, row = (max(1, round(side * rng.uniform(0.3, 0.7))) for side in size)
    canvas = Image.new("RGB", size)
    for left, right in ((0, column), (column, width)):
        for top, bottom in ((0, row), (row, height)):
            if right > left and bottom > top:
                tile = _crop(photographs, (right - left, bottom - top), options, rng)
                canvas.paste(tile, (left, top))
    return canvas


def _crop(
    photographs: list[Image.Image], size: tuple[int, int], options: Variations, rng: np.random.Generator
) -> Image.Image:
    photograph = photographs[rng.integers(len(photographs))]
    # log-uniform: as many crops twice as large as a given one as half as large
    largest = min(photograph.size)
    side = math.exp(rng.uniform(math.log(min(options.smallest, largest)), math.log(largest)))
    stretch = math.exp(rng.uniform(-0.2, 0.2)) * math.sqrt(size[0] / size[1])
    width = min(side * stretch, photograph.width)
    height = min(side / stretch, photograph.height)
    left = rng.uniform(0, photograph.width - width)
    top = rng.uniform(0, photograph.height - height)
    box = (left, top, left + width, top + height)
    image = photograph.resize(size, Image.Resampling.BICUBIC, box=box)
    return _recoloured(_turned(image, size, options, rng), options, rng)


def _turned(
    image: Image.Image, size: tuple[int, int], options: Variations, rng: np.random.Generator
) -> Image.Image:
    flip, turn = rng.random(2)
    angle = 90 * int(rng.integers(1, 4))
    if flip < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if turn < options.turns:
        image = image.rotate(angle, expand=True)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _recoloured(image: Image.Image, options: Variations, rng: np.random.Generator) -> Image.Image:
    saturation, contrast, brightness, hue = rng.uniform(-1, 1, 4)
    swap = rng.random()
    order = rng.permutation(3)
    if swap < options.channel_swaps:
        image = Image.merge("RGB", [image.getchannel(int(channel)) for channel in order])
    if options.hue:
        image = _hue_shifted(image, hue * options.hue)
    image = ImageEnhance.Color(image).enhance(1 + saturation * options.saturation)
    image = ImageEnhance.Contrast(image).enhance(1 + contrast * options.contrast)
    return ImageEnhance.Brightness(image).enhance(1 + brightness * options.brightness)


def _hue_shifted(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned: npt.NDArray[np.uint8] = np.asarray(hue) + np.uint8(round(shift * 256) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
