"""What a run gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cnncompress.events import Reporter, silent
from cnncompress.network import Network
from cnncompress.output import write_results
from cnncompress.plan import Plan
from cnncompress.summary_html import headline, result_html

if TYPE_CHECKING:
    from cnncompress.plots import Plots


@dataclass(frozen=True, repr=False)
class Result:
    """A compressed network.

    Attributes:
        model: plain torch layers, in evaluation mode.
        network: the original.
        plan: every decision.
        report: what report.json holds.
    """

    model: nn.Module
    network: Network
    plan: Plan
    report: dict[str, Any]

    @property
    def plot(self) -> "Plots":
        """The report's drawings, for example ``result.plot.errors()``."""
        from cnncompress.plots import Plots  # noqa: PLC0415  # loads slowly

        return Plots(self.report)

    def save(self, path: str | Path, *, overwrite: bool = False, report: Reporter = silent) -> Path:
        """Write model.safetensors, model.py, plan.json, model.onnx, report.json and report.html.

        Args:
            path: of a new folder.
            overwrite: whether earlier results there may be replaced.
            report: receives the progress.

        Returns:
            The folder.
        """
        return write_results(
            path,
            self.model,
            self.plan.to_json(),
            self.report,
            self.network,
            overwrite=overwrite,
            progress=report,
        )

    def __repr__(self) -> str:
        return f"Result({headline(self.report)})"

    def _repr_html_(self) -> str:
        return result_html(self.report)
