"""The HTML report of a run: one file that needs no network and no script."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from cnncompress.changed_figure import changed_bars
from cnncompress.effective_kernel import filter_arrays
from cnncompress.figures import cost_bars, energy_curves, error_curves
from cnncompress.filter_figures import color_clouds, filter_tiles
from cnncompress.page import page_templates
from cnncompress.planner_figures import loss_bars, probe_scatter, time_scatter
from cnncompress.thumbnails import PREFIX

# a search for a drop tells of its trials alone where the rule tells nothing
_PLANNER: Mapping[str, Any] = dict.fromkeys(
    ("unit", "distortion", "setting", "asked", "budget", "spent", "fixed", "total", "loss", "bound", "gap"),
) | {"rounds": [], "layers": [], "trials": []}


def render_html(report: Mapping[str, Any]) -> str:
    """Turn a report into one self-contained HTML page.

    Args:
        report: what ``report.json`` holds (schema 1); parts that were not measured may be missing or null.

    Returns:
        The page, UTF-8 text.
    """
    layers = report.get("layers") or []
    filters = filter_arrays(report["filters"]) if report.get("filters") else None
    planner = _PLANNER | report["planner"] if report.get("planner") else None
    changed = _with_safe_pictures(report["changed"]) if report.get("changed") else None
    drawn = {
        "changed_figure": changed_bars(changed or {}),
        "energy_figure": energy_curves(report.get("energy") or {}, layers),
        "error_figure": error_curves(layers),
        "cost_figure": cost_bars(layers, planner),
        "loss_figure": loss_bars(planner or {}),
        "time_figure": time_scatter(planner or {}, layers, report.get("layer_timing")),
        "probe_figure": probe_scatter(planner or {}),
        "cloud_figure": color_clouds(*filters) if filters else "",
        "tile_figure": filter_tiles(*filters) if filters else "",
    }
    return (
        page_templates()
        .get_template("report.html.jinja")
        .render(
            report=_with_defaults(report),
            planner=planner,
            changed=changed,
            **{name: Markup(figure) for name, figure in drawn.items()},  # noqa: S704  # matplotlib escapes
        )
    )


def _with_safe_pictures(changed: Mapping[str, Any]) -> dict[str, Any]:
    """Without addresses of anything else than pictures within the page."""
    examples = [
        {**one, "picture": one["picture"] if str(one.get("picture") or "").startswith(PREFIX) else None}
        for one in changed.get("examples") or []
    ]
    return {**changed, "examples": examples}


def _with_defaults(report: Mapping[str, Any]) -> dict[str, Any]:
    # reports of runs that skipped a stage lack its part; the template then leaves it out
    empty: dict[str, Any] = {
        "layers": [],
        "fidelity": None,
        "accuracy": None,
        "latency": [],
        "layer_timing": None,
        "filters": None,
        "finetune": None,
        "timing": {},
        "peak_rss_mb": None,
        "calibration": None,
        "options": {},
        "environment": {},
        "notes": [],
        "weights": "",
        "data_hash": "",
        "input_size": None,
        "preprocess": None,
        "created": "",
    }
    return empty | {key: value for key, value in report.items() if value is not None}
