"""What a fine-tuning lowers, and what counts on the held-out images."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import nn

from cnncompress.errors import ModelError
from cnncompress.training.distill import Distillation, Distiller
from cnncompress.training.losses import Loss, by_labels, by_outputs
from cnncompress.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is lowered and what counts.

    Attributes:
        name: ``"labels"``, ``"original outputs"`` or ``"distillation: KIND"``.
        loss: what training lowers.
        judged: loss on the held-out images, never one that only distillation looks at.
        during: entered for each epoch anew, and left before anything is judged.
    """

    name: str
    loss: Loss
    judged: Loss
    during: AbstractContextManager[object]


def objective_of(
    original: nn.Module | None,
    model: nn.Module,
    recipe: Recipe,
    distill: Distillation | None,
    replaced: Sequence[str],
    *,
    has_labels: bool,
    has_scores: bool,
) -> Objective:
    """Choose by what there is.

    Args:
        original: in evaluation mode; None where it isn't at hand.
        model: that is trained.
        recipe: its smoothing of labels.
        distill: how the original teaches; None for the labels, or its outputs where there are none.
        replaced: names of the replaced layers.
        has_labels: whether the images have some.
        has_scores: whether the outputs are one score for each class.

    Returns:
        The objective.

    Raises:
        ModelError: the original is needed.
    """
    if distill is not None:
        if original is None:
            raise ModelError("distillation learns from the original network, which isn't at hand; give it")
        distiller = Distiller(original, model, replaced, distill, recipe.label_smoothing)
        judged = by_labels() if has_labels and has_scores else by_outputs(original)
        name = f"distillation: {distill.kind}"
        return Objective(name=name, loss=distiller.loss, judged=judged, during=distiller)
    if has_labels:
        smoothed = by_labels(recipe.label_smoothing)
        return Objective(name="labels", loss=smoothed, judged=by_labels(), during=nullcontext())
    if original is None:
        raise ModelError(
            "without labels the network learns from the original one, which isn't at hand; give it, or "
            "images with labels"
        )
    outputs = by_outputs(original)
    return Objective(name="original outputs", loss=outputs, judged=outputs, during=nullcontext())
