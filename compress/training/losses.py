"""What training lowers, and how a network is judged."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from cnncompress.distributed import ALONE, World
from cnncompress.errors import ModelError
from cnncompress.training.images import Images, LabelledBatch

Loss = Callable[[Tensor, LabelledBatch], Tensor]
"""From a network's output and the batch that it came from to a mean over the images."""

_SILENT = 1e-12  # mean square below which there is no output to speak of


def by_labels(smoothing: float = 0.0) -> Loss:
    """Cross-entropy.

    Args:
        smoothing: share of the target that is spread over all classes.

    Returns:
        The loss; it raises a `ModelError` where the output holds no class scores or labels are missing.
    """

    def loss(output: Tensor, batch: LabelledBatch) -> Tensor:
        if batch.labels is None or output.ndim != 2:
            raise ModelError(
                f"labels can't train an output of shape {tuple(output.shape)}; use images without labels, "
                "then the original network's outputs are the aim"
            )
        return nnf.cross_entropy(output, batch.labels, label_smoothing=smoothing)

    return loss


def by_outputs(original: nn.Module, temperature: float = 1.0) -> Loss:
    """How far the outputs are from another network's.

    Args:
        original: in evaluation mode.
        temperature: that class scores are divided by.

    Returns:
        The divergence of the class distributions, or the relative squared error where the output is none.
    """

    def loss(output: Tensor, batch: LabelledBatch) -> Tensor:
        with torch.no_grad():
            expected = original(batch.images.clone())  # a network may begin with a function in place
        return distance(output, expected, temperature)

    return loss


def distance(output: Tensor, expected: Tensor, temperature: float = 1.0) -> Tensor:
    """How far outputs are from those expected.

    Args:
        output: first axis the images.
        expected: of the same shape.
        temperature: T that class scores are divided by; T² makes up for what that does to the gradient
            (https://arxiv.org/abs/1503.02531, section 2).

    Returns:
        Mean over the images: T² KL(expected, output) of the class distributions, or `relative_error` where
        the outputs are none.
    """
    expected = expected.to(output.dtype)  # of a network that may have run in lower precision
    if output.ndim != 2 or output.shape[1] == 1:  # a single score has no distribution to compare
        return relative_error(output, expected)
    told, wanted = ((scores / temperature).log_softmax(1) for scores in (output, expected))
    return nnf.kl_div(told, wanted, reduction="batchmean", log_target=True) * temperature**2


def relative_error(output: Tensor, expected: Tensor) -> Tensor:
    """Squared error as a share of what was expected.

    Args:
        output: first axis the images.
        expected: of the same shape.

    Returns:
        Mean over the images of each one's share.
    """
    error, energy = (values.flatten(1).square().mean(1) for values in (output - expected, expected))
    share: Tensor = (error / energy.clamp_min(_SILENT)).mean()
    return share


@dataclass(frozen=True)
class Verdict:
    """How good a network is on some images.

    Attributes:
        loss: mean over the images.
        accuracy: percent that is right; None without labels.
    """

    loss: float
    accuracy: float | None

    def reaches(self, target: "Verdict", *, tolerance: float = 0.0) -> bool:
        """Whether nothing is lost against another network.

        Args:
            target: of the other.
            tolerance: by which the loss may be higher.

        Returns:
            Neither the loss is higher nor the accuracy lower.
        """
        return self.loss <= target.loss + tolerance and not self.is_less_often_right(target)

    def is_less_often_right(self, other: "Verdict") -> bool:
        """Whether the accuracy is lower than another network's.

        Args:
            other: of that network.

        Returns:
            False where there are no labels.
        """
        if self.accuracy is None or other.accuracy is None:
            return False
        return self.accuracy < other.accuracy


def judge(model: nn.Module, images: Images, loss: Loss, batch_size: int, world: World = ALONE) -> Verdict:
    """Run a network over images in evaluation mode and float32.

    Args:
        model: left as it was.
        images: to judge on.
        loss: what counts.
        batch_size: images run at a time.
        world: the processes that share the batches.

    Returns:
        The verdict, to the bit the same on any number of processes.
    """
    modes = {module: module.training for module in model.modules()}
    losses: list[float] = []
    right, labelled, seen = 0, False, 0
    try:
        model.eval()
        with torch.inference_mode():
            for batch in images.batches(batch_size, world):
                output = model(batch.images)
                losses.append(float(loss(output, batch)) * len(batch.images))
                seen += len(batch.images)
                if batch.labels is not None and output.ndim == 2:
                    labelled = True
                    right += int((output.argmax(1) == batch.labels).sum())
    finally:
        for module, training in modes.items():
            module.training = training
    images.settle(world)
    parts = world.gather((losses, right, labelled, seen))
    count = sum(part[3] for part in parts)
    images.check_any(count)
    # exact whatever the order, so that all processes and any number of them agree
    total = _sum([value for part in parts for value in part[0]])
    known = any(part[2] for part in parts)
    return Verdict(total / count, 100 * sum(part[1] for part in parts) / count if known else None)


def _sum(values: list[float]) -> float:
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan
