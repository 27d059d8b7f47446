"""Original and compressed network side by side on the same images."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
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


@dataclass(frozen=True)
class Comparison:
    """How far two networks are apart on some images.

    Attributes:
        images: how many were compared.
        output_relative_error: ||y - ŷ||² / ||y||² over all outputs, the share of energy that is lost.
        feature_relative_error: the same for the last feature map, None if it isn't known.
        cosine: mean cosine between the outputs.
        top1_agreement: share of images with the same largest output; None if outputs are no scores.
        correct_before: whether the original was right, one entry an image; None without labels.
        correct_after: whether the compressed network was right.
    """

    images: int
    output_relative_error: float
    feature_relative_error: float | None
    cosine: float
    top1_agreement: float | None
    correct_before: NDArray[np.bool_] | None
    correct_after: NDArray[np.bool_] | None

    def accuracy(self, dataset: str) -> dict[str, Any] | None:
        """Top-1 accuracy of both networks in percent, with the interval of the paired difference.

        Args:
            dataset: one line that names the images.

        Returns:
            Entries of the report, or None without labels.
        """
        if self.correct_before is None or self.correct_after is None:
            return None
        drop, low, high = paired_drop(self.correct_before, self.correct_after)
        return {
            "dataset": dataset,
            "n": self.images,
            "top1_before": 100 * float(self.correct_before.mean()),
            "top1_after": 100 * float(self.correct_after.mean()),
            "drop_top1": drop,
            "ci95_paired": [low, high],
        }

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


def paired_drop(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Drop of accuracy on the same images, in points, with its 95 % confidence interval.

    Only images on which the networks differ tell anything (McNemar); the interval is that of the mean
    of the paired differences -1, 0, 1.

    Args:
        before: whether the original was right, one entry an image.
        after: whether the compressed network was right.

    Returns:
        The drop, and the interval's lower and upper end.
    """
    difference = before.astype(np.float64) - after.astype(np.float64)
    drop = float(difference.mean())
    half = 1.96 * float(difference.std(ddof=1)) / sqrt(len(difference)) if len(difference) > 1 else 1.0
    return 100 * drop, 100 * (drop - half), 100 * (drop + half)


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


def _tensor(answer: Any) -> Tensor:
    if not isinstance(answer, Tensor):
        raise ModelError(
            f"the network's output is a {type(answer).__name__}, but a tensor is compared; "
            "wrap the network so that it returns one"
        )
    return answer


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


class _Column:
    """A number or a truth value for each image."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []

    def add(self, values: Tensor) -> None:
        self._parts.append(values.cpu().numpy())

    def whole(self, world: World, order: NDArray[np.int64]) -> NDArray[Any] | None:
        """Those of the images of all processes, in the order of the list; None if there are none."""
        parts = [part for one in world.gather(self._parts) for part in one]
        return np.concatenate(parts)[order] if parts else None


class OriginalOutputs:
    """What the original network answers, kept for the next comparison as far as memory allows.

    Args:
        model: in evaluation mode.
        features: submodule whose output is wanted too.
        memory: bytes that answers may take.
    """

    def __init__(self, model: nn.Module, features: str | None, *, memory: int) -> None:
        self.model, self._features, self._memory = model, features, memory
        self._kept: dict[tuple[int, ...], tuple[Tensor, Tensor | None]] = {}

    def __call__(self, indices: tuple[int, ...], images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Answer, from memory if the same images were asked about before.

        Args:
            indices: positions of the images in their source.
            images: ready for the network.

        Returns:
            The network's output and the features, None without.
        """
        if indices not in self._kept:
            with _last_output(self.model, self._features) as caught:
                answer = _tensor(self.model(images))
            found = (answer, caught.pop() if self._features is not None else None)
            size = sum(part.numel() * part.element_size() for part in found if part is not None)
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
    cosines, agree, before, after = _Column(), _Column(), _Column(), _Column()
    seen: list[int] = []
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
            seen += indices.tolist()
            reference = next(answers.model.parameters())
            ready = images.to(reference.device, reference.dtype, memory_format=layout)
            y, map_original = answers(tuple(batch.indices.tolist()), ready)
            y_hat = _tensor(compressed(ready))
            if not bool(torch.isfinite(y_hat).all()):
                raise NumericsError("the compressed network's output holds NaN or infinity on real images")
            outputs.add(y, y_hat)
            if map_original is not None:
                maps.add(map_original, features_compressed.pop())
            flat, flat_hat = y.flatten(1).double(), y_hat.flatten(1).double()
            cosines.add(torch.nn.functional.cosine_similarity(flat, flat_hat))
            if y.ndim == 2:
                agree.add(y.argmax(1) == y_hat.argmax(1))
                if labels is not None:
                    before.add(y.argmax(1).cpu() == labels)
                    after.add(y_hat.argmax(1).cpu() == labels)
            report(StageAdvanced(stage, len(images)))
    settle(dealt)
    order = np.argsort([index for part in world.gather(seen) for index in part], kind="stable")
    if not len(order):
        raise DataError(f"no image could be read from {source.description}")
    report(StageDone(stage, time.perf_counter() - begun, len(order), mine.waited))
    angles, same = cosines.whole(world, order), agree.whole(world, order)
    assert angles is not None  # an image was read
    return Comparison(
        images=len(order),
        output_relative_error=outputs.value(world),
        feature_relative_error=maps.value(world) if features is not None else None,
        cosine=float(np.mean(angles)),
        top1_agreement=None if same is None else float(np.mean(same)),
        correct_before=before.whole(world, order),
        correct_after=after.whole(world, order),
    )
