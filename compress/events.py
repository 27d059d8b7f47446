"""What happens during a run, as small data objects.

Functions that take long accept ``report``, a callable that receives these. The command line draws
them, a notebook may append them to a list, tests look at them.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins; ``total`` counts its steps in ``unit`` (for example images), None if unknown."""

    stage: str
    total: int | None = None
    unit: str = "images"


@dataclass(frozen=True)
class StageAdvanced(Event):
    """``steps`` more steps of the current stage are done."""

    stage: str
    steps: int = 1


@dataclass(frozen=True)
class StageDone(Event):
    """A stage has ended after ``seconds``.

    Where it read images: how many all processes read, and how many seconds this one ``waited`` for its own.
    """

    stage: str
    seconds: float
    images: int = 0
    waited: float = 0.0


@dataclass(frozen=True)
class LayerDone(Event):
    """One layer has been replaced (or left alone, with the reason); solving took ``seconds``."""

    name: str
    method: str
    ranks: tuple[int, ...]
    error: float | None
    reason: str
    seconds: float = 0.0


@dataclass(frozen=True)
class EpochDone(Event):
    """One of ``epochs`` passes over the training images is done; the losses are means over the images.

    ``loss`` was measured while training, ``test_loss`` and ``accuracy`` (percent) on other images, named by
    ``judged_on``.
    """

    epoch: int
    epochs: int
    loss: float
    test_loss: float
    accuracy: float | None
    judged_on: str = "test images"


@dataclass(frozen=True)
class Note(Event):
    """Something the user should know but that stops nothing."""

    message: str


Reporter = Callable[[Event], None]


def silent(event: Event) -> None:
    """The reporter that drops everything.

    Args:
        event: ignored.
    """
