"""Keeping the state of a training on disk while it runs."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress.distributed import World
from cnncompress.training.loop import Trainer
from cnncompress.training.state import read_state, write_state
from cnncompress.training.summary import Epoch

KEEP_SECONDS = 300.0
"""How much work an interruption may cost, unless an epoch takes less."""


class Keeper:
    """Keeps the state after each epoch, and now and then in the middle of one.

    Args:
        file: that gets the state; None keeps nothing.
        model: that is trained.
        trainer: that trains it.
        settings: JSON-able; what must be the same when the training is resumed.
        seconds: between two states in the middle of an epoch, at least.
        world: the processes; the first writes, and all read the same file.
    """

    def __init__(
        self,
        file: Path | None,
        model: nn.Module,
        trainer: Trainer,
        settings: Mapping[str, Any],
        *,
        seconds: float,
        world: World,
    ) -> None:
        self._file, self._model, self._trainer, self._settings = file, model, trainer, settings
        self._seconds, self._world = seconds, world
        self._kept = time.monotonic()
        self.history: list[Epoch] = []
        """Of the epochs that were run to their end."""

    def resume(self) -> None:
        """Take up the state in the file, that of any number of processes."""
        if self._file is not None:
            found = read_state(self._file, self._model, self._trainer, self._settings)
            self.history = [Epoch(**entry) for entry in found]

    def after_step(self) -> None:
        """Keep the state if the last one is old; the other processes wait for the first at the next step."""
        if self._world.is_first and time.monotonic() - self._kept >= self._seconds:
            self._write()

    def after_epoch(self, epoch: Epoch) -> None:
        """Keep the state.

        Args:
            epoch: that has ended.
        """
        self.history.append(epoch)
        self._world.first(self._write)

    def _write(self) -> None:
        if self._file is not None:
            history = [asdict(epoch) for epoch in self.history]
            write_state(self._file, self._model, self._trainer, self._settings, history)
        self._kept = time.monotonic()
