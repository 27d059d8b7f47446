"""Original and compressed network side by side on the same images."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnncompress.answers import Answers, PerImage, answer_columns, flat_outputs
from cnncompress.distributed.shard import settle, sharded
from cnncompress.distributed.world import ALONE, World
from cnncompress.errors import DataError, NumericsError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.image_source import ImageSource
from cnncompress.memory_layout import layout_of
from cnncompress.paired import paired_drop
from cnncompress.waiting import Watched

_BEFORE, _AFTER = "before ", "after "


@dataclass(frozen=True)
class Comparison:
    """How far two networks are apart on some images.

    Attributes:
        images: how many were compared.
        output_relative_error: ||y - ŷ||² / ||y||² over all outputs, the share of energy that is lost.
        feature_relative_error: the same for the last feature map, None if it isn't known.
        cosine: mean cosine between the outputs.
        top1_agreement: share of images with the same largest output; None if outputs are no scores.
        before: what the original answered, image by image; None if outputs are no scores.
        after: what the compressed network answered.
    """

    images: int
    output_relative_error: float
    feature_relative_error: float | None
    cosine: float
    top1_agreement: float | None
    before: Answers | None
    after: Answers | None

    @property
    def correct_before(self) -> NDArray[np.bool_] | None:
        """Whether the original was right, one entry an image; None without labels."""
        return self.before.correct if self.before is not None else None

    @property
    def correct_after(self) -> NDArray[np.bool_] | None:
        """Whether the compressed network was right."""
        return self.after.correct if self.after is not None else None

    def accuracy(self, dataset: str) -> dict[str, Any] | None:
        """Top-1 accuracy of both networks in percent, with the interval of the paired difference.

        Args:
            dataset: one line that names the images.

        Returns:
            Entries of the report, those of the five best answers too where there are more classes; None
            without labels.
        """
        if self.correct_before is None or self.correct_after is None:
            return None
        drop = paired_drop(self.correct_before, self.correct_after)
        found: dict[str, Any] = {
            "dataset": dataset,
            "n": self.images,
            "top1_before": 100 * float(self.correct_before.mean()),
            "top1_after": 100 * float(self.correct_after.mean()),
            "drop_top1": drop.drop,
            "ci95_paired": [drop.low, drop.high],
        }
        five, five_after = (one.in_top5 if one is not None else None for one in (self.before, self.after))
        if five is not None and five_after is not None:
            found |= {
                "top5_before": 100 * float(five.mean()),
                "top5_after": 100 * float(five_after.mean()),
                "drop_top5": paired_drop(five, five_after).drop,
            }
        return found

    def fidelity(self) -> dict[str, Any]:
        """How faithful the compressed network is, whatever the labels.

        Returns:
            Entries of the report.
        """
        return {
            "heldout_images": self.images,
            "output_relative_error": self.output_relative_error,
            "feature_relative_error": self.feature_relative_error,
            "cosine": self.cosine,
            "top1_agreement": self.top1_agreement,
        }


@contextmanager
def _last_output(model: nn.Module, name: str | None) -> Iterator[list[Tensor]]:
    """Catches the output of one submodule."""
    caught: list[Tensor] = []
    if name is None:
        yield caught
        return
    handle = model.get_submodule(name).register_forward_hook(lambda m, i, output: caught.append(output))
    try:
        yield caught
    finally:
        handle.remove()


class _RelativeError:
    """Streams ||a - b||² / ||a||²."""

    def __init__(self) -> None:
        self._error = self._energy = 0.0

    def add(self, reference: Tensor, other: Tensor) -> None:
        difference = (reference.double() - other.double()).flatten()
        self._error += float(difference @ difference)
        self._energy += float(reference.double().flatten().square().sum())

    def value(self, world: World) -> float:
        error, energy = torch.tensor([self._error, self._energy], dtype=torch.float64).unbind()
        error, energy = world.sum(error), world.sum(energy)
        return float(error / energy) if energy > 0 else 0.0


class OriginalOutputs:
    """What the original network answers, kept for the next comparison as far as memory allows.

    Args:
        model: in evaluation mode.
        features: submodule whose output is wanted too.
        memory: bytes that answers may take.
    """

    def __init__(self, model: nn.Module, features: str | None, *, memory: int) -> None:
        self.model, self._features, self._memory = model, features, memory
        self._kept: dict[tuple[int, ...], tuple[Any, Tensor | None]] = {}

    def __call__(self, indices: tuple[int, ...], images: Tensor) -> tuple[Any, Tensor | None]:
        """Answer, from memory if the same images were asked about before.

        Args:
            indices: positions of the images in their source.
            images: ready for the network.

        Returns:
            The network's output and the features, None without.
        """
        if indices not in self._kept:
            with _last_output(self.model, self._features) as caught:
                answer = self.model(images)
            found = (answer, caught.pop() if self._features is not None else None)
            kept = [flat_outputs(part) for part in found if part is not None]
            size = sum(part.numel() * part.element_size() for part in kept)
            if size > self._memory:
                return found
            self._memory -= size
            self._kept[indices] = found
        return self._kept[indices]


def compare(
    original: nn.Module | OriginalOutputs,
    compressed: nn.Module,
    source: ImageSource,
    *,
    features: str | None = None,
    batch_size: int = 10,
    only: frozenset[int] | None = None,
    world: World = ALONE,
    report: Reporter = silent,
) -> Comparison:
    """Run both networks over the images.

    Of several processes each runs its own images; all get the same comparison, that of one process alone.

    Args:
        original: in evaluation mode, or what it answers, of always the same source.
        compressed: in evaluation mode.
        source: the images; its labels, if any, give the accuracies.
        features: submodule whose output is compared too.
        batch_size: images run at a time.
        only: positions of the images to take; all if None.
        world: the processes that share the work.
        report: receives the progress.

    Returns:
        The comparison.

    Raises:
        DataError: no image could be read.
        NumericsError: an output is NaN or infinite.
    """
    stage, begun = "evaluate", time.perf_counter()
    wanted = len(only) if only is not None else len(source)
    report(StageStarted(stage, -(-wanted // world.size)))
    dealt = sharded(source, world)
    mine = Watched(dealt)
    outputs, maps = _RelativeError(), _RelativeError()
    answers = (
        original if isinstance(original, OriginalOutputs) else OriginalOutputs(original, features, memory=0)
    )
    layout = layout_of(answers.model)
    found = PerImage()
    with (
        torch.inference_mode(),
        _last_output(compressed, features) as features_compressed,
    ):
        for batch in mine.batches(batch_size):
            images, labels, indices = batch.images, batch.labels, batch.indices
            if only is not None:
                chosen = torch.tensor([int(i) in only for i in indices])
                if not bool(chosen.any()):
                    continue
                images, labels = images[chosen], labels[chosen] if labels is not None else None
                indices = indices[chosen]
            reference = next(answers.model.parameters())
            ready = images.to(reference.device, reference.dtype, memory_format=layout)
            before, map_original = answers(tuple(batch.indices.tolist()), ready)
            after = compressed(ready)
            y, y_hat = flat_outputs(before), flat_outputs(after)
            if not bool(torch.isfinite(y_hat).all()):
                raise NumericsError("the compressed network's output holds NaN or infinity on real images")
            outputs.add(y, y_hat)
            if map_original is not None:
                maps.add(map_original, features_compressed.pop())
            cosine = torch.nn.functional.cosine_similarity(y.double(), y_hat.double())
            scores = answer_columns(before, labels, _BEFORE) | answer_columns(after, labels, _AFTER)
            found.add(indices, {"cosine": cosine} | scores)
            report(StageAdvanced(stage, len(images)))
    settle(dealt)
    columns = found.whole(world)
    if not columns:
        raise DataError(f"no image could be read from {source.description}")
    images_read = len(columns["indices"])
    report(StageDone(stage, time.perf_counter() - begun, images_read, mine.waited))
    one, other = Answers.of(columns, _BEFORE), Answers.of(columns, _AFTER)
    return Comparison(
        images=images_read,
        output_relative_error=outputs.value(world),
        feature_relative_error=maps.value(world) if features is not None else None,
        cosine=float(np.mean(columns["cosine"])),
        top1_agreement=float(np.mean(one.predicted == other.predicted)) if one and other else None,
        before=one,
        after=other,
    )
