"""Fine-tuning of a compressed network, until the drop on held-out images is recovered.

``upper`` trains the layers above the compressed ones (Denton et al., sections 1 and 5): these stay as they
were solved, and what lies above learns to work with what they deliver. ``all`` trains the compressed ones too
(Zhang et al., section 3.6). Layers run as in evaluation: no dropout, BatchNorm fixed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from cnncompress.distributed import ALONE, World
from cnncompress.errors import DataError
from cnncompress.events import EpochDone, Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.finetuning.choice import layers_above, reconstructed_layers, trained_layers, with_own_weights
from cnncompress.finetuning.objective import objective_of
from cnncompress.finetuning.run import Run, Task
from cnncompress.finetuning.state import Keep, damaged, read_state, write_state
from cnncompress.folding import copy_sharing_weights
from cnncompress.gather import held_out_images
from cnncompress.image_source import ImageSource
from cnncompress.memory_layout import layout_of
from cnncompress.training.distill import Distillation
from cnncompress.training.images import Images, readable
from cnncompress.training.recipe import Recipe
from cnncompress.waiting import Watched

__all__ = ["Finetuned", "Keep", "finetune_layers", "layers_above", "trained_layers"]

_STAGE = "finetune"


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """What fine-tuning did.

    Attributes:
        layers: that were trained.
        objective: ``"labels"``, ``"original outputs"`` where there are none, or ``"distillation: KIND"``.
        epochs: that were run.
        kept: epoch whose weights were kept: the one that is most often right on the held-out images, of
            equals the one with the lowest loss, which decides alone without labels; 0 for the start.
        history: mean loss on held-out images before and after each epoch: of the labels, or of the
            original's outputs without any.
        accuracies: percent of them that were right before and after each epoch; empty without labels.
        losses: mean over the training images of each epoch, of what was lowered.
        seconds: of each epoch, its judgement included.
        target: held-out loss of the original network; 0 where its own outputs are the objective, None where
            it isn't known.
        target_accuracy: of the original network, percent; None without labels.
        images: trained on.
        held_out: images that judged.
        note: why it ended, and whether the start was kept.
        recipe: that was followed.
        distill: how the original taught, if it did.
        processes: that shared the work.
        resumed: epochs that were complete each time the run was taken up after an interruption.
    """

    layers: tuple[str, ...]
    objective: str
    epochs: int
    kept: int
    history: tuple[float, ...]
    accuracies: tuple[float, ...]
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    target: float | None
    target_accuracy: float | None
    images: int
    held_out: int
    note: str
    recipe: Recipe
    distill: Distillation | None = None
    processes: int = 1
    resumed: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            One entry for each field.
        """
        return asdict(self)


def finetune_layers(
    original: nn.Module | None,
    compressed: nn.Module,
    *,
    chosen: Sequence[str],
    source: ImageSource,
    recipe: Recipe,
    holdout: float = 0.2,
    distill: Distillation | None = None,
    replaced: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    world: World = ALONE,
    keep: Keep | None = None,
    resume: bool = False,
    report: Reporter = silent,
) -> tuple[nn.Module, Finetuned]:
    """Train some layers of a compressed network.

    Args:
        original: gives the target, and the outputs to reproduce where there are no labels; left as it was.
            None where labels train and it isn't at hand.
        compressed: left as it was.
        chosen: layers to train, see `trained_layers`; a distillation of layers trains the replaced ones of
            them alone.
        source: images, with labels or without; the same in all processes.
        recipe: how to train.
        holdout: share of the images that judge.
        distill: learn from the original rather than from labels, which then only judge.
        replaced: names of the replaced layers; their weights decay only if the recipe says so.
        size: height and width that the network reads, where the source's images are larger, see `Images`.
        world: processes that share the work; all get the same network.
        keep: where the state is kept after each epoch and in between; the first process writes it.
        resume: go on with the state in ``keep``.
        report: receives the progress.

    Returns:
        A copy with the best weights that were seen on held-out images, those before included, and what was
        done.

    Raises:
        DataError: a label is no class of the network, or there are fewer than two images.
        ModelError: labels can't train such outputs, a layer shares weights with one that stays, or the
            original is needed.
        NumericsError: an output is NaN or infinite before training.
        OptionError: the layers have no weights, or the kept state is of other settings.
        OutputError: ``keep`` can't be written or read.
    """  # noqa: DOC502  # some are raised by what is called
    begun = time.perf_counter()
    report(StageStarted(_STAGE, recipe.epochs, "epochs"))
    if distill is not None and distill.kind == "layers":
        chosen = reconstructed_layers(chosen, replaced)
    model, trained = with_own_weights(compressed, chosen)
    layout = layout_of(original if original is not None else model)
    original = copy_sharing_weights(original).eval() if original is not None else None
    watched = Watched(source)
    parts = _split(model, watched, layout, holdout=holdout, seed=recipe.seed, size=size)
    objective = objective_of(
        original,
        model,
        recipe,
        distill,
        replaced,
        has_labels=source.has_labels,
        has_scores=parts.classes is not None,
    )
    run = Run(
        Task(
            model=model,
            trained=trained,
            undecayed=_within(trained, replaced),
            fitted=parts.fitted,
            held_out=parts.held_out,
            objective=objective,
            recipe=recipe,
            world=world,
        )
    )
    _start(run, original, keep if resume else None, world)
    report(StageAdvanced(_STAGE, len(run.losses)))
    note = _run_epochs(run, recipe.epochs, keep, world, report)
    run.take_best()
    read = int(world.sum(torch.tensor(watched.images)))
    report(StageDone(_STAGE, time.perf_counter() - begun, read, watched.waited))
    return _as_before(model, compressed), Finetuned(
        layers=tuple(chosen),
        objective=objective.name,
        epochs=len(run.losses),
        kept=run.kept,
        history=tuple(verdict.loss for verdict in run.found),
        accuracies=tuple(verdict.accuracy for verdict in run.found if verdict.accuracy is not None),
        losses=tuple(run.losses),
        seconds=tuple(run.seconds),
        target=run.target.loss if run.target is not None else None,
        target_accuracy=run.target.accuracy if run.target is not None else None,
        images=parts.fitted.known_readable,
        held_out=parts.held_out.known_readable,
        note=note,
        recipe=recipe,
        distill=distill,
        processes=world.size,
        resumed=tuple(run.resumed),
    )


def _start(run: Run, original: nn.Module | None, kept: Keep | None, world: World) -> None:
    """From the start, or from a state that was kept."""
    if kept is None:
        run.begin(original)
        return
    state = world.first(lambda: read_state(kept))
    try:
        run.take_up(state)
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise damaged(kept.file, error) from None


def _run_epochs(run: Run, epochs: int, keep: Keep | None, world: World, report: Reporter) -> str:
    """All that follow; returns why no more did."""
    written = time.monotonic()

    def keep_now_and_then() -> None:
        nonlocal written
        if keep is not None and world.is_first and time.monotonic() - written >= keep.seconds:
            write_state(keep, run.state())
            written = time.monotonic()

    while (ended := run.ending()) is None:
        if run.run_epoch(keep_now_and_then):
            report(StageAdvanced(_STAGE))
            last = run.found[-1]
            done = (len(run.losses), epochs, run.losses[-1], last.loss, last.accuracy)
            report(EpochDone(*done, judged_on="held-out images"))
            if keep is not None:
                world.first(_writing(keep, run))
                written = time.monotonic()
    return ended


def _writing(keep: Keep, run: Run) -> Callable[[], None]:
    return lambda: write_state(keep, run.state())


class _Parts(NamedTuple):
    """Images to fit and images that judge, and how many class scores the network gives."""

    fitted: Images
    held_out: Images
    classes: int | None


def _split(
    model: nn.Module,
    source: ImageSource,
    layout: torch.memory_format,
    *,
    holdout: float,
    seed: int,
    size: tuple[int, int] | None,
) -> _Parts:
    positions = readable(source)
    judges = held_out_images(positions, share=holdout, seed=seed)
    like = next(model.parameters())
    first = next(iter(Images(source, positions, like=like, layout=layout, size=size).batches(1)), None)
    if first is None:
        raise DataError(f"no image could be read from {source.description}")
    with torch.inference_mode():
        output = model(first.images)
    classes = output.shape[1] if output.ndim == 2 else None
    fitted, held_out = (
        Images(source, part, like=like, layout=layout, classes=classes, size=size)
        for part in ([i for i in positions if i not in judges], sorted(judges))
    )
    return _Parts(fitted, held_out, classes)


def _within(trained: dict[str, nn.Parameter], layers: Sequence[str]) -> list[nn.Parameter]:
    """The parameters of some layers."""
    inside = tuple(f"{name}." for name in layers)
    return [parameter for name, parameter in trained.items() if name.startswith(inside)]


def _as_before(model: nn.Module, like: nn.Module) -> nn.Module:
    for parameter, before in zip(model.parameters(), like.parameters(), strict=True):
        parameter.requires_grad_(before.requires_grad)
        parameter.grad = None
    return model
