"""The epochs of a fine-tuning, how they are judged on held-out images, and when they end."""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.distributed import World
from cnncompress.errors import NumericsError
from cnncompress.finetuning.objective import Objective
from cnncompress.training.images import Images
from cnncompress.training.loop import Trainer
from cnncompress.training.losses import Verdict, judge
from cnncompress.training.recipe import Recipe

_NOTHING = 1e-6  # loss that rounding alone can cause
_EXPLODED = 10.0  # times the held-out loss of the start
_NOTHING_LOST = "nothing is lost at the start on the held-out images, so nothing was trained"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained on what.

    Attributes:
        model: in evaluation mode.
        trained: its parameters that change, by name.
        undecayed: those of them that decay only if the recipe says so.
        fitted: images to train on.
        held_out: images that judge.
        objective: what training lowers, and what counts on the held-out images.
        recipe: how to train.
        world: processes that share the work.
    """

    model: nn.Module
    trained: Mapping[str, nn.Parameter]
    undecayed: Collection[nn.Parameter]
    fitted: Images
    held_out: Images
    objective: Objective
    recipe: Recipe
    world: World


class Run:
    """A fine-tuning from its start or from a kept state; whoever drives it asks `ending` before each epoch.

    Args:
        task: what is trained on what.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._trainer = Trainer(
            task.model,
            tuple(task.trained.values()),
            task.fitted,
            task.objective.loss,
            task.recipe,
            undecayed=task.undecayed,
            world=task.world,
        )
        self.target: Verdict | None = None
        """Of the original network, where it is known."""
        self.found: list[Verdict] = []
        """Of the start and of each epoch."""
        self.losses: list[float] = []
        """Mean loss over the training images of each epoch, while they were trained on."""
        self.seconds: list[float] = []
        """Of each epoch, its judgement included."""
        self.resumed: list[int] = []
        """Epochs that were complete each time the run was taken up."""
        self.kept = 0
        """Epoch of the best weights; 0 for the start."""
        self._best = self._weights()
        self._broken = ""
        self._begun: float | None = None
        self._before = 0.0  # seconds of a half epoch that was taken up

    def begin(self, original: nn.Module | None) -> None:
        """Judge the start.

        Args:
            original: the network that was compressed, judged too; None where it isn't known.

        Raises:
            NumericsError: an output is NaN or infinite already.
        """  # noqa: DOC502  # raised by what is called
        if original is not None:
            self.target = self._judge(original)
            _check_finite(self.target, "original")
        self.found = [self._judge(self._task.model)]
        _check_finite(self.found[0], "compressed")

    def run_epoch(self, stepped: Callable[[], None]) -> bool:
        """Train for an epoch, or for the rest of one, and judge it.

        Args:
            stepped: called after each step; `state` may be asked for there.

        Returns:
            Whether all went well; otherwise `ending` says what happened, and nothing was judged.
        """
        self._begun = time.perf_counter()
        with self._task.objective.during:
            mean = self._trainer.run_epoch(stepped=stepped)
        verdict = self._judge(self._task.model) if math.isfinite(mean) else Verdict(math.nan, None)
        if not math.isfinite(verdict.loss):
            epoch = len(self.found)
            self._broken = f"the loss became infinite or NaN in epoch {epoch}: {self._slower()}"
            return False
        self.losses.append(mean)
        self.found.append(verdict)
        self.seconds.append(self._elapsed())
        self._begun, self._before = None, 0.0
        if _is_better(verdict, self.found[self.kept]):
            self._best, self.kept = self._weights(), len(self.found) - 1
        return True

    def ending(self) -> str | None:
        """Why no other epoch follows.

        Returns:
            One line, which says so where the start is kept; None where one follows.
        """
        reason = self._reason()
        if reason is None or reason == _NOTHING_LOST or self.kept > 0:
            return reason
        return f"{reason}; nothing was better than the start, which is kept"

    def _reason(self) -> str | None:
        start, last, epoch = self.found[0], self.found[-1], len(self.found) - 1
        target, patience = self.target, self._task.recipe.patience
        if self._broken:
            return self._broken
        if epoch == 0:
            if target is not None and start.reaches(target, tolerance=_NOTHING):
                return _NOTHING_LOST
            return None
        if target is not None and self.kept == epoch and last.reaches(target):
            return "the drop is recovered on the held-out images"
        if last.loss > _EXPLODED * max(start.loss, _NOTHING):
            return (
                f"the held-out loss rose to {last.loss:.3g} in epoch {epoch}, more than {_EXPLODED:g} times "
                f"that of the start ({start.loss:.3g}): {self._slower()}"
            )
        if epoch >= self._task.recipe.epochs:
            return "all epochs were run"
        if patience is not None and epoch - self.kept >= patience:
            return f"{patience} epoch{'s' if patience > 1 else ''} in a row brought nothing better"
        return None

    def take_best(self) -> None:
        """Put the best weights that were seen into the network."""
        with torch.no_grad():
            for name, parameter in self._task.trained.items():
                parameter.copy_(self._best[name])

    def state(self) -> dict[str, Any]:
        """What another run of the same task needs to go on.

        Returns:
            Tensors and plain values.
        """
        return {
            "weights": self._weights(),
            "best": self._best,
            "trainer": self._trainer.state(),
            "target": None if self.target is None else [self.target.loss, self.target.accuracy],
            "found": [[verdict.loss, verdict.accuracy] for verdict in self.found],
            "losses": list(self.losses),
            "seconds": list(self.seconds),
            "resumed": list(self.resumed),
            "kept": self.kept,
            "elapsed": self._elapsed() if self._begun is not None else 0.0,
        }

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on where another run was.

        Args:
            state: what its `state` returned.

        Raises:
            ValueError: it is of another network.
        """
        for name, parameter in self._task.trained.items():
            for part in ("weights", "best"):
                if state[part][name].shape != parameter.shape:
                    raise ValueError(f"{name} has another shape")
        with torch.no_grad():
            for name, parameter in self._task.trained.items():
                parameter.copy_(state["weights"][name])
        like = next(iter(self._task.trained.values()))
        self._best = {name: state["best"][name].to(like.device) for name in self._task.trained}
        self._trainer.take_up(state["trainer"])
        self.target = None if state["target"] is None else Verdict(*state["target"])
        self.found = [Verdict(*verdict) for verdict in state["found"]]
        self.losses, self.seconds = list(state["losses"]), list(state["seconds"])
        self.resumed = [*state["resumed"], len(self.losses)]
        self.kept, self._before = int(state["kept"]), float(state["elapsed"])
        if not 0 <= self.kept < len(self.found) == len(self.losses) + 1:
            raise ValueError("its history doesn't fit together")

    def _judge(self, model: nn.Module) -> Verdict:
        task = self._task
        at_once = math.ceil(task.recipe.batch_size / task.recipe.accumulate)
        return judge(model, task.held_out, task.objective.judged, at_once, task.world)

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._task.trained.items()}

    def _elapsed(self) -> float:
        begun = time.perf_counter() if self._begun is None else self._begun
        return self._before + time.perf_counter() - begun

    def _slower(self) -> str:
        return f"lower the learning rate (--lr, it was {self._task.recipe.learning_rate:g})"


def _is_better(verdict: Verdict, other: Verdict) -> bool:
    """More often right, or as often with a lower loss; by the loss alone without labels."""
    if verdict.accuracy is None or other.accuracy is None or verdict.accuracy == other.accuracy:
        return verdict.loss < other.loss
    return verdict.accuracy > other.accuracy


def _check_finite(verdict: Verdict, network: str) -> None:
    if not math.isfinite(verdict.loss):
        raise NumericsError(
            f"fine-tuning: the {network} network's outputs are NaN or infinite already, before any "
            f"training (held-out loss {verdict.loss}); look for the layer or the image that causes it"
        )
