"""Results and plans as notebooks show them: a few lines and a table."""

from collections.abc import Mapping
from typing import Any

from cnncompress.formats import format_number, format_times
from cnncompress.output import strict_json
from cnncompress.page import page_templates


def headline(report: Mapping[str, Any]) -> str:
    """A run in one line.

    Args:
        report: what report.json holds.

    Returns:
        Name, speedups, quality, and how many layers were replaced.
    """
    layers = report.get("layers") or []
    replaced = sum(bool(line.get("ranks")) for line in layers)
    parts = [f"{format_times(report['macs']['conv_speedup'])} fewer conv MACs"]
    for one in (report.get("latency") or [])[:1]:
        parts.append(f"{format_times(one['speedup'])} as fast in {one['runtime']}")
    accuracy, fidelity = report.get("accuracy"), report.get("fidelity")
    if accuracy:
        before, after = (format_number(accuracy[key], 1) for key in ("top1_before", "top1_after"))
        parts.append(f"top-1 {before} -> {after} % on {accuracy['n']} images")
    elif fidelity:
        parts.append(f"output error {format_number(fidelity['output_relative_error'])}")
    parts.append(f"{replaced} of {len(layers)} layers replaced")
    return f"{report['name']}: {', '.join(parts)}"


def result_html(report: Mapping[str, Any]) -> str:
    """A run as a small piece of HTML.

    Args:
        report: what report.json holds.

    Returns:
        An element that takes its colours from the page around it.
    """
    report = strict_json(report)
    template = page_templates().get_template("result.html.jinja")
    return template.render(report=report, accuracy=report.get("accuracy"), fidelity=report.get("fidelity"))


def plan_html(plan: Mapping[str, Any]) -> str:
    """A plan as a small piece of HTML.

    Args:
        plan: what plan.json holds.

    Returns:
        An element that takes its colours from the page around it.
    """
    return page_templates().get_template("plan.html.jinja").render(plan=strict_json(plan))
