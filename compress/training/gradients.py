"""The gradient of a step's mean loss, over all processes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.distributed import World
from cnncompress.errors import ModelError
from cnncompress.training.feed import Part
from cnncompress.training.images import LabelledBatch
from cnncompress.training.losses import Loss
from cnncompress.training.shared_norm import shared_norms

AUXILIARY = 0.3
"""What the loss of an auxiliary classifier counts (Szegedy et al., Going Deeper with Convolutions)."""


_BUCKET = 2**24  # values sent at once: a copy of all gradients would double their memory


class Gradients:
    """Computes gradients of a loss by a network's parameters, the same in all processes.

    torch's DistributedDataParallel isn't used: it must know beforehand whether the loss leaves parameters
    out, and where a process dies it can't say so.

    Args:
        model: in the mode that it is trained in; its weights are the same in all processes.
        trained: parameters whose gradients are asked for.
        loss: a mean over images.
        precision: of the network's arithmetic.
        world: the processes.
    """

    def __init__(
        self, model: nn.Module, trained: Sequence[nn.Parameter], loss: Loss, precision: str, world: World
    ) -> None:
        self._model, self._trained, self._loss = model, tuple(trained), loss
        self._precision, self._world = precision, world
        self._device = self._trained[0].device

    def of(self, parts: Sequence[Part]) -> float:
        """Put a step's gradient where the optimizer finds it.

        Args:
            parts: of the step, at least one.

        Returns:
            The mean loss; if it isn't finite the gradients are of no use.
        """
        for parameter in self._trained:
            parameter.grad = None
        total = 0.0
        for part in parts:
            with shared_norms(self._model, self._world) if part.is_spread else nullcontext():
                weighted = self._loss_of(part.batch) * part.weight
            total += self._mean(float(weighted.detach()))
            if not math.isfinite(total):
                return total
            weighted.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        if not self._world.is_alone:
            self._exchange()
        return total

    def _loss_of(self, batch: LabelledBatch) -> Tensor:
        """The loss of the output; of auxiliary ones too, where a network in training gives some."""
        try:
            with autocast(self._device, self._precision):
                output: Any = self._model(batch.images)
        except ValueError as error:  # BatchNorm has nothing to compare a single value with
            raise ModelError(
                f"a batch of shape {tuple(batch.images.shape)} can't be trained on: {error}; "
                "take larger batches or larger images"
            ) from None
        first, *auxiliary = output if isinstance(output, tuple) else (output,)
        # a loss may run another network, in the same precision; its own arithmetic is on wide numbers
        with autocast(self._device, self._precision):
            value = self._loss(first.to(batch.images.dtype), batch)
            for other in auxiliary:
                if other is not None:
                    value = value + AUXILIARY * self._loss(other.to(batch.images.dtype), batch)
        return value

    def _mean(self, value: float) -> float:
        """The mean over the processes."""
        if self._world.is_alone:
            return value
        return float(self._world.sum(torch.tensor(value, dtype=torch.float64))) / self._world.size

    def _exchange(self) -> None:
        """Give all processes the mean of their gradients."""
        own = torch.tensor([parameter.grad is not None for parameter in self._trained], dtype=torch.uint8)
        anywhere = self._world.sum(own).tolist()  # a loss may leave layers out
        used = [parameter for parameter, count in zip(self._trained, anywhere, strict=True) if count]
        for bucket in _buckets(used):
            found = [torch.zeros_like(one) if one.grad is None else one.grad for one in bucket]
            total = self._world.sum(torch.cat([gradient.reshape(-1) for gradient in found]))
            means = torch.split(total.div_(self._world.size), [gradient.numel() for gradient in found])
            for parameter, gradient, mean in zip(bucket, found, means, strict=True):
                parameter.grad = gradient.copy_(mean.view_as(gradient))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one type that are sent together."""
    bucket: list[nn.Parameter] = []
    values = 0
    for parameter in parameters:
        if bucket and (parameter.dtype != bucket[0].dtype or values + parameter.numel() > _BUCKET):
            yield bucket
            bucket, values = [], 0
        bucket.append(parameter)
        values += parameter.numel()
    if bucket:
        yield bucket


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Arithmetic of a precision.

    Args:
        device: that computes.
        precision: ``"float32"`` changes nothing, ``"bfloat16"`` is torch's autocast.

    Yields:
        Nothing.
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield
