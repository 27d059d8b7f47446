"""The report's drawings on their own: in a notebook, or from a folder of results."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnncompress.changed_figure import changed_bars
from cnncompress.effective_kernel import filter_arrays
from cnncompress.errors import OutputError
from cnncompress.figures import cost_bars, energy_curves, error_curves
from cnncompress.filter_figures import color_clouds, filter_tiles
from cnncompress.output import strict_json
from cnncompress.planner_figures import loss_bars, probe_scatter, time_scatter
from cnncompress.rank_figure import rank_bars
from cnncompress.svg import on_paper
from cnncompress.text_file import write_text

_REPORT = "report.json"


@dataclass(frozen=True)
class Plot:
    """One drawing; Jupyter shows it.

    Attributes:
        name: what it shows, one word.
        svg: a whole SVG document on white paper, so that it reads the same on light and dark pages.
    """

    name: str
    svg: str

    def save(self, path: str | Path) -> Path:
        """Write the drawing to a file, which appears whole or not at all.

        Args:
            path: of the file, replaced if it exists; ends in ``.svg``.

        Returns:
            The file.

        Raises:
            OutputError: the name ends otherwise, or the file can't be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise OutputError(f"{path}: drawings are written as SVG; give a name that ends in .svg")
        write_text(path, '<?xml version="1.0" encoding="UTF-8"?>\n' + self.svg + "\n")
        return path

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Plot({self.name!r}, {len(self.svg) / 1000:.0f} kB of SVG)"


class Plots:
    """All drawings of one run, as in its report.

    Each is an `OutputError` that says why where the run has nothing to draw.

    Args:
        report: what report.json holds.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._report: Mapping[str, Any] = strict_json(report)

    @classmethod
    def read(cls, folder: str | Path) -> "Plots":
        """The drawings of a run that was saved.

        Args:
            folder: of the results, or their report.json.

        Returns:
            The drawings.

        Raises:
            OutputError: there is no report, or it can't be read.
        """
        path = Path(folder)
        path = path / _REPORT if path.is_dir() else path
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
            raise OutputError(
                f"{path}: can't be read as a report: {problem}; give a folder that cnncompress wrote"
            ) from None
        if not isinstance(report, dict) or "layers" not in report:
            raise OutputError(f"{path}: no report of a run; give a folder that cnncompress wrote")
        return cls(report)

    def ranks(self) -> Plot:
        """Ranks of each layer, beside the full one where it is known.

        Returns:
            The drawing.
        """
        drawn = rank_bars(self._layers, self._report.get("energy") or {})
        return _plot("ranks", drawn, "no layer was replaced by one with ranks")

    def errors(self) -> Plot:
        """Held-out error along depth, for each kind of solution.

        Returns:
            The drawing.
        """
        return _plot("errors", error_curves(self._layers), "no layer was solved on responses")

    def costs(self) -> Plot:
        """MACs and, where they were measured, milliseconds of each layer before and after.

        Returns:
            The drawing.
        """
        return _plot("costs", cost_bars(self._layers, self._planner), "the network has no layers to compress")

    def energy(self) -> Plot:
        """Energy kept against rank, with the chosen ranks.

        Returns:
            The drawing.
        """
        curves = energy_curves(self._report.get("energy") or {}, self._layers)
        return _plot("energy", curves, "no layer's method has a spectrum of responses")

    def losses(self) -> Plot:
        """Share of each layer in the loss that the plan is predicted to cost.

        Returns:
            The drawing.
        """
        return _plot("losses", loss_bars(self._planner), _no_plan("--method auto or --ranks knapsack"))

    def times(self) -> Plot:
        """Milliseconds that were predicted for each layer against those measured.

        Returns:
            The drawing.
        """
        drawn = time_scatter(self._planner, self._layers, self._report.get("layer_timing"))
        return _plot("times", drawn, _no_plan("--budget latency"))

    def probes(self) -> Plot:
        """Loss that was predicted for each layer's probe against the real one.

        Returns:
            The drawing.
        """
        return _plot("probes", probe_scatter(self._planner), _no_plan("--method auto, with probes"))

    def filters(self) -> Plot:
        """Filters of the first layer before and after.

        Returns:
            The drawing.
        """
        return _plot("filters", self._filters(filter_tiles), _NO_FILTERS)

    def colors(self) -> Plot:
        """Entries of the first layer's filters in colour space, before and after.

        Returns:
            The drawing.
        """
        return _plot("colors", self._filters(color_clouds), _NO_FILTERS)

    def changed(self) -> Plot:
        """The most frequent changes from one class to another.

        Returns:
            The drawing.
        """
        found = self._report.get("changed") or {}
        reason = "no answer changed" if found else "the answers of the networks are not known as classes"
        return _plot("changed", changed_bars(found), reason)

    def __repr__(self) -> str:
        names = ("ranks", "errors", "costs", "energy", "losses", "times", "probes", "filters", "colors")
        return f"Plots({', '.join(f'.{name}()' for name in (*names, 'changed'))})"

    def _filters(self, draw: Any) -> str:
        filters = self._report.get("filters")
        return str(draw(*filter_arrays(filters))) if filters else ""

    @property
    def _layers(self) -> list[Mapping[str, Any]]:
        return self._report.get("layers") or []

    @property
    def _planner(self) -> Mapping[str, Any]:
        return self._report.get("planner") or {}


_NO_FILTERS = "the first layer that was replaced doesn't look at colours, or by no convolution"


def _no_plan(option: str) -> str:
    return f"the run has no such predictions; they are made with {option}"


def _plot(name: str, svg: str, reason: str) -> Plot:
    if not svg:
        raise OutputError(f"plot.{name}(): nothing to draw: {reason}")
    return Plot(name, on_paper(svg))
