"""Training all of a network on labelled images, from a random start or a checkpoint."""

import math
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnncompress.distributed import ALONE, World, require_same
from cnncompress.errors import ModelError, NumericsError
from cnncompress.events import EpochDone, Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.image_source import ImageSource
from cnncompress.memory_layout import faster_layout
from cnncompress.network import Network, Preprocess
from cnncompress.training.augmentation import Augmentation
from cnncompress.training.costs import outputs_of
from cnncompress.training.images import Images
from cnncompress.training.keeping import KEEP_SECONDS, Keeper
from cnncompress.training.loop import Trainer
from cnncompress.training.losses import by_labels, judge
from cnncompress.training.recipe import Recipe
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
    world: World


def train_network(
    network: Network,
    training: ImageSource,
    test: ImageSource,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    keep: Path | None = None,
    keep_seconds: float = KEEP_SECONDS,
    resume: bool = False,
    world: World = ALONE,
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
        keep: file that gets the state after each epoch, and in the middle of long ones.
        keep_seconds: between two states in the middle of an epoch, at least.
        resume: take up the state in ``keep``, that of any number of processes.
        world: the processes that share each batch; all get the result, the first writes and reports.
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
    report = report if world.is_first else silent
    require_same((training, test), world)
    ready = _prepare(network, training, test, recipe, device or torch.device("cpu"), world)
    model, trainer = ready.model, ready.trainer
    settings = _settings(network, training, test, recipe)
    keeper = Keeper(keep, model, trainer, settings, seconds=keep_seconds, world=world)
    if resume:
        keeper.resume()
    left = (recipe.epochs - trainer.epoch) * len(training) - trainer.step * recipe.batch_size
    report(StageStarted(_STAGE, max(0, left)))
    while trainer.epoch < recipe.epochs:
        epoch = _run_epoch(ready, recipe, keeper, report)
        report(EpochDone(epoch.epoch, recipe.epochs, epoch.loss, epoch.test_loss, epoch.accuracy))
        keeper.after_epoch(epoch)
    report(StageDone(_STAGE, time.perf_counter() - begun))
    finished = replace(network, model=model.to("cpu").eval(), weights=f"trained for {recipe.epochs} epochs")
    return Trained(
        network=finished,
        recipe=recipe,
        history=tuple(keeper.history),
        summary=summarize(
            finished, settings, training, test, keeper.history, ready.layout, processes=world.size
        ),
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
    network: Network,
    training: ImageSource,
    test: ImageSource,
    recipe: Recipe,
    device: torch.device,
    world: World,
) -> _Ready:
    layout = torch.contiguous_format
    if recipe.channels_last:
        layout = world.first(lambda: faster_layout(network.model, network.input_size))
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
    trainer = Trainer(model, trained, fitted, by_labels(recipe.label_smoothing), recipe, world=world)
    return _Ready(model=model, trainer=trainer, test=judges, layout=layout, world=world)


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


def _run_epoch(ready: _Ready, recipe: Recipe, keeper: Keeper, report: Reporter) -> Epoch:
    begun = time.perf_counter()
    loss = ready.trainer.run_epoch(
        lambda images: report(StageAdvanced(_STAGE, images)), stepped=keeper.after_step
    )
    _check_finite(loss, ready.trainer.epoch + 1)
    verdict = judge(ready.model, ready.test, by_labels(), recipe.batch_size, ready.world)
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
