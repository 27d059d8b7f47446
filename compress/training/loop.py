"""The loop: gradient descent on some parameters of a network, epoch by epoch."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnncompress.errors import ModelError
from cnncompress.training.images import Images, LabelledBatch
from cnncompress.training.optimizer import build_optimizer, set_learning_rate
from cnncompress.training.recipe import Recipe
from cnncompress.training.schedule import learning_rate

AUXILIARY = 0.3
"""What the loss of an auxiliary classifier counts (Szegedy et al., Going Deeper with Convolutions)."""

Loss = Callable[[Tensor, LabelledBatch], Tensor]
"""From a network's output and the batch that it came from to a mean over the images."""


class Trainer:
    """Trains parameters by a recipe; whoever drives it looks at the network after each epoch and may stop.

    What is random in an epoch depends on the seed and the epoch's number alone, so that a trainer which
    takes up another's state goes on as that one would have.

    Args:
        model: in the mode that it shall be trained in.
        trained: its parameters that change.
        images: to train on.
        loss: what to lower.
        recipe: how.
    """

    def __init__(
        self, model: nn.Module, trained: Sequence[nn.Parameter], images: Images, loss: Loss, recipe: Recipe
    ) -> None:
        self._model, self._trained, self._images = model, tuple(trained), images
        self._loss, self._recipe = loss, recipe
        self._optimizer = build_optimizer(self._trained, recipe)
        self._device = self._trained[0].device
        self.epoch = 0
        """Epochs that were run."""

    def run_epoch(self, advanced: Callable[[int], None] = lambda images: None) -> float:
        """Go once over all images; in training mode a single one that is left over is left out.

        Args:
            advanced: is told the number of images after each step.

        Returns:
            The mean loss; NaN as soon as a step's loss isn't finite, and then the weights are those before
            that step.
        """
        recipe = self._recipe
        steps = math.ceil(len(self._images) / recipe.batch_size)
        seed = int(np.random.SeedSequence((recipe.seed, self.epoch)).generate_state(1, np.uint64)[0] >> 1)
        order = torch.Generator().manual_seed(seed)
        total, seen = torch.zeros((), device=self._device), 0
        with _seeded(seed, self._device):
            batches = self._images.batches(recipe.batch_size, order, recipe.augmentation)
            for step, batch in enumerate(batches):
                if step > 0 and len(batch.images) == 1 and self._model.training:
                    break  # left over; on maps of one pixel BatchNorm fails on it
                done = (self.epoch * steps + step + 0.5) / (recipe.epochs * steps)
                set_learning_rate(self._optimizer, learning_rate(recipe, done))
                value = self._step(batch)
                if value is None:
                    return math.nan
                total += value * len(batch.images)
                seen += len(batch.images)
                advanced(len(batch.images))
        self.epoch += 1
        return float(total) / seen

    def _step(self, batch: LabelledBatch) -> Tensor | None:
        try:
            with autocast(self._device, self._recipe.precision):
                output = self._model(batch.images)
        except ValueError as error:  # BatchNorm has nothing to compare a single value with
            raise ModelError(
                f"a batch of shape {tuple(batch.images.shape)} can't be trained on: {error}; "
                "take larger batches or larger images"
            ) from None
        value = self._loss_of(output, batch)
        if not bool(torch.isfinite(value)):
            return None
        self._optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        if self._recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._trained, self._recipe.clip_norm)
        self._optimizer.step()
        return value.detach()

    def _loss_of(self, output: Any, batch: LabelledBatch) -> Tensor:
        """The loss of the output; of auxiliary ones too, where a network in training gives some."""
        first, *auxiliary = output if isinstance(output, tuple) else (output,)
        value = self._loss(first.to(batch.images.dtype), batch)
        for other in auxiliary:
            if other is not None:
                value = value + AUXILIARY * self._loss(other.to(batch.images.dtype), batch)
        return value

    def state(self) -> dict[str, Any]:
        """What another trainer needs to go on, the weights apart.

        Returns:
            Tensors and plain values.
        """
        return {"epoch": self.epoch, "optimizer": self._optimizer.state_dict()}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on where another trainer of the same recipe and parameters was; load its weights first.

        Args:
            state: what its `state` returned.
        """
        self.epoch = int(state["epoch"])
        self._optimizer.load_state_dict(dict(state["optimizer"]))


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


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and the like draw from the seed; the caller's generators stay as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
