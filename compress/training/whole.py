"""Training all of a network on labelled images, from a random start or a checkpoint."""

import math
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnncompress.errors import ModelError, NumericsError
from cnncompress.events import EpochDone, Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.image_source import ImageSource
from cnncompress.memory_layout import faster_layout
from cnncompress.network import Network, Preprocess
from cnncompress.training.augmentation import Augmentation
from cnncompress.training.costs import outputs_of
from cnncompress.training.images import Images
from cnncompress.training.loop import Trainer
from cnncompress.training.losses import by_labels, judge
from cnncompress.training.recipe import Recipe
from cnncompress.training.state import read_state, write_state
from cnncompress.training.summary import Epoch, summarize

_STAGE = "train"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network.

    Attributes:
        network: with the weights after the last epoch, in evaluation mode, on the CPU.
        recipe: that was followed.
        history: of the epochs.
        summary: what train.json holds.
    """

    network: Network
    recipe: Recipe
    history: tuple[Epoch, ...]
    summary: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """All that the epochs need."""

    model: nn.Module
    trainer: Trainer
    test: Images
    layout: torch.memory_format


def train_network(
    network: Network,
    training: ImageSource,
    test: ImageSource,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    keep: Path | None = None,
    resume: bool = False,
    report: Reporter = silent,
) -> Trained:
    """Train all of a network.

    The weights after the last epoch are the result: choosing an epoch by the test images would flatter.

    Args:
        network: its weights are the start; left as they were.
        training: images with labels. Where ``recipe.augmentation`` crops the resized image they must have
            been opened with `stored`.
        test: images with labels.
        recipe: how to train.
        device: where it is trained; None for the CPU.
        keep: file that gets the state after each epoch.
        resume: take up the state in ``keep``.
        report: receives the progress.

    Returns:
        The trained network.

    Raises:
        DataError: a label is no class of the network, or too many images can't be read.
        ModelError: the network's outputs are no class scores, or all its weights are frozen.
        NumericsError: the loss became NaN or infinite.
        OptionError: ``keep`` holds the state of a training with other settings.
        OutputError: ``keep`` can't be written or read.
    """  # noqa: DOC502  # most are raised by what is called
    begun = time.perf_counter()
    ready = _prepare(network, training, test, recipe, device or torch.device("cpu"))
    model, trainer = ready.model, ready.trainer
    settings = _settings(network, training, test, recipe)
    written = read_state(keep, model, trainer, settings) if resume and keep is not None else []
    history = [Epoch(**entry) for entry in written]
    report(StageStarted(_STAGE, (recipe.epochs - trainer.epoch) * len(training)))
    while trainer.epoch < recipe.epochs:
        epoch = _run_epoch(ready, recipe, report)
        history.append(epoch)
        report(EpochDone(epoch.epoch, recipe.epochs, epoch.loss, epoch.test_loss, epoch.accuracy))
        if keep is not None:
            write_state(keep, model, trainer, settings, [asdict(entry) for entry in history])
    report(StageDone(_STAGE, time.perf_counter() - begun))
    finished = replace(network, model=model.to("cpu").eval(), weights=f"trained for {recipe.epochs} epochs")
    return Trained(
        network=finished,
        recipe=recipe,
        history=tuple(history),
        summary=summarize(finished, settings, training, test, history, ready.layout),
    )


def stored(preprocess: Preprocess, augmentation: Augmentation) -> Preprocess:
    """How training images are to be prepared so that an augmentation finds what it needs.

    Args:
        preprocess: of the network.
        augmentation: of the recipe.

    Returns:
        The same, without the crop where the augmentation crops.
    """
    if not augmentation.crop_resized or preprocess.resize is None:
        return preprocess
    side = max(preprocess.resize, *preprocess.crop)
    return replace(preprocess, crop=(side, side))


def _prepare(
    network: Network, training: ImageSource, test: ImageSource, recipe: Recipe, device: torch.device
) -> _Ready:
    layout = torch.contiguous_format
    if recipe.channels_last:
        layout = faster_layout(network.model, network.input_size)
    model = deepcopy(network.model).to(device).to(memory_format=layout).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError(f"{network.name}: no weight of it can be trained; set requires_grad of some")
    classes = _classes(network)
    fitted, judges = (
        Images(
            source,
            range(len(source)),
            like=trained[0],
            layout=layout,
            classes=classes,
            size=network.preprocess.crop,
        )
        for source in (training, test)
    )
    trainer = Trainer(model, trained, fitted, by_labels(recipe.label_smoothing), recipe)
    return _Ready(model=model, trainer=trainer, test=judges, layout=layout)


def _classes(network: Network) -> int:
    output = outputs_of(network.model, network.input_size)
    if output.ndim != 2:
        raise ModelError(
            f"{network.name}: labels can't train outputs of shape {tuple(output.shape)}; "
            "the network must give one score a class"
        )
    return output.shape[1]


def _settings(network: Network, training: ImageSource, test: ImageSource, recipe: Recipe) -> dict[str, Any]:
    """What must be the same when a training is resumed."""
    return {
        "name": network.name,
        "source": dict(network.source),
        "start": network.weights,
        "input_size": list(network.input_size),
        "recipe": recipe.to_json(),
        "training": training.hash,
        "test": test.hash,
    }


def _run_epoch(ready: _Ready, recipe: Recipe, report: Reporter) -> Epoch:
    begun = time.perf_counter()
    loss = ready.trainer.run_epoch(lambda images: report(StageAdvanced(_STAGE, images)))
    _check_finite(loss, ready.trainer.epoch + 1)
    verdict = judge(ready.model, ready.test, by_labels(), recipe.batch_size)
    _check_finite(verdict.loss, ready.trainer.epoch)
    assert verdict.accuracy is not None  # by_labels refuses images without
    return Epoch(
        epoch=ready.trainer.epoch,
        loss=loss,
        test_loss=verdict.loss,
        accuracy=verdict.accuracy,
        seconds=time.perf_counter() - begun,
    )


def _check_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise NumericsError(
            f"the loss became infinite or NaN in epoch {epoch}; lower the learning rate, or train in float32"
        )
