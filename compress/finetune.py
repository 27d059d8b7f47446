"""Fine-tuning of a compressed network, until the drop on held-out images is recovered.

``upper`` trains the layers above the compressed ones (Denton et al., sections 1 and 5): these stay as they
were solved, and what lies above learns to work with what they deliver. ``all`` trains the compressed ones too
(Zhang et al., section 3.6). Layers run as in evaluation: no dropout, BatchNorm fixed.
"""

import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.errors import ModelError, NumericsError, OptionError, unknown_name
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.folding import copy_sharing_weights
from cnncompress.gather import held_out_images
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo
from cnncompress.memory_layout import layout_of
from cnncompress.training.images import Images, readable
from cnncompress.training.loop import Trainer
from cnncompress.training.losses import Verdict, by_labels, by_outputs, judge
from cnncompress.training.recipe import Recipe

_NOTHING = 1e-6  # loss that rounding alone can cause


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What fine-tuning did.

    Attributes:
        layers: that were trained.
        objective: ``"labels"``, or ``"original outputs"`` where there are none.
        epochs: that were run.
        kept: epoch whose weights were kept: of those that aren't less often right on the held-out images than
            the start, the one with the lowest loss; 0 for the weights before.
        history: mean loss on held-out images before and after each epoch.
        accuracies: percent of them that were right before and after each epoch; empty without labels.
        target: that loss of the original network; 0 where its own outputs are the objective.
        target_accuracy: of the original network, percent; None without labels.
        images: trained on.
        held_out: images that judged.
        note: why it ended.
    """

    layers: tuple[str, ...]
    objective: str
    epochs: int
    kept: int
    history: tuple[float, ...]
    accuracies: tuple[float, ...]
    target: float
    target_accuracy: float | None
    images: int
    held_out: int
    note: str

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            One entry for each field.
        """
        return asdict(self)


def trained_layers(which: str, replaced: Sequence[str], layers: Sequence[LayerInfo]) -> tuple[str, ...]:
    """The layers that fine-tuning trains.

    Args:
        which: ``"upper"`` or ``"all"``.
        replaced: names of the replaced layers.
        layers: of the network, in the order of execution.

    Returns:
        Their names.

    Raises:
        OptionError: a name is none of a layer that runs.
        ModelError: there are none, or no layer was replaced.
    """  # noqa: DOC502  # raised by layers_above
    if which == "upper":
        return layers_above(replaced, layers)
    return tuple(layer.name for layer in layers if 0 not in layer.output_size)


def layers_above(replaced: Sequence[str], layers: Sequence[LayerInfo]) -> tuple[str, ...]:
    """The layers that run after the last replaced one.

    Args:
        replaced: names of the replaced layers.
        layers: of the network, in the order of execution.

    Returns:
        Their names.

    Raises:
        OptionError: a name is none of a layer that runs.
        ModelError: there are none, or no layer was replaced.
    """
    ran = [layer.name for layer in layers if 0 not in layer.output_size]
    if not replaced:
        raise ModelError("no layer was replaced, so there is nothing above to fine-tune; replace some first")
    for name in replaced:
        if name not in ran:
            raise OptionError(unknown_name("layer", name, ran))
    last = max(ran.index(name) for name in replaced)
    if last + 1 == len(ran):
        raise ModelError(
            f"{ran[last]}: no layer is left above it to fine-tune; replace fewer layers with --only or --skip"
        )
    return tuple(ran[last + 1 :])


def finetune_layers(
    original: nn.Module,
    compressed: nn.Module,
    *,
    chosen: Sequence[str],
    source: ImageSource,
    recipe: Recipe,
    holdout: float = 0.2,
    report: Reporter = silent,
) -> tuple[nn.Module, Finetuned]:
    """Train some layers of a compressed network.

    Args:
        original: gives the target, and the outputs to reproduce where there are no labels; left as it was.
        compressed: left as it was.
        chosen: layers to train, see `trained_layers`.
        source: images, with labels or without.
        recipe: how to train.
        holdout: share of the images that judge.
        report: receives the progress.

    Returns:
        A copy with the best weights that were seen on held-out images, those before included, and what was
        done.

    Raises:
        DataError: a label is no class of the network, or there are fewer than two images.
        ModelError: labels can't train such outputs, or a layer shares weights with one that stays.
        NumericsError: an output is NaN or infinite before training.
        OptionError: the layers have no weights.
    """  # noqa: DOC502  # some are raised by what is called
    stage, begun = "finetune", time.perf_counter()
    report(StageStarted(stage, recipe.epochs, "epochs"))
    model, trained = _with_own_weights(compressed, chosen)
    original = copy_sharing_weights(original).eval()
    fitted, held_out = _split(original, source, holdout, recipe.seed)
    loss = by_labels() if source.has_labels else by_outputs(original)
    target = judge(original, held_out, loss, recipe.batch_size)
    start = judge(model, held_out, loss, recipe.batch_size)
    _check_finite(target, start)

    found = [start]
    best, kept = _copies(trained), 0
    note = "nothing is lost at the start on the held-out images, so nothing was trained"
    if not start.reaches(target, tolerance=_NOTHING):
        note = "all epochs were run"
        trainer = Trainer(model, trained, fitted, loss, recipe)
        for epoch in range(1, recipe.epochs + 1):
            mean = trainer.run_epoch()
            report(StageAdvanced(stage))
            verdict = judge(model, held_out, loss, recipe.batch_size)
            if not (math.isfinite(mean) and math.isfinite(verdict.loss)):
                note = f"the loss became infinite or NaN in epoch {epoch}; lower the learning rate"
                break
            found.append(verdict)
            if verdict.loss < found[kept].loss and not verdict.is_less_often_right(start):
                best, kept = _copies(trained), epoch
            if kept == epoch and verdict.reaches(target):
                note = "the drop is recovered on the held-out images"
                break
        if kept == 0:
            note += "; nothing was better than the start, which is kept"
    with torch.no_grad():
        for parameter, state in zip(trained, best, strict=True):
            parameter.copy_(state)
    report(StageDone(stage, time.perf_counter() - begun))
    return _as_before(model, compressed), Finetuned(
        layers=tuple(chosen),
        objective="labels" if source.has_labels else "original outputs",
        epochs=len(found) - 1,
        kept=kept,
        history=tuple(verdict.loss for verdict in found),
        accuracies=tuple(verdict.accuracy for verdict in found if verdict.accuracy is not None),
        target=target.loss,
        target_accuracy=target.accuracy,
        images=len(fitted),
        held_out=len(held_out),
        note=note,
    )


def _split(original: nn.Module, source: ImageSource, holdout: float, seed: int) -> tuple[Images, Images]:
    """Images to fit and images that judge."""
    positions = readable(source)
    judges = held_out_images(positions, share=holdout, seed=seed)
    like, layout = next(original.parameters()), layout_of(original)
    first = next(iter(Images(source, positions[:1], like=like, layout=layout).batches(1))).images
    with torch.inference_mode():
        output = original(first)
    classes = output.shape[1] if output.ndim == 2 else None
    fitted, held_out = (
        Images(source, part, like=like, layout=layout, classes=classes)
        for part in ([i for i in positions if i not in judges], sorted(judges))
    )
    return fitted, held_out


def _check_finite(target: Verdict, start: Verdict) -> None:
    for network, verdict in (("original", target), ("compressed", start)):
        if not math.isfinite(verdict.loss):
            raise NumericsError(
                f"fine-tuning: the {network} network's outputs are NaN or infinite already, before any "
                f"training (held-out loss {verdict.loss}); look for the layer or the image that causes it"
            )


def _with_own_weights(model: nn.Module, names: Sequence[str]) -> tuple[nn.Module, list[nn.Parameter]]:
    """A copy that shares the frozen weights and has the trained ones for itself."""
    chosen = {id(p): p for name in names for p in model.get_submodule(name).parameters()}
    if not chosen:
        raise OptionError(f"{', '.join(names)}: these layers have no weights to train")
    _refuse_ties(model, names, chosen)
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        trains = id(parameter) in chosen
        weight = parameter.detach().clone() if trains else parameter.detach()
        memo[id(parameter)] = nn.Parameter(weight, requires_grad=trains)
    trained = [memo[key] for key in chosen]
    return deepcopy(model, memo).eval(), trained


def _refuse_ties(model: nn.Module, names: Sequence[str], chosen: Mapping[int, nn.Parameter]) -> None:
    """Training a weight that a frozen layer uses too would change that layer."""
    inside = tuple(f"{name}." for name in names)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in chosen and not name.startswith(inside):
            trained = next(
                own
                for own, other in model.named_parameters(remove_duplicate=False)
                if other is parameter and own.startswith(inside)
            )
            raise ModelError(
                f"{trained} can't be fine-tuned: it is the same weight as {name} of a layer that must stay; "
                "leave out --finetune, or give each layer a weight of its own"
            )


def _as_before(model: nn.Module, like: nn.Module) -> nn.Module:
    for parameter, before in zip(model.parameters(), like.parameters(), strict=True):
        parameter.requires_grad_(before.requires_grad)
        parameter.grad = None
    return model


def _copies(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]
