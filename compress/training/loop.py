"""The loop: gradient descent on some parameters of a network, epoch by epoch."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cnncompress.distributed import ALONE, World
from cnncompress.training.feed import Feed, Step, drawn_seed
from cnncompress.training.gradients import Gradients
from cnncompress.training.images import Images
from cnncompress.training.losses import Loss
from cnncompress.training.optimizer import build_optimizer, set_learning_rate
from cnncompress.training.recipe import Recipe
from cnncompress.training.schedule import learning_rate

__all__ = ["Loss", "Trainer"]


class Trainer:
    """Trains parameters by a recipe; whoever drives it looks at the network after each epoch and may stop.

    What is random in a step depends on the seed and the numbers of its epoch and step alone, and in dropout
    on the process too, so that a trainer which takes up another's state goes on as that one would have, on
    as many processes to the bit. Without dropout the weights are the same on any number but for rounding.

    Args:
        model: in the mode that it shall be trained in, with the same weights in all processes.
        trained: its parameters that change.
        images: to train on.
        loss: what to lower.
        recipe: how.
        undecayed: those of the parameters that decay only if the recipe's ``decay_factors`` says so.
        world: the processes that share each batch; all must build and drive the trainer alike.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: Sequence[nn.Parameter],
        images: Images,
        loss: Loss,
        recipe: Recipe,
        *,
        undecayed: Collection[nn.Parameter] = (),
        world: World = ALONE,
    ) -> None:
        self._model, self._trained, self._images = model, tuple(trained), images
        self._recipe, self._world = recipe, world
        self._optimizer = build_optimizer(self._trained, recipe, undecayed)
        self._device = self._trained[0].device
        self._gradients = Gradients(model, self._trained, loss, recipe.precision, world)
        self._feed: Feed | None = None
        self._drawn: torch.Tensor | None = None
        self._total, self._seen = 0.0, 0
        self.epoch = 0
        """Epochs that were run to their end."""
        self.step = 0
        """Steps that were taken in the epoch that is running."""

    def run_epoch(
        self,
        advanced: Callable[[int], None] = lambda images: None,
        stepped: Callable[[], None] = lambda: None,
    ) -> float:
        """Go once over all images, or over those that are left of an epoch whose state was taken up.

        In training mode a single image that is left over is left out.

        Args:
            advanced: is told the number of images after each step, those of all processes.
            stepped: called after each step; `state` may be asked for.

        Returns:
            The mean loss over the images of all processes; NaN as soon as the loss or the gradient of a step
            isn't finite, and then the weights are those before that step.
        """
        steps = math.ceil(len(self._images) / self._recipe.batch_size)
        self._feed = Feed(
            self._images, self._recipe, self.epoch, self._world, first=self.step, state=self._drawn
        )
        with _own_draws(self._device):
            for step in self._feed:
                # of a single one that is left over, on maps of one pixel, BatchNorm can tell nothing
                left_out = step.images == 0 or (step.images == 1 and step.number > 0 and self._model.training)
                if not left_out:
                    done = (self.epoch * steps + step.number + 0.5) / (self._recipe.epochs * steps)
                    set_learning_rate(self._optimizer, learning_rate(self._recipe, done))
                    value = self._step(step)
                    if value is None:
                        return math.nan
                    self._total += value * step.images
                    self._seen += step.images
                    advanced(step.images)
                self.step = step.number + 1
                stepped()
        self._images.settle(self._world)
        self._images.check_any(self._seen)
        mean = self._total / self._seen
        self._begin(self.epoch + 1)
        return mean

    def _step(self, step: Step) -> float | None:
        torch.manual_seed(drawn_seed(self._recipe.seed, self.epoch, step.number, self._world.rank))
        value = self._gradients.of(step.parts)
        norm = nn.utils.get_total_norm([one.grad for one in self._trained if one.grad is not None])
        if not (math.isfinite(value) and bool(torch.isfinite(norm))):
            return None
        if self._recipe.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._trained, self._recipe.clip_norm, norm)
        self._optimizer.step()
        return value

    def _begin(self, epoch: int) -> None:
        self.epoch, self.step = epoch, 0
        self._total, self._seen = 0.0, 0
        self._feed = self._drawn = None

    def state(self) -> dict[str, Any]:
        """What another trainer needs to go on, the weights apart.

        Returns:
            Tensors and plain values; those of the optimizer aren't copies.
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "total": self._total,
            "seen": self._seen,
            "drawn": self._drawn if self._feed is None else self._feed.state(),
            "optimizer": self._optimizer.state_dict(),
        }

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on where another trainer of the same recipe and parameters was; load its weights first.

        Args:
            state: what its `state` returned, on any number of processes.
        """
        self._begin(int(state["epoch"]))
        self.step, self._drawn = int(state["step"]), state["drawn"]
        self._total, self._seen = float(state["total"]), int(state["seen"])
        self._optimizer.load_state_dict(dict(state["optimizer"]))


@contextmanager
def _own_draws(device: torch.device) -> Iterator[None]:
    """Dropout and the like draw by themselves; the caller's generators stay as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
