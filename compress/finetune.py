"""Fine-tuning of the layers above the compressed ones (Denton et al., sections 1 and 5).

The compressed layers stay as they were solved; what lies above learns to work with what they deliver, until
the drop on held-out images is recovered. Layers run as in evaluation: no dropout, BatchNorm fixed.
"""

import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from cnncompress.errors import ModelError, OptionError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.gather import held_out_images
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo
from cnncompress.memory_layout import layout_of
from cnncompress.training import Images, Loss, Recipe, train


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What fine-tuning did.

    Attributes:
        layers: that were trained.
        objective: ``"labels"``, or ``"original outputs"`` where there are none.
        epochs: that were run.
        kept: epoch whose weights were kept; 0 for those before.
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


def layers_above(replaced: Sequence[str], layers: Sequence[LayerInfo]) -> tuple[str, ...]:
    """The layers that run after the last replaced one.

    Args:
        replaced: names of the replaced layers.
        layers: of the network, in the order of execution.

    Returns:
        Their names.

    Raises:
        ModelError: there are none.
    """
    ran = [layer.name for layer in layers if 0 not in layer.output_size]
    last = max(ran.index(name) for name in replaced)
    if last + 1 == len(ran):
        raise ModelError(
            f"{ran[last]}: no layer is left above it to fine-tune; replace fewer layers with --only or --skip"
        )
    return tuple(ran[last + 1 :])


def finetune_upper(
    original: nn.Module,
    compressed: nn.Module,
    *,
    upper: Sequence[str],
    source: ImageSource,
    recipe: Recipe,
    holdout: float = 0.2,
    memory: int = 10**9,
    report: Reporter = silent,
) -> tuple[nn.Module, Finetuned]:
    """Train the layers above the compressed ones.

    Args:
        original: gives the target, and the outputs to reproduce where there are no labels.
        compressed: left as it was.
        upper: layers to train, see `layers_above`.
        source: images, with labels or without.
        recipe: how to train.
        holdout: share of the images that judge.
        memory: bytes that images may take while they are used again.
        report: receives the progress.

    Returns:
        A copy with the best weights that were seen on held-out images, those before included, and what was
        done.
    """
    stage, begun = "finetune", time.perf_counter()
    report(StageStarted(stage, recipe.epochs, "epochs"))
    unreadable = {bad.key for bad in source.bad}
    readable = [i for i, key in enumerate(source.keys) if key not in unreadable]
    judges = held_out_images(readable, share=holdout, seed=recipe.seed)
    like, layout = next(original.parameters()), layout_of(original)
    others = [i for i in readable if i not in judges]
    fitted = Images(source, others, like=like, memory=memory, layout=layout)
    held_out = Images(source, sorted(judges), like=like, memory=memory, layout=layout)

    model, trained = _with_own_weights(compressed, upper)
    loss = _by_labels if source.has_labels else _by_outputs(original)
    target, target_accuracy = _judge(original, held_out, loss, recipe.batch_size)
    value, accuracy = _judge(model, held_out, loss, recipe.batch_size)
    history, accuracies = [value], [accuracy]
    best, kept, note = _copies(trained), 0, "all epochs were run"
    for epoch, mean in enumerate(train(model, trained, fitted, loss, recipe), start=1):
        report(StageAdvanced(stage))
        value, accuracy = _judge(model, held_out, loss, recipe.batch_size)
        if not (math.isfinite(mean) and math.isfinite(value)):
            note = f"the loss became infinite or NaN in epoch {epoch}; lower the learning rate"
            break
        history.append(value)
        accuracies.append(accuracy)
        if value < history[kept]:
            best, kept = _copies(trained), epoch
        if value <= target and (accuracy is None or target_accuracy is None or accuracy >= target_accuracy):
            note = "the drop is recovered on the held-out images"
            break
    if kept == 0:
        note += "; nothing was better than the start, which is kept"
    with torch.no_grad():
        for parameter, state in zip(trained, best, strict=True):
            parameter.copy_(state)
    report(StageDone(stage, time.perf_counter() - begun))
    return _as_before(model, compressed), Finetuned(
        layers=tuple(upper),
        objective="labels" if source.has_labels else "original outputs",
        epochs=len(history) - 1,
        kept=kept,
        history=tuple(history),
        accuracies=tuple(a for a in accuracies if a is not None),
        target=target,
        target_accuracy=target_accuracy,
        images=len(fitted),
        held_out=len(held_out),
        note=note,
    )


def _with_own_weights(model: nn.Module, upper: Sequence[str]) -> tuple[nn.Module, list[nn.Parameter]]:
    """A copy that shares the frozen weights and has the trained ones for itself."""
    chosen = {id(p): p for name in upper for p in model.get_submodule(name).parameters()}
    if not chosen:
        raise OptionError(f"{', '.join(upper)}: these layers have no weights to train")
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        trains = id(parameter) in chosen
        weight = parameter.detach().clone() if trains else parameter.detach()
        memo[id(parameter)] = nn.Parameter(weight, requires_grad=trains)
    trained = [memo[key] for key in chosen]
    return deepcopy(model, memo).eval(), trained


def _as_before(model: nn.Module, like: nn.Module) -> nn.Module:
    for parameter, before in zip(model.parameters(), like.parameters(), strict=True):
        parameter.requires_grad_(before.requires_grad)
        parameter.grad = None
    return model


def _copies(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _by_labels(output: Tensor, images: Tensor, labels: Tensor | None) -> Tensor:
    del images
    if labels is None or output.ndim != 2:
        raise ModelError(
            f"labels can't train an output of shape {tuple(output.shape)}; use images without labels, "
            "then the original network's outputs are the aim"
        )
    return nnf.cross_entropy(output, labels)


def _by_outputs(original: nn.Module) -> Loss:
    """How far the outputs are from the original network's."""

    def loss(output: Tensor, images: Tensor, labels: Tensor | None) -> Tensor:
        del labels
        with torch.no_grad():
            expected = original(images)
        if output.ndim == 2 and output.shape[1] > 1:  # a single score has no distribution to compare
            return nnf.kl_div(
                output.log_softmax(1), expected.log_softmax(1), reduction="batchmean", log_target=True
            )
        error: Tensor = (output - expected).square().sum() / expected.square().sum().clamp_min(1e-30)
        return error

    return loss


def _judge(model: nn.Module, images: Images, loss: Loss, batch_size: int) -> tuple[float, float | None]:
    """Mean loss, and the percentage that is right if there are labels."""
    total, right, labelled = 0.0, 0, False
    with torch.no_grad():
        for batch in images.batches(batch_size):
            output = model(batch.images)
            total += float(loss(output, batch.images, batch.labels)) * len(batch.images)
            if batch.labels is not None and output.ndim == 2:
                labelled = True
                right += int((output.argmax(1) == batch.labels).sum())
    return total / len(images), 100 * right / len(images) if labelled else None
