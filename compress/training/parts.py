"""A batch in parts that fit memory."""

from dataclasses import replace
from math import ceil

from cnncompress.training.recipe import Recipe

PIXELS = 16 * 224 * 224
"""That are trained on at a time, all channels of a pixel being one: with VGG-16 some 3 GB."""


def in_parts(recipe: Recipe, input_size: tuple[int, int, int]) -> Recipe:
    """The same steps with less memory, where the network doesn't mix images: BatchNorm must be fixed.

    Args:
        recipe: of a training.
        input_size: channels, height and width of an image.

    Returns:
        The recipe, its batches run in so many parts that one holds at most `PIXELS`.
    """
    _, height, width = input_size
    parts = ceil(recipe.batch_size * height * width / PIXELS)
    return replace(recipe, accumulate=max(recipe.accumulate, min(parts, recipe.batch_size)))
