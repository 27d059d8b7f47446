"""Events drawn on stderr: a live bar in a terminal, one line for each finished stage elsewhere."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from cnncompress.cli.terminal import console as terminal
from cnncompress.events import EpochDone, Event, LayerDone, Note, StageAdvanced, StageDone, StageStarted

_WITH_RATE = {"images", "bytes"}  # of the others every step takes another time


class Progress:
    """A reporter and context manager; use it as ``report``.

    Whatever a library prints in the meantime goes to stderr, where it can't end up between the braces of a
    JSON document; when quiet, it is dropped, and so are warnings.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or terminal(stderr=True, soft_wrap=True)
        self._quiet = quiet
        self._around = ExitStack()
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, int] = {}
        self._units: dict[str, str] = {}
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            _Amount(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[detail]}", markup=False, style="dim"),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal or self._console.is_dumb_terminal,
        )

    def __enter__(self) -> Self:
        self._around.enter_context(_silence() if self._quiet else redirect_stdout(sys.stderr))
        self._around.callback(self._bars.stop)
        return self

    def __exit__(self, *exception: object) -> None:
        self._around.close()

    def __call__(self, event: Event) -> None:
        """Draw one event.

        Args:
            event: of the toolkit; unknown kinds are ignored.
        """
        if self._quiet:
            return
        match event:
            case StageStarted(stage, total, unit):
                self._bars.start()
                self._counts[stage], self._units[stage] = 0, unit
                if stage in self._tasks:
                    self._bars.remove_task(self._tasks[stage])
                self._tasks[stage] = self._bars.add_task(stage, total=total, unit=unit, detail="")
            case StageAdvanced(stage, steps) if stage in self._tasks:
                self._counts[stage] += steps
                self._bars.advance(self._tasks[stage], steps)
            case EpochDone(epoch, epochs, loss, test_loss, accuracy, judged_on):
                test = f"on {judged_on} {test_loss:.4f}"
                right = "" if accuracy is None else f", {accuracy:.2f} % right"
                self._line(f"epoch {epoch} of {epochs}: loss {loss:.4f}, {test}{right}")
            case LayerDone(name, _, ranks):
                self._layer(name, steps=1 if ranks else 0)
            case StageDone(stage):
                if stage in self._tasks:
                    self._bars.remove_task(self._tasks.pop(stage))
                self._line(f"{stage}: {self._summary(event)}")
            case Note(message):
                self._line(f"note: {message}", style="yellow")

    def _layer(self, name: str, steps: int) -> None:
        # layers that stay as they are don't count as steps
        for stage, task in self._tasks.items():
            if self._units[stage] == "layers":
                self._counts[stage] += steps
                self._bars.update(task, advance=steps, detail=name)

    def _line(self, text: str, style: str = "dim") -> None:
        self._console.print(text, style=style, markup=False)

    def _summary(self, done: StageDone) -> str:
        count, unit = self._counts.get(done.stage, 0), self._units.get(done.stage, "")
        if done.images and unit in {"", "images"}:  # as they were read, whatever the bar was told
            count, unit = done.images, "images"
        parts = [f"{amount(count, unit)} in {done.seconds:.1f} s" if count else f"{done.seconds:.1f} s"]
        rates = {unit: count} if count and unit in _WITH_RATE else {}
        if done.images:
            rates["images"] = done.images
        parts += [f"{amount(number / max(done.seconds, 1e-9), of)}/s" for of, number in rates.items()]
        if done.images:
            parts.append(f"{done.waited:.1f} s of them waiting for images")
        return ", ".join(parts)


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what is printed, warned of and logged below errors."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _Amount(ProgressColumn):
    """How much is done, of how much, how fast."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        done = amount(task.completed, unit) if task.completed else ""
        if done and task.total is not None:
            done = f"{amount(task.completed, unit, bare=unit != 'bytes')} of {amount(task.total, unit)}"
        speed = f", {amount(task.speed, unit)}/s" if task.speed and unit in _WITH_RATE else ""
        return Text(done + speed)


def amount(value: float, unit: str, *, bare: bool = False) -> str:
    """A number with its unit.

    Args:
        value: how many.
        unit: for example ``"images"``; ``"bytes"`` become megabytes.
        bare: leave the unit out.

    Returns:
        For example ``"24.1 images"`` or ``"63.8 MB"``.
    """
    if unit == "bytes":
        return f"{value / 1e6:.1f} MB"
    text = (
        f"{value:.0f}"
        if value == round(value) or value >= 100
        else f"{value:.1f}"
        if value >= 1
        else f"{value:.2f}"
    )
    if bare or not unit:
        return text
    return f"{text} {unit.removesuffix('s') if value == 1 else unit}"
