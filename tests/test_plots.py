"""Drawings that stand alone, and what notebooks show of results."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from torch import nn

from cnncompress.errors import OutputError
from cnncompress.network import Network
from cnncompress.page import page_templates
from cnncompress.plan import LayerPlan, Plan
from cnncompress.plots import Plot, Plots
from cnncompress.result import Result

EVIL = '<script>alert(1)</script> "]]>&'
NAMES = ("ranks", "errors", "costs", "energy", "losses", "times", "probes", "filters", "colors", "changed")


@pytest.fixture
def report() -> dict[str, Any]:
    """A run that has something to draw everywhere; its names are hostile."""
    line = {
        "name": EVIL,
        "kind": "conv2d",
        "method": "gsvd",
        "ranks": [4, 12],
        "macs_before": 4_000_000,
        "macs_after": 1_000_000,
        "ms_before": 2.0,
        "ms_after": float("nan"),
        "energy_kept": 0.9,
        "error_heldout": 0.1,
        "errors": {EVIL: 0.2, "asymmetric": 0.1},
        "reason": EVIL,
    }
    planned = {"name": EVIL, "method": EVIL, "loss": 0.5, "ms": 1.0, "measured_ms": 1.4}
    planned |= {"probe": {"method": EVIL, "predicted": 0.1, "real": 0.2}}
    pair = {"before": EVIL, "after": "dog", "images": 2, "lost": 1, "gained": 1, "both_wrong": 0}
    kernels = [" ".join(f"{value:.4f}" for value in range(start, start + 27)) for start in (0, 5)]
    return {
        "schema": 1,
        "name": EVIL,
        "asked": {"speedup": 4.0, "budget": "conv MACs"},
        "macs": {"conv_before": 4_000_000, "conv_after": 1_000_000, "conv_speedup": 4.0},
        "bytes": {"before": 4000, "after": 1000},
        "layers": [line],
        "energy": {EVIL: [[1, 0.2], [8, 0.7], [16, 1.0]]},
        "accuracy": {
            "dataset": EVIL, "n": 50, "top1_before": 80.0, "top1_after": 78.0, "drop_top1": 2.0,
            "ci95_paired": [0.5, 3.5], "top5_before": 99.0, "top5_after": 97.5, "drop_top5": 1.5,
        },
        "latency": [
            {"runtime": EVIL, "threads": 1, "batch": 1, "ms_before": 4.0, "ms_after": 2.0, "speedup": 2.0}
        ],
        "filters": {"layer": EVIL, "shape": [2, 3, 3, 3], "before": kernels, "after": kernels[::-1]},
        "planner": {"unit": "ms", "layers": [planned]},
        "changed": {"changed": 2, "lost": 1, "pairs": [pair]},
    }  # fmt: skip


@pytest.fixture
def plan() -> Plan:
    layers = (
        LayerPlan(name=EVIL, method="gsvd", ranks=(4, 12), reason=EVIL),
        LayerPlan(name="b", method="none"),
    )
    return Plan(network=EVIL, source={"kind": "object"}, input_size=(3, 8, 8), layers=layers)


@pytest.fixture
def result(report: dict[str, Any], plan: Plan) -> Result:
    model = nn.Sequential(nn.Linear(2, 2))
    return Result(model, Network(name=EVIL, model=model), plan, report)


@pytest.mark.parametrize("name", NAMES)
def test_every_drawing_is_a_document_of_its_own(result: Result, name: str) -> None:
    plot = getattr(result.plot, name)()
    root = ET.fromstring(plot.svg)  # noqa: S314  # made by us a moment ago
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    # nothing is left to a style sheet elsewhere: no variables, no inherited colour, and paper beneath
    assert "var(" not in plot.svg
    assert "currentColor" not in plot.svg
    assert root[0].attrib["fill"] == "#ffffff"
    assert "<script" not in plot.svg
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags.isdisjoint({"script", "foreignObject", "a", "iframe"})
    addresses = [
        value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")
    ]
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in addresses)
    assert plot._repr_svg_() == plot.svg
    assert repr(plot).startswith(f"Plot('{name}'")
    assert len(repr(plot)) < 60


def test_colours_are_those_of_the_report_in_the_light(result: Result) -> None:
    style, _, _ = page_templates().get_template("page.css.jinja").render().partition("@media")
    known = set(re.findall(r"#[0-9a-f]{6}", style)) | {"#000000"}
    drawn = "".join(getattr(result.plot, name)().svg for name in ("errors", "probes", "costs", "changed"))
    assert set(re.findall(r"(?<=[\" ])#[0-9a-f]{6}", drawn)) <= known


def test_names_are_drawn_as_they_are_called(result: Result) -> None:
    words = "".join(ET.fromstring(result.plot.ranks().svg).itertext())  # noqa: S314  # our own drawing
    assert EVIL[-20:] in words
    assert "4, 12 of 16" in words


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_can_be_drawn_the_reason_is_told(name: str) -> None:
    with pytest.raises(OutputError, match=rf"plot\.{name}\(\): nothing to draw: \w+"):
        getattr(Plots({"layers": []}), name)()


def test_drawings_are_saved_whole(result: Result, tmp_path: Path) -> None:
    path = result.plot.costs().save(tmp_path / "new" / "costs.svg")
    assert ET.parse(path).getroot().tag.endswith("svg")  # noqa: S314  # our own drawing
    assert [entry.name for entry in path.parent.iterdir()] == ["costs.svg"]
    with pytest.raises(OutputError, match=r"ends in \.svg"):
        Plot("a", "<svg/>").save(tmp_path / "costs.png")
    with pytest.raises(OutputError, match="can't be written"):
        Plot("a", "<svg/>").save(path / "below.svg")


def test_a_saved_run_draws_the_same(result: Result, tmp_path: Path) -> None:
    from cnncompress.output import write_json  # torch's exporter is slow to load

    write_json(tmp_path / "report.json", result.report)
    for place in (tmp_path, str(tmp_path / "report.json")):
        assert Plots.read(place).errors() == result.plot.errors()


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"schema": 1})])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(OutputError, match="give a folder that cnncompress wrote"):
        Plots.read(tmp_path)


def test_a_result_is_short_in_a_terminal_and_rich_in_a_notebook(result: Result) -> None:
    assert repr(result) == (
        f"Result({EVIL}: 4x fewer conv MACs, 2x as fast in {EVIL}, top-1 80.0 -> 78.0 % on 50 images, "
        "1 of 1 layers replaced)"
    )
    html = result._repr_html_()
    assert html.count("<script") == 0
    for part in ("80.0 %", "78.0 %", "drop 2.0 points (0.5 to 3.5)", "drop 1.5 points", "4, 12", "4x"):
        assert part in html
    assert re.findall(r"#[0-9a-fA-F]{3,6}\b|https?://", html) == []  # the notebook decides on colours


def test_a_result_without_labels_tells_its_error(result: Result) -> None:
    unlabelled = {"heldout_images": 9, "output_relative_error": 0.25}
    result.report.update({"accuracy": None, "fidelity": unlabelled, "latency": []})
    assert "output error 0.250" in repr(result)
    assert "relative error 0.250" in result._repr_html_()
    assert "9 held-out images" in result._repr_html_()


def test_a_plan_shows_every_layer(plan: Plan) -> None:
    html = plan._repr_html_()
    assert html.count('<th scope="row">') == 2
    assert "<script" not in html
    assert "left alone" in html


def test_the_model_is_not_in_the_way(result: Result) -> None:
    assert "Linear" not in repr(result)
    assert result == Result(result.model, result.network, result.plan, result.report)
    assert torch.is_tensor(result.model[0].weight)
