"""What a compressed network must keep."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cnncompress.errors import OptionError

Judged = Literal["point", "upper"]
GATES: tuple[Judged, ...] = get_args(Judged)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of a check; those that are None aren't checked.

    Attributes:
        max_drop: of top-1 accuracy, in points.
        max_drop_top5: of top-5 accuracy, in points.
        min_speedup: times fewer multiply-accumulates, of what the run was asked to reduce.
        max_size: of model.safetensors, bytes.
        gate: what of a drop is judged: ``"point"``, the drop itself, or ``"upper"``, the upper end of its
            95 % confidence interval.
    """

    max_drop: float | None = None
    max_drop_top5: float | None = None
    min_speedup: float | None = None
    max_size: int | None = None
    gate: Judged = "point"

    def __post_init__(self) -> None:
        for name, limit in (("max_drop", self.max_drop), ("max_drop_top5", self.max_drop_top5)):
            if limit is not None and not -100 <= limit <= 100:
                raise OptionError(f"{name} is in points of accuracy, between -100 and 100, got {limit}")
        if self.min_speedup is not None and not (math.isfinite(self.min_speedup) and self.min_speedup > 0):
            raise OptionError(f"min_speedup must be above 0, for example 2, got {self.min_speedup}")
        if self.max_size is not None and self.max_size < 1:
            raise OptionError(f"max_size must be at least one byte, got {self.max_size}")
        if self.gate not in GATES:
            raise OptionError(f"gate must be {' or '.join(GATES)}, got {self.gate!r}")

    @property
    def of_accuracy(self) -> bool:
        """Whether images with labels are needed."""
        return self.max_drop is not None or self.max_drop_top5 is not None

    @property
    def any(self) -> bool:
        """Whether there is anything to check."""
        return self.of_accuracy or self.min_speedup is not None or self.max_size is not None
