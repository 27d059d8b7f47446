"""What a run gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress.events import Reporter, silent
from cnncompress.network import Network
from cnncompress.output import write_results
from cnncompress.plan import Plan


@dataclass(frozen=True)
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

    def save(self, path: str | Path, *, overwrite: bool = False, report: Reporter = silent) -> Path:
        """Write model.safetensors, plan.json, model.onnx, report.json and report.html.

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
