"""What a repair did, as part of the report."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LayerRepair:
    """What became of one replaced layer.

    Attributes:
        name: of the layer.
        chosen: key of ``errors`` of what was kept.
        errors: relative squared error of the layer's response after its activation on held-out images, for
            each candidate, all on the prefix that was repaired by then; empty if nothing could be had.
        reason: why some candidate could not be had; empty if all could.
    """

    name: str
    chosen: str
    errors: Mapping[str, float]
    reason: str = ""

    @property
    def before(self) -> float | None:
        """The error of the layer as it was; None if it wasn't looked at."""
        return next(iter(self.errors.values()), None)

    @property
    def after(self) -> float | None:
        """The error of what was kept; None if the layer wasn't looked at."""
        return self.errors.get(self.chosen)


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What a repair did.

    Attributes:
        layers: each replaced layer, in the order of execution.
        norms: names of the BatchNorms whose statistics were estimated again and kept.
        output_before: relative squared error of the network's output on held-out images, at the start.
        output_after: the same of the network that was returned.
        seconds: that all took.
        kept: whether anything was changed.
        note: what else a user should know, for example which step was undone.
    """

    layers: tuple[LayerRepair, ...]
    norms: tuple[str, ...]
    output_before: float
    output_after: float
    seconds: float
    kept: bool
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Entries of the report.

        Returns:
            JSON-able values.
        """
        layers = [
            {**asdict(layer), "errors": dict(layer.errors), "before": layer.before, "after": layer.after}
            for layer in self.layers
        ]
        return {
            "kept": self.kept,
            "output_error_before": self.output_before,
            "output_error_after": self.output_after,
            "layers": layers,
            "norms": list(self.norms),
            "seconds": self.seconds,
            "note": self.note,
        }
