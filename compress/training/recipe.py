"""How to train, as data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal

from cnncompress.errors import OptionError
from cnncompress.training.augmentation import Augmentation

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "step", "cosine")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the images, at most.
        learning_rate: the highest of the schedule.
        batch_size: images of one step, of all processes together.
        accumulate: parts that a step's batch is run in, one after the other, to save memory; the result is
            the same but for rounding, unless BatchNorm is trained, which sees a part at a time.
        optimizer: ``"sgd"`` or ``"adamw"``.
        momentum: of the gradient; of AdamW it is the first beta.
        nesterov: look ahead along the momentum (SGD alone).
        weight_decay: pulls weights towards zero.
        decay_vectors: whether biases and the scales and shifts of norms decay too.
        decay_factors: whether the factors of replaced layers decay too: pulling both of a pair to zero is
            another penalty than on their product, which the solution was made for.
        schedule: of the learning rate: ``"constant"``, ``"step"`` or ``"cosine"`` (down to zero).
        warmup: share of the run in which the rate rises linearly from zero.
        drops: shares of the run at which a ``"step"`` schedule lowers the rate.
        drop_factor: by how much it does.
        label_smoothing: share of the target that is spread over all classes.
        clip_norm: largest norm of a step's gradient; None leaves it alone.
        patience: epochs without a better judgement after which fine-tuning stops; None runs all.
        precision: of the network's arithmetic while training: ``"float32"`` or ``"bfloat16"`` (autocast:
            weights and the loss stay float32).
        channels_last: use that memory format where the network allows it.
        augmentation: of the training images.
        seed: of the weights' start, the order of the images, their augmentation and of dropout.
    """

    epochs: int = 5
    learning_rate: float = 1e-3
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_vectors: bool = False
    decay_factors: bool = False
    schedule: Literal["constant", "step", "cosine"] = "constant"
    warmup: float = 0.0
    drops: tuple[float, ...] = ()
    drop_factor: float = 0.1
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise OptionError(f"learning_rate must be above 0, got {self.learning_rate:g}; try 0.001")
        for name in ("momentum", "label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 0 and below 1, got {getattr(self, name):g}")
        if not (isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise OptionError(f"weight_decay must be at least 0, got {self.weight_decay:g}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise OptionError(f"clip_norm must be above 0, got {self.clip_norm:g}; None doesn't clip")
        if self.patience is not None and self.patience < 1:
            raise OptionError(f"patience must be at least 1, got {self.patience}; None runs all epochs")
        if not all(0 < share < 1 for share in self.drops) or list(self.drops) != sorted(self.drops):
            raise OptionError(f"drops must rise between 0 and 1, got {self.drops}")
        if self.seed < 0:
            raise OptionError(f"seed must be at least 0, got {self.seed}")
        choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise OptionError(
                    f"{name} must be {', '.join(known[:-1])} or {known[-1]}, got {getattr(self, name)!r}"
                )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            A dictionary that `from_json` reads back.
        """
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Recipe":
        """Read what `to_json` wrote.

        Args:
            value: the fields.

        Returns:
            The recipe.
        """
        augmentation = Augmentation(**value["augmentation"])
        return cls(**{**value, "augmentation": augmentation, "drops": tuple(value["drops"])})
