"""Recipes by name: those of the papers, and short ones for the CPU."""

from dataclasses import dataclass, replace
from typing import Any

from cnncompress.errors import OptionError, unknown_name
from cnncompress.training.augmentation import Augmentation
from cnncompress.training.recipe import Recipe


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe and where it comes from.

    Attributes:
        recipe: its values.
        origin: one line: which of them a paper states, and where the others are from.
    """

    recipe: Recipe
    origin: str


RECIPES = {
    "short": NamedRecipe(
        Recipe(
            epochs=8,
            learning_rate=0.2,
            batch_size=128,
            nesterov=True,
            schedule="cosine",
            warmup=0.2,
            label_smoothing=0.05,
            clip_norm=5.0,
            augmentation=Augmentation(shift=2, flip=True),
        ),
        "of no paper: a few epochs with a warm-up and a cosine, for CPUs and small images",
    ),
    "sic": NamedRecipe(
        Recipe(
            epochs=100,
            learning_rate=0.1,
            batch_size=256,
            weight_decay=1e-4,
            decay_vectors=True,
            schedule="step",
            drops=(0.3, 0.6, 0.9),
            augmentation=Augmentation(flip=True, crop_resized=True),
        ),
        "Wang et al., Factorized Convolutional Neural Networks, section 3: rate .1, a tenth every 30 of 100 "
        "epochs, batches of 256, crops and flips; momentum and decay are those usual for ImageNet",
    ),
    "nin": NamedRecipe(
        Recipe(
            epochs=164,
            learning_rate=0.1,
            batch_size=128,
            weight_decay=1e-4,
            decay_vectors=True,
            schedule="step",
            drops=(0.5, 0.75),
            augmentation=Augmentation(shift=4, flip=True),
        ),
        "Ioannou et al., Deep Roots, section 4.1: 4-pixel padded crops and flips of 32 x 32 images, no "
        "dropout, 'as in' He et al., Deep Residual Learning, whose section 4.2 has the other values",
    ),
    "recover": NamedRecipe(
        Recipe(
            epochs=1,
            learning_rate=3e-3,
            batch_size=64,
            weight_decay=0.0,
            schedule="cosine",
            warmup=0.05,
            clip_norm=5.0,
            augmentation=Augmentation(shift=2, flip=True),
        ),
        "of no paper: one epoch with a short warm-up and a cosine, for a compressed network and some ten "
        "thousand images",
    ),
    "upper": NamedRecipe(
        Recipe(epochs=5),
        "of no paper: a rate of 1e-3 and batches of 32, for the layers above the compressed ones, which "
        "Denton et al. fine-tune without saying how",
    ),
    "finetune": NamedRecipe(
        Recipe(epochs=5, learning_rate=1e-5, batch_size=128, weight_decay=5e-4),
        "Zhang et al., Accelerating Very Deep Convolutional Networks, section 3.6: rate 1e-5, batches of "
        "128, 5 epochs; momentum and decay are those of VGG's training",
    ),
}


def usual_recipe(layers: str) -> str:
    """The recipe that is taken where none is named.

    Args:
        layers: that are fine-tuned: ``"upper"`` for those above the compressed ones, else all.

    Returns:
        A key of `RECIPES`.
    """
    return "upper" if layers == "upper" else "finetune"


def recipe(name: str, **changes: Any) -> Recipe:
    """A recipe by its name.

    Args:
        name: a key of `RECIPES`.
        **changes: fields of `Recipe` that differ; None leaves the recipe's own value.

    Returns:
        The recipe.

    Raises:
        OptionError: there is no such recipe, or a value is out of its range.
    """
    if name not in RECIPES:
        raise OptionError(unknown_name("recipe", name, RECIPES))
    return replace(
        RECIPES[name].recipe, **{key: value for key, value in changes.items() if value is not None}
    )
