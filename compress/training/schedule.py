"""The learning rate as a function of what share of the run is done, so that nothing needs to be kept."""

from math import cos, pi

from cnncompress.training.recipe import Recipe


def learning_rate(recipe: Recipe, done: float) -> float:
    """The rate of the next step.

    Args:
        recipe: its highest rate and its schedule.
        done: share of the run's steps that were taken, from 0 to 1. In the warm-up the middle of the next
            step should be given, else its first step is wasted.

    Returns:
        At most ``recipe.learning_rate``; while warming up it rises linearly, after that it follows the
        schedule. A ``"cosine"`` covers what the warm-up leaves; the drops of a ``"step"`` schedule are
        counted from the start of the run.
    """
    if done < recipe.warmup:
        return recipe.learning_rate * done / recipe.warmup
    if recipe.schedule == "cosine":
        after = (done - recipe.warmup) / (1 - recipe.warmup)
        return recipe.learning_rate * (1 + cos(pi * after)) / 2
    dropped = sum(done >= share for share in recipe.drops) if recipe.schedule == "step" else 0
    return recipe.learning_rate * recipe.drop_factor**dropped
