"""How far a compressed network's output is from the original's, in a number that adds up over images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cnncompress.errors import DataError, ModelError


@dataclass(frozen=True)
class OutputLoss:
    """How a network's output error is measured.

    Attributes:
        kind: ``"divergence"``, mean of KL(softmax(original) ‖ softmax(compressed)) over the images, in nats;
            or ``"squared"``, ‖f - f̂‖² / ‖f‖² over all outputs of all images.
    """

    kind: Literal["divergence", "squared"]

    @classmethod
    def of(cls, output: Any) -> "OutputLoss":
        """The loss that suits a network.

        Args:
            output: of the network for a batch of images.

        Returns:
            The divergence for class scores of shape (images, at least 2 classes), else the squared error.
        """
        scores = isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] >= 2
        return cls("divergence" if scores else "squared")

    @property
    def curvature(self) -> float:
        """What the squared product of an output's error with a random cotangent counts in the loss.

        By second order the divergence is half the error's square in the Fisher metric.
        """
        return 0.5 if self.kind == "divergence" else 1.0

    def weight(self, output: Any, images: int) -> float:
        """What sums over a batch are to be divided by, added up over all batches.

        Args:
            output: of the original network.
            images: in the batch.

        Returns:
            The number of images, or the output's energy.
        """
        if self.kind == "divergence":
            return float(images)
        return float(sum(_energy(part) for part in output_tensors(output, images)))

    def total(self, expected: Any, found: Any, images: int) -> float:
        """The loss of a batch, before the division by its weight.

        Args:
            expected: the original network's output.
            found: the compressed network's.
            images: in the batch.

        Returns:
            A sum in float64 over the images.
        """
        pairs = zip(output_tensors(expected, images), output_tensors(found, images), strict=True)
        if self.kind == "divergence":
            return float(sum(_divergence(before, after) for before, after in pairs))
        return float(sum(_energy(before.double() - after.double()) for before, after in pairs))

    def cotangents(
        self, output: Any, indices: Sequence[int], *, seed: int, labels: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Random directions of the output whose mean outer product is the loss's metric.

        For scores these are onehot(y) - softmax(scores) with y drawn from the softmax, which gives the Fisher
        information without labels (https://arxiv.org/abs/1412.1193, section 9), or with the true labels the
        empirical one. For other outputs they are standard normal.

        Args:
            output: of the original network.
            indices: positions of the images in the list of all; with the seed they decide what is drawn.
            seed: of the run.
            labels: true classes for scores; None to draw them.

        Returns:
            One tensor for each floating tensor of the output, of the same shape.
        """
        parts = output_tensors(output, len(indices))
        draws = [np.random.default_rng((seed, index)) for index in indices]
        if self.kind == "squared":
            return [_normal(part, draws) for part in parts]
        (scores,) = parts
        shares = scores.detach().double().softmax(1)
        classes = _drawn_classes(shares, draws) if labels is None else _checked(labels, shares.shape[1])
        rows = torch.arange(len(indices), device=shares.device)
        cotangent = -shares
        cotangent[rows, torch.tensor(classes, device=shares.device)] += 1
        return [cotangent.to(scores.dtype)]


def output_tensors(output: Any, images: int) -> list[Tensor]:
    """The floating tensors of a network's output, in a fixed order.

    Args:
        output: a tensor, or dicts, lists and tuples of them.
        images: in the batch.

    Returns:
        The tensors; others of the output are left out.

    Raises:
        ModelError: there are none, or one doesn't hold a row for each image.
    """
    parts = [part for part in _tensors(output) if part.is_floating_point()]
    if not parts:
        raise ModelError(
            f"the network's output, a {type(output).__name__}, holds no floating-point tensor to measure; "
            "wrap the network so that it returns scores or a feature map"
        )
    for part in parts:
        if part.ndim == 0 or part.shape[0] != images:
            raise ModelError(
                f"the network's output holds a tensor of shape {tuple(part.shape)} for a batch of {images} "
                "images, but one row an image is needed; wrap the network so that it returns such tensors"
            )
    return parts


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict | list | tuple):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


def _energy(part: Tensor) -> float:
    return float(part.detach().double().square().sum())


def _divergence(before: Tensor, after: Tensor) -> float:
    expected, found = before.double().log_softmax(1), after.double().log_softmax(1)
    return float((expected.exp() * (expected - found)).sum())


def _normal(part: Tensor, draws: Sequence[np.random.Generator]) -> Tensor:
    drawn = np.stack([draw.standard_normal(part.shape[1:], dtype=np.float32) for draw in draws])
    return torch.from_numpy(drawn).to(part.device, part.dtype)


def _drawn_classes(shares: Tensor, draws: Sequence[np.random.Generator]) -> list[int]:
    sums = shares.cumsum(1).cpu().numpy()
    # the last sum may miss 1 by rounding
    return [
        int(np.searchsorted(row[:-1], draw.random() * row[-1], side="right"))
        for row, draw in zip(sums, draws, strict=True)
    ]


def _checked(labels: Sequence[int], classes: int) -> list[int]:
    for label in labels:
        if not 0 <= label < classes:
            raise DataError(
                f"an image has the label {label}, but the network has the classes 0 to {classes - 1}; "
                "give the labels in the network's numbering, or none"
            )
    return list(labels)
