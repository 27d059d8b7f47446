"""The HTML report of a run: one file that needs no network and no script."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cnncompress.effective_kernel import filter_arrays
from cnncompress.figures import energy_curves, error_curves, mac_bars
from cnncompress.filter_figures import color_clouds, filter_tiles
from cnncompress.formats import (
    MISSING,
    format_bytes,
    format_count,
    format_number,
    format_percent,
    format_times,
)
from cnncompress.layer_timing import is_slower


def render_html(report: Mapping[str, Any]) -> str:
    """Turn a report into one self-contained HTML page.

    Args:
        report: what ``report.json`` holds (schema 1); parts that were not measured may be missing or null.

    Returns:
        The page, UTF-8 text.
    """
    environment = Environment(
        loader=PackageLoader("cnncompress", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        times=format_times,
        percent=format_percent,
        plain=_plain,
        count=format_count,
        bytes=format_bytes,
        number=format_number,
    )
    environment.tests["slower"] = is_slower
    layers = report.get("layers") or []
    filters = filter_arrays(report["filters"]) if report.get("filters") else None
    return environment.get_template("report.html.jinja").render(
        report=_with_defaults(report),
        # matplotlib escapes the names it draws
        energy_figure=Markup(energy_curves(report.get("energy") or {}, layers)),  # noqa: S704  # matplotlib escapes
        error_figure=Markup(error_curves(layers)),  # noqa: S704  # matplotlib escapes
        mac_figure=Markup(mac_bars(layers)),  # noqa: S704  # matplotlib escapes
        cloud_figure=Markup(color_clouds(*filters) if filters else ""),  # noqa: S704  # matplotlib escapes
        tile_figure=Markup(filter_tiles(*filters) if filters else ""),  # noqa: S704  # matplotlib escapes
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: MISSING}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) or MISSING
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or MISSING
    return str(value)


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
        "created": "",
    }
    return empty | {key: value for key, value in report.items() if value is not None}
