"""What training lowers, and how a network is judged."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from cnncompress.errors import ModelError
from cnncompress.training.images import Images, LabelledBatch
from cnncompress.training.loop import Loss


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


def by_outputs(original: nn.Module) -> Loss:
    """How far the outputs are from another network's.

    Args:
        original: in evaluation mode.

    Returns:
        The divergence of the class distributions, or the relative squared error where the output is none.
    """

    def loss(output: Tensor, batch: LabelledBatch) -> Tensor:
        with torch.no_grad():
            expected = original(batch.images)
        if output.ndim == 2 and output.shape[1] > 1:  # a single score has no distribution to compare
            return nnf.kl_div(
                output.log_softmax(1), expected.log_softmax(1), reduction="batchmean", log_target=True
            )
        error: Tensor = (output - expected).square().sum() / expected.square().sum().clamp_min(1e-30)
        return error

    return loss


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


def judge(model: nn.Module, images: Images, loss: Loss, batch_size: int) -> Verdict:
    """Run a network over images in evaluation mode and float32.

    Args:
        model: left as it was.
        images: to judge on.
        loss: what counts.
        batch_size: images run at a time.

    Returns:
        The verdict.
    """
    modes = {module: module.training for module in model.modules()}
    total, right, labelled, seen = 0.0, 0, False, 0
    try:
        model.eval()
        with torch.inference_mode():
            for batch in images.batches(batch_size):
                output = model(batch.images)
                total += float(loss(output, batch)) * len(batch.images)
                seen += len(batch.images)
                if batch.labels is not None and output.ndim == 2:
                    labelled = True
                    right += int((output.argmax(1) == batch.labels).sum())
    finally:
        for module, training in modes.items():
            module.training = training
    return Verdict(total / seen, 100 * right / seen if labelled else None)
