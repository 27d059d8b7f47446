"""What a fine-tuning of a folder of results is asked for, in a form that survives an interruption."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cnncompress.errors import OptionError, unknown_name
from cnncompress.finetuning.choice import WHICH
from cnncompress.training.distill import Distillation
from cnncompress.training.recipe import Recipe
from cnncompress.training.recipes import recipe

_PATHS = ("folder", "training", "evaluation", "checkpoint", "output")


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """What to train on what, and where the result goes.

    Attributes:
        folder: that ``cnncompress MODEL`` or `Result.save` wrote.
        training: images, as `open_source` knows them; None for the demo's own, or for those that are given
            in memory.
        evaluation: images with labels, for the accuracies before and after; None for the demo's own.
        recipe: how to train.
        distill: learn from the original network rather than from labels.
        layers: ``"all"``, or ``"upper"`` for those above the replaced ones alone.
        holdout: share of the training images that judge.
        images: training images, at most; None for all.
        max_bad: largest share of images that may be unreadable.
        memory: bytes for the decoded pixels of the training images.
        device: torch device.
        network: name of the original, where the folder's own can't be taken: ``package.module:factory``.
        checkpoint: the original's weights, where they were a file.
        weights: the original's weights by name.
        output: folder of the result; None replaces ``folder`` when all is done.
        keep_seconds: between two times that the state is kept within an epoch.
        overwrite: earlier results in ``output``, or an interrupted run, may be replaced.
    """

    folder: Path
    training: Path | None = None
    evaluation: Path | None = None
    recipe: Recipe = field(default_factory=lambda: recipe("finetune"))
    distill: Distillation | None = None
    layers: str = "all"
    holdout: float = 0.2
    images: int | None = None
    max_bad: float = 0.01
    memory: int = 1_000_000_000
    device: str = "cpu"
    network: str | None = None
    checkpoint: Path | None = None
    weights: str = "default"
    output: Path | None = None
    keep_seconds: float = 300.0
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in _PATHS:
            value = getattr(self, name)
            if value is not None:  # a run may be resumed from another working folder
                object.__setattr__(self, name, Path(value).expanduser().resolve())
        if self.layers not in WHICH:
            raise OptionError(unknown_name("choice of layers", self.layers, WHICH))
        if not 0 < self.holdout < 1:
            raise OptionError(f"holdout must lie between 0 and 1, got {self.holdout:g}; try 0.2")
        if self.images is not None and self.images < 2:
            raise OptionError(
                f"images must be at least 2, one to train on and one to judge, got {self.images}"
            )

    @property
    def target(self) -> Path:
        """Folder of the result."""
        return self.output or self.folder

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            A dictionary that `from_json` reads back.
        """
        plain = {known.name: getattr(self, known.name) for known in fields(self)}
        paths = {name: None if plain[name] is None else str(plain[name]) for name in _PATHS}
        distill = None if self.distill is None else asdict(self.distill)
        return plain | paths | {"recipe": self.recipe.to_json(), "distill": distill}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FinetuneJob":
        """Read what `to_json` wrote.

        Args:
            value: the fields.

        Returns:
            The job.
        """
        distill = None if value["distill"] is None else Distillation(**value["distill"])
        return cls(**{**value, "recipe": Recipe.from_json(value["recipe"]), "distill": distill})


def is_own_code(network: str | None) -> bool:
    """Whether a network's name is that of a factory.

    Args:
        network: as `load_network` takes it, or None.

    Returns:
        True for ``package.module:factory``.
    """
    return network is not None and ":" in network and not network.startswith("timm:")
