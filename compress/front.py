"""Several networks of one run side by side: ``front.json`` and ``front.html``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cnncompress.front_figure import front_curve
from cnncompress.output import strict_json
from cnncompress.page import page_templates
from cnncompress.text_file import write_text

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network of a front.

    Attributes:
        folder: of its results, relative to the front's.
        asked: speedup; None where ranks were given.
        budget: what the speedup refers to, for example ``"conv MACs"`` or ``"latency"``.
        macs_speedup: multiply-accumulates before over after: of the convolutions, or with the linear layers
            where they were budgeted too.
        latency_speedup: measured time before over after; None where it wasn't measured.
        ms_before: milliseconds a batch of the original.
        ms_after: milliseconds a batch of the compressed network.
        runtime: in which time was measured.
        threads: compute threads.
        batch: images at a time.
        device: where both ran.
        feature_error: relative error of the last feature map on held-out images.
        output_error: relative error of the output on held-out images.
        top1_agreement: share of held-out images with the same largest output.
        drop: of top-1 accuracy, in points; None without labels.
        images: with labels that the drop was measured on.
        parameters: of the compressed network.
        bytes: of the compressed network's weights.
        layers: name, method and ranks of each layer.
    """

    folder: str
    asked: float | None
    budget: str
    macs_speedup: float
    latency_speedup: float | None
    ms_before: float | None
    ms_after: float | None
    runtime: str | None
    threads: int | None
    batch: int | None
    device: str | None
    feature_error: float | None
    output_error: float | None
    top1_agreement: float | None
    drop: float | None
    images: int | None
    parameters: int
    bytes: int
    layers: list[dict[str, Any]]


def point_of(report: Mapping[str, Any], folder: str) -> Point:
    """What a front shows of one network.

    Args:
        report: what its ``report.json`` holds.
        folder: of its results, relative to the front's.

    Returns:
        The point.
    """
    asked, macs = report["asked"], report["macs"]
    fidelity, accuracy = report.get("fidelity") or {}, report.get("accuracy") or {}
    time: Mapping[str, Any] = next(iter(report.get("latency") or []), {})
    whole = asked["budget"] not in {"conv MACs", "latency"}
    return Point(
        folder=folder,
        asked=asked["speedup"],
        budget=asked["budget"],
        macs_speedup=macs["speedup" if whole else "conv_speedup"],
        latency_speedup=time.get("speedup"),
        ms_before=time.get("ms_before"),
        ms_after=time.get("ms_after"),
        runtime=time.get("runtime"),
        threads=time.get("threads"),
        batch=time.get("batch"),
        device=time.get("device"),
        feature_error=fidelity.get("feature_relative_error"),
        output_error=fidelity.get("output_relative_error"),
        top1_agreement=fidelity.get("top1_agreement"),
        drop=accuracy.get("drop_top1"),
        images=accuracy.get("n"),
        parameters=report["params"]["after"],
        bytes=report["bytes"]["after"],
        layers=[
            {"name": line["name"], "method": line["method"], "ranks": list(line["ranks"])}
            for line in report.get("layers") or []
        ],
    )


def front_json(network: str, points: Sequence[Point]) -> dict[str, Any]:
    """What ``front.json`` holds.

    Args:
        network: its name.
        points: in the order they were asked for.

    Returns:
        JSON-able values, schema 1.
    """
    front: dict[str, Any] = strict_json(
        {"schema": SCHEMA, "network": network, "points": [asdict(point) for point in points]}
    )
    return front


def render_front(front: Mapping[str, Any]) -> str:
    """Turn a front into one self-contained HTML page that links to the reports.

    Args:
        front: what ``front.json`` holds.

    Returns:
        The page, UTF-8 text.
    """
    points = front["points"]
    chosen = [{line["name"]: line for line in point["layers"]} for point in points]
    return (
        page_templates()
        .get_template("front.html.jinja")
        .render(
            network=front["network"],
            schema=front["schema"],
            points=points,
            layers=list(dict.fromkeys(name for lines in chosen for name in lines)),
            chosen=chosen,
            settings=[
                dict(pairs) for pairs in dict.fromkeys(tuple(_setting(p).items()) for p in points) if pairs
            ],
            figure=Markup(front_curve(points)),  # noqa: S704  # matplotlib escapes
        )
    )


def write_front(folder: Path, network: str, points: Sequence[Point]) -> None:
    """Write ``front.json`` and ``front.html``; each takes its predecessor's place whole.

    Where they can't be written it is an `OutputError`.

    Args:
        folder: created where it is missing.
        network: its name.
        points: in the order they were asked for.
    """
    front = front_json(network, points)
    texts = {
        "front.html": render_front(front),
        "front.json": json.dumps(front, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_text(folder / name, text)


def _setting(point: Mapping[str, Any]) -> dict[str, Any]:
    if point["runtime"] is None:
        return {}
    return {key: point[key] for key in ("runtime", "threads", "batch", "device")}
