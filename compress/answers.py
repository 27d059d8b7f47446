"""What a network answers, image by image."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnncompress.distributed.shard import settle, sharded
from cnncompress.distributed.world import ALONE, World
from cnncompress.errors import DataError, ModelError, NumericsError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.image_source import ImageSource
from cnncompress.memory_layout import layout_of
from cnncompress.waiting import Watched

TOP = 5


@dataclass(frozen=True)
class Answers:
    """The classes that a network found, one entry an image, in the order of the images' list.

    Attributes:
        indices: int64, positions of the images in their source; unreadable ones are missing.
        predicted: int64, class with the largest score.
        labels: int64, the true classes; None where the source has none.
        in_top5: whether the true class is among the five with the largest scores; None without labels, or
            where there are no more than five classes.
    """

    indices: NDArray[np.int64]
    predicted: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    in_top5: NDArray[np.bool_] | None

    @property
    def correct(self) -> NDArray[np.bool_] | None:
        """Whether the network was right; None without labels."""
        return None if self.labels is None else self.predicted == self.labels

    @classmethod
    def of(cls, columns: Mapping[str, NDArray[Any]], prefix: str = "") -> "Answers | None":
        """Read the columns that `answer_columns` made.

        Args:
            columns: of all images.
            prefix: as it was given there.

        Returns:
            None if the outputs are no scores.
        """
        if f"{prefix}predicted" not in columns:
            return None
        return cls(
            indices=columns["indices"],
            predicted=columns[f"{prefix}predicted"],
            labels=columns.get("labels"),
            in_top5=columns.get(f"{prefix}in_top5"),
        )


class PerImage:
    """Columns with one entry an image, put together from the batches of all processes."""

    def __init__(self) -> None:
        self._columns: dict[str, list[NDArray[Any]]] = {}

    def add(self, indices: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Take in one batch.

        Args:
            indices: positions of its images in their source.
            columns: values by name, one an image; the same names in every batch.
        """
        for name, values in {"indices": indices, **columns}.items():
            self._columns.setdefault(name, []).append(values.cpu().numpy())

    def whole(self, world: World = ALONE) -> dict[str, NDArray[Any]]:
        """All columns, ``indices`` among them.

        Args:
            world: the processes that have some.

        Returns:
            In the order of the images' list; empty if there was no image.
        """
        parts = world.gather({name: np.concatenate(values) for name, values in self._columns.items()})
        filled = [part for part in parts if part]
        if not filled:
            return {}
        order = np.argsort(np.concatenate([part["indices"] for part in filled]), kind="stable")
        return {name: np.concatenate([part[name] for part in filled])[order] for name in filled[0]}


def answer_columns(answer: Any, labels: Tensor | None, prefix: str = "") -> dict[str, Tensor]:
    """What a network answered on one batch, as `PerImage` takes it and `Answers.of` reads it.

    Args:
        answer: the network's output.
        labels: true classes of the images, if known.
        prefix: of the names, to tell networks apart.

    Returns:
        Nothing unless the output is a table of scores, shape (images, classes).
    """
    if not isinstance(answer, Tensor) or answer.ndim != 2:
        return {}
    scores = answer.cpu()
    columns = {f"{prefix}predicted": scores.argmax(1)}
    if labels is not None:
        columns["labels"] = labels
        if scores.shape[1] > TOP:
            columns[f"{prefix}in_top5"] = (scores.topk(TOP, dim=1).indices == labels.cpu()[:, None]).any(1)
    return columns


def answers_of(
    model: nn.Module,
    source: ImageSource,
    *,
    layout: torch.memory_format | None = None,
    batch_size: int = 10,
    world: World = ALONE,
    stage: str = "evaluate",
    report: Reporter = silent,
) -> Answers:
    """Run one classifier over the images.

    Args:
        model: in evaluation mode.
        source: the images.
        layout: memory format of the images; None for that of the model's weights.
        batch_size: images run at a time.
        world: the processes that share the images.
        stage: name under which the progress is reported.
        report: receives the progress.

    Returns:
        Its answers on all readable images.

    Raises:
        DataError: no image could be read.
        ModelError: the outputs are no scores of classes.
        NumericsError: an output is NaN or infinite.
    """
    begun = time.perf_counter()
    report(StageStarted(stage, -(-len(source) // world.size)))
    dealt = sharded(source, world)
    mine, found = Watched(dealt), PerImage()
    reference, layout = next(model.parameters()), layout or layout_of(model)
    read = 0
    with torch.inference_mode():
        for batch in mine.batches(batch_size):
            ready = batch.images.to(reference.device, reference.dtype, memory_format=layout)
            scores = model(ready)
            columns = answer_columns(scores, batch.labels)
            if not columns:
                raise ModelError("the network's output is no table of scores, so it has no accuracy")
            if not bool(torch.isfinite(scores).all()):
                raise NumericsError("the network's output holds NaN or infinity on real images")
            found.add(batch.indices, columns)
            read += len(ready)
            report(StageAdvanced(stage, len(ready)))
    settle(dealt)
    whole = Answers.of(found.whole(world))
    if whole is None:
        raise DataError(f"no image could be read from {source.description}")
    report(StageDone(stage, time.perf_counter() - begun, read, mine.waited))
    return whole


def flat_outputs(answer: Any) -> Tensor:
    """What a network returned as one row an image.

    Args:
        answer: a tensor, or tensors in dictionaries, lists or tuples, all with the images first.

    Returns:
        Shape (images, values): a single tensor flattened, several side by side.

    Raises:
        ModelError: there is no tensor in it, something else than tensors, or they don't have the images
            first.
    """
    parts = _tensors(answer)
    images = {len(part) if part.ndim else -1 for part in parts}
    if not parts or len(images) != 1 or -1 in images:
        raise ModelError(
            f"the network's output, a {type(answer).__name__}, isn't one row of numbers an image, so it "
            "can't be compared; compress the part that computes features, a detector's backbone for example"
        )
    rows = [part.flatten(1) if part.ndim > 1 else part[:, None] for part in parts]
    return torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]


def _tensors(answer: Any) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer]
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return [tensor for part in answer for tensor in _tensors(part)]
    if answer is None:  # outputs that a network has in training only
        return []
    raise ModelError(
        f"the network's output holds a {type(answer).__name__}, but tensors are compared; wrap the network "
        "so that it returns tensors"
    )
