"""The report is one page that stands alone, whatever parts a run left out."""

import json
import os
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnncompress import output
from cnncompress.errors import OutputError
from cnncompress.events import Event, Note, StageDone
from cnncompress.export import ExportError
from cnncompress.figures import cost_bars, energy_curves, error_curves
from cnncompress.formats import format_bytes, format_count, format_number, format_percent, format_times
from cnncompress.network import Network, Preprocess
from cnncompress.output import strict_json, write_results
from cnncompress.report import render_html

VOID = {"meta", "br", "link", "img", "hr"}


def layer(name: str, **values: Any) -> dict[str, Any]:
    line = {
        "name": name,
        "method": "gsvd3d",
        "ranks": [8, 16],
        "macs_before": 4_000_000,
        "macs_after": 1_000_000,
        "energy_kept": 0.97,
        "error_heldout": 0.11,
        "errors": {"symmetric linear": 0.2, "asymmetric nonlinear": 0.11},
        "reason": "asymmetric nonlinear was best",
    }
    return line | values


@pytest.fixture
def report() -> dict[str, Any]:
    left = layer(
        "conv1",
        method="none",
        ranks=[],
        macs_after=4_000_000,
        energy_kept=None,
        error_heldout=None,
        errors={},
        reason="no rank is cheaper",
    )
    curve = [[rank, 1 - 0.9**rank] for rank in range(1, 33)]
    return {
        "schema": 1,
        "name": "vgg16-elpv",
        "created": "2026-11-20T15:00:00+00:00",
        "asked": {"speedup": 4.0, "budget": "conv MACs"},
        "macs": {
            "before": 8_001_000,
            "after": 5_001_000,
            "speedup": 1.6,
            "conv_before": 8_000_000,
            "conv_after": 1_990_000,
            "conv_speedup": 4.02,
        },
        "params": {"before": 1000, "after": 250},
        "bytes": {"before": 58_900_000, "after": 14_000_000},
        "layers": [left, layer("conv2"), layer("conv3")],
        "energy": {"conv2": curve, "conv3": curve},
        "fidelity": {
            "heldout_images": 60,
            "output_relative_error": 0.084,
            "feature_relative_error": 0.103,
            "cosine": 0.995,
            "top1_agreement": 0.95,
        },
        "accuracy": {
            "dataset": "elpv",
            "n": 656,
            "top1_before": 84.3,
            "top1_after": 83.84,
            "drop_top1": 0.46,
            "ci95_paired": [-0.61, 1.52],
        },
        "latency": [
            {
                "runtime": "torch",
                "threads": 1,
                "batch": 1,
                "ms_before": 183.2,
                "ms_after": 66.1,
                "speedup": 2.77,
                "iqr_before": 3.1,
                "iqr_after": 1.2,
            }
        ],
        "timing": {"calibrate": 61.2, "total": 227.4},
        "peak_rss_mb": 2311.0,
        "calibration": {
            "description": "crops",
            "images": 300,
            "bad": [["a.png", "truncated"]],
            "data_hash": "9f",
        },
        "options": {"speedup": 4.0, "skip": [], "measure": True, "layer_ranks": {"conv2": [8, 16]}},
        "environment": {"cnncompress": "0.1.0", "torch": "2.15.0", "cpu": "Some CPU"},
        "data_hash": "ab12cd34ef56ab12",
        "notes": ["the classifier is missing"],
        "weights": "IMAGENET1K_V1",
    }


class Page(HTMLParser):
    """Collects the text, the addresses and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.addresses, self.open, self.tags = "", [], [], set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value for key, value in attrs if key in {"src", "href", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_well_formed_and_self_contained(report: dict[str, Any]) -> None:
    page = Page(render_html(report))
    assert page.open == []
    assert page.tags.isdisjoint({"script", "link", "img", "iframe"})
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert "@import" not in page.text
    assert "url(http" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_measured_speed_of_layers_is_shown_with_its_setting(report: dict[str, Any]) -> None:
    assert "Speed is the time" not in Page(render_html(report)).text
    report["layers"][1] |= {"ms_before": 3.0, "ms_after": 4.0, "layer_speedup": 0.75}
    report["layers"][2] |= {"ms_before": 3.0, "ms_after": 1.5, "layer_speedup": 2.01}
    report["layers"][0] |= {"ms_before": None, "ms_after": None, "layer_speedup": None}
    report["layer_timing"] = {"runtime": "torch", "threads": 2, "batch": 1, "device": "cpu"}
    page = Page(render_html(report))
    assert "alone in torch on cpu with 2 threads, batch 1" in page.text
    assert page.text.count("slower") - page.text.count(".slower") == 1
    assert "0.75xslower" in page.text.replace("\n", "")
    assert "2.01x" in page.text
    assert page.open == []


def test_filters_have_a_section_with_both_pictures(report: dict[str, Any]) -> None:
    assert "Filters of" not in render_html(report)
    texts = [" ".join(f"{value:.4f}" for value in range(start, start + 27)) for start in (0, 5)]
    report["filters"] = {"layer": "conv<1>", "shape": [2, 3, 3, 3], "before": texts, "after": texts[::-1]}
    html = render_html(report)
    page = Page(html)
    assert "Filters of conv<1>" in page.text
    assert html.count("<svg") == 5
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert page.open == []


@pytest.mark.usefixtures("undrawn")
def test_headline_says_what_was_asked_and_what_came(report: dict[str, Any]) -> None:
    text = Page(render_html(report)).text
    for part in ("4x", "4.02x", "84.3 % → 83.8 %", "0.5 points", "2.77x", "14.0 MB", "-0.6 to 1.5"):
        assert part in text


@pytest.mark.usefixtures("undrawn")
def test_every_layer_has_its_line_and_its_reason(report: dict[str, Any]) -> None:
    text = Page(render_html(report)).text
    assert text.count("asymmetric nonlinear was best") == 2
    for part in ("conv1", "left alone", "no rank is cheaper", "97.0 %", "0.110", "8, 16"):
        assert part in text


def test_what_comes_from_outside_is_escaped(report: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>"
    report["name"] = report["notes"][0] = report["weights"] = report["options"]["skip"] = evil
    report["layers"][1]["name"] = report["layers"][1]["reason"] = evil
    report["energy"] = {evil: report["energy"]["conv2"]}
    report["layers"][2]["errors"] = {evil: 0.3}
    html = render_html(report)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_page_works_in_the_dark_and_on_paper(report: dict[str, Any]) -> None:
    html = render_html(report)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    # every colour is the style sheet's, none is left from the drawing library
    figures = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert figures.count("<svg") == 3
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", figures)) <= {"#000000"}
    used = set(re.findall(r"var\((--[\w-]+)\)", figures))
    for name in used:
        assert html.count(f"{name}:") >= 2 or name == "--faint"


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.usefixtures("undrawn")
def test_colours_can_be_told_apart_in_both_modes(report: dict[str, Any]) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    rules = re.findall(r":root \{(.*?)\}", render_html(report), re.DOTALL)
    modes = [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", rule)) for rule in rules]
    assert len(modes) == 2
    assert modes[0].keys() == modes[1].keys()
    for colors in modes:
        # text: WCAG AA asks for 4.5; what is coloured by meaning is text too
        for ground in (colors["--paper"], colors["--card"]):
            assert contrast(colors["--ink"], ground) >= 7
            assert contrast(colors["--soft"], ground) >= 4.5
        for series in (1, 2, 3):
            assert contrast(colors[f"--series-{series}"], colors["--paper"]) >= 4.5
        for series in range(1, 9):  # lines and bars: 3
            assert contrast(colors[f"--series-{series}"], colors["--paper"]) >= 3


def changed_part(**values: Any) -> dict[str, Any]:
    pairs = [{"before": "cat", "after": "dog", "images": 2, "lost": 1, "gained": 1, "both_wrong": 0}]
    example = {"index": 7, "file": "7.png", "kind": "lost", "label": "cat", "before": "cat", "after": "dog"}
    part = {"dataset": "elpv", "images": 656, "changed": 2, "lost": 1, "gained": 1, "both_wrong": 0}
    return part | {"kinds": 1, "pairs": pairs, "examples": [{**example, "picture": None}]} | values


def test_changed_answers_are_counted_and_shown(report: dict[str, Any]) -> None:
    page = Page(render_html(report | {"changed": changed_part()}))
    text = " ".join(page.text.split())
    assert "2 of 656 images get another class than before" in text
    assert "1 were right before and are wrong after, 1 were wrong and are right, 0 are wrong" in text
    for part in ("cat → dog", "label: cat", "7.png", "right before, wrong after"):
        assert part in text
    assert page.open == []
    assert "Changed answers" not in Page(render_html(report)).text


@pytest.mark.usefixtures("undrawn")
def test_changed_answers_without_labels_or_without_change(report: dict[str, Any]) -> None:
    report["accuracy"] = None
    unknown = changed_part(lost=None, gained=None, both_wrong=None)
    unknown["examples"][0] |= {"label": None, "kind": "changed"}
    text = " ".join(Page(render_html(report | {"changed": unknown})).text.split())
    assert "Without labels nothing tells which" in text
    assert "656 held-out images of elpv" in text
    assert "label:" not in text
    same = changed_part(changed=0, lost=0, gained=0, pairs=[], examples=[], kinds=0)
    text = " ".join(Page(render_html(report | {"changed": same})).text.split())
    assert "All 656 images get the same class as before" in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("picture", ["https://example.com/a.jpg", "data:text/html,hi", "javascript:1", 7])
def test_no_picture_comes_from_elsewhere(report: dict[str, Any], picture: Any) -> None:
    changed = changed_part()
    changed["examples"][0]["picture"] = picture
    assert "<img" not in render_html(report | {"changed": changed})


def test_every_name_of_a_user_is_escaped(report: dict[str, Any]) -> None:
    evil = "</style></svg><script>alert(1)</script>\"'>]]>&lt;"
    changed = changed_part(dataset=evil)
    changed["pairs"][0] |= {"before": evil, "after": evil}
    changed["examples"][0] |= {"file": evil, "label": evil, "before": evil, "after": evil, "kind": evil}
    report["layers"] = [layer(evil, errors={evil: 0.3, "b": 0.2}, chosen=evil, notes=[evil], method=evil)]
    report["energy"] = {evil: report["energy"]["conv2"]}
    texts = [" ".join(f"{value:.4f}" for value in range(start, start + 27)) for start in (0, 5)]
    report["filters"] = {"layer": evil, "shape": [2, 3, 3, 3], "before": texts, "after": texts[::-1]}
    report["accuracy"]["dataset"] = report["calibration"]["description"] = report["latency"][0]["runtime"] = (
        evil
    )
    report["calibration"]["bad"] = [[evil, evil]]
    report["options"] = report["environment"] = report["timing"] = {evil: 1.0}
    report["preprocess"] = {"resize": evil, "crop": [evil, evil], "mean": [evil], "std": [evil]}
    report["preprocess"]["interpolation"] = evil
    html = render_html(report | {"changed": changed})
    assert "<script" not in html
    assert html.count("</style></svg>") == 0
    page = Page(html)
    assert page.open == []
    assert page.text.count("</style></svg><script>alert(1)</script>\"'>]]>&lt;") > 10


@pytest.mark.usefixtures("undrawn")
def test_top_5_is_told_where_it_was_measured(report: dict[str, Any]) -> None:
    assert "top-5" not in Page(render_html(report)).text
    report["accuracy"] |= {"top5_before": 97.25, "top5_after": 96.0, "drop_top5": 1.25}
    text = Page(render_html(report)).text
    for part in ("top-5 drop", "1.2 points", "97.25 %", "96.00 %"):
        assert part in text


@pytest.mark.usefixtures("undrawn")
def test_what_was_not_written_is_not_offered(report: dict[str, Any]) -> None:
    text = Page(render_html(report)).text
    assert "from model import load, preprocess" in text
    assert "onnxruntime.InferenceSession" in text
    report["notes"] += ["no model.py: it can't be", "no model.onnx: it can't be"]
    text = Page(render_html(report)).text
    assert "from model import" not in text
    assert "onnxruntime.Inference" not in text
    assert "cnncompress.load(" in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(resize=32, crop=(24, 28)),
        Preprocess(resize=None, crop=(30, 20), interpolation="bicubic"),
        Preprocess(resize=31, crop=(31, 31), mean=(0.4,), std=(0.2,), interpolation="nearest"),
    ],
)
@pytest.mark.parametrize("size", [(64, 47), (47, 64), (50, 50)])
def test_the_lines_for_onnxruntime_prepare_images_as_the_network_does(
    report: dict[str, Any],
    preprocess: Preprocess,
    size: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report["preprocess"] = preprocess.to_json()
    html = render_html(report)
    (lines,) = [code for code in re.findall(r"<pre><code>(.*?)</code>", html, re.DOTALL) if "onnx" in code]
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {}
    prepare = unescape(lines).split("session =")[0].replace("import onnxruntime", "")
    exec(prepare, given)  # noqa: S102  # our own page
    with Image.open("image.png") as image:
        expected = preprocess(image)[None].numpy()
    assert given["images"].dtype == np.float32
    np.testing.assert_allclose(given["images"], expected, atol=1e-5)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without figures: drawing is slow, and beside the point of most tests."""
    for figure in (
        "energy_curves",
        "error_curves",
        "cost_bars",
        "loss_bars",
        "time_scatter",
        "probe_scatter",
    ):
        monkeypatch.setattr(f"cnncompress.report.{figure}", lambda *args: "")


@pytest.mark.parametrize(
    "missing",
    [
        {"accuracy": None},
        {"fidelity": None},
        {"accuracy": None, "fidelity": None},
        {"latency": []},
        {"energy": {}},
        {"notes": []},
        {"calibration": None},
        {"peak_rss_mb": None},
        {"layers": []},
    ],
)
def test_parts_that_were_not_measured_are_left_out(
    report: dict[str, Any], missing: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    if missing.keys().isdisjoint({"layers", "energy"}):
        request.getfixturevalue("undrawn")
    page = Page(render_html(report | missing))
    assert page.open == []
    assert page.text.replace("session.run(None", "").count("None") == 0
    bare = {key: value for key, value in report.items() if key not in missing}
    assert Page(render_html(bare)).open == []


def planned(**values: Any) -> dict[str, Any]:
    line = {"name": "conv2", "method": "gsvd3d", "ranks": [8, 16], "loss": 0.03, "macs": 1_000_000, "ms": 1.2}
    line |= {"macs_before": 4_000_000, "ms_before": 4.4, "weight": 1.3, "considered": 9, "alternatives": []}
    probe = {"method": "gsvd", "ranks": [32], "predicted": 0.01, "real": 0.013}
    setting = {"runtime": "onnxruntime", "threads": 1, "batch": 1, "device": "cpu"}
    rounds = [
        {"aimed": 4.0, "predicted_ms": 40.1, "measured_ms": 43.5, "measured_speedup": 3.68},
        {"aimed": 4.0, "predicted_ms": 40.2, "measured_ms": 40.4, "measured_speedup": 3.96},
    ]
    planner = {"rule": "knapsack", "unit": "ms", "distortion": "loss", "setting": setting, "asked": 4.0}
    planner |= {"budget": 41.2, "spent": 41.1, "fixed": 3.4, "total": 160.0, "loss": 0.031, "bound": 0.0309}
    planner |= {"gap": 0.003, "price": 0.0012, "least_cost": 20.0, "rounds": rounds, "trials": []}
    return planner | {"layers": [line | {"probe": probe, "measured_ms": 1.3}]} | values


def test_the_budget_is_told_in_plain_words(report: dict[str, Any]) -> None:
    assert "How the budget was spent" not in render_html(report)
    page = Page(render_html(report | {"planner": planned()}))
    text = " ".join(page.text.split())
    assert "How the budget was spent" in text
    for part in ("160.00 ms, 41.20 ms may remain (onnxruntime, 1 thread, batch 1)", "spends 41.10 ms"):
        assert part in text
    assert "predicted 40.10 ms, measured 43.50 ms (3.68x)" in text
    assert "predicted 40.20 ms, measured 40.40 ms (3.96x)" in text
    assert "at most 0.3 % better" in text
    assert page.open == []


@pytest.mark.usefixtures("undrawn")
def test_a_budget_of_macs_speaks_of_macs_and_an_optimum_says_so(report: dict[str, Any]) -> None:
    planner = planned(
        unit="MACs", setting=None, budget=2e6, spent=1.9e6, total=8e6, fixed=0, rounds=[], gap=0.0
    )
    text = " ".join(Page(render_html(report | {"planner": planner})).text.split())
    assert "8.00 M MACs, 2.00 M MACs may remain. The plan spends 1.90 M MACs" in text
    assert "No other plan from the same candidates loses less" in text
    assert "network was timed" not in text


@pytest.mark.usefixtures("undrawn")
def test_trials_of_a_drop_stand_alone_where_the_rule_tells_nothing(report: dict[str, Any]) -> None:
    tried = {"speedup": 3.0, "drop": 0.4, "images": 656, "within": True}
    failed = {"speedup": 9.0, "drop": None, "images": 0, "within": False, "problem": "can't <b>"}
    page = Page(render_html(report | {"planner": {"trials": [tried, failed]}}))
    assert "within the drop" in page.text
    assert "can't <b>" in page.text
    assert "was asked" not in page.text
    assert page.open == []


def test_what_the_planner_says_is_escaped(report: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>"
    planner = planned(distortion=evil, setting={"runtime": evil, "threads": 1, "batch": 1, "device": evil})
    planner["layers"][0] |= {"name": evil, "method": evil}
    planner["layers"][0]["probe"]["method"] = evil
    assert "<script" not in render_html(report | {"planner": planner})


@pytest.mark.usefixtures("undrawn")
def test_a_budget_of_time_is_delivered_in_time(report: dict[str, Any]) -> None:
    report["asked"]["budget"] = "latency"
    text = " ".join(Page(render_html(report)).text.split())
    assert "2.77x as fast in torch" in text
    assert "183.2 → 66.1 ms, torch, 1 thread, batch 1" in text
    assert "fewer convolution MACs" not in text


def test_times_stand_beside_macs_where_they_are_known(report: dict[str, Any]) -> None:
    assert "million MACs" in cost_bars(report["layers"])
    assert "milliseconds" not in cost_bars(report["layers"])
    report["layers"][1] |= {"ms_before": 3.0, "ms_after": 1.0}
    assert "milliseconds" in cost_bars(report["layers"])


def test_a_budgets_times_are_not_mixed_with_those_of_another_runtime(report: dict[str, Any]) -> None:
    plain = cost_bars(report["layers"], planned())
    report["layers"][2] |= {"ms_before": 300.0, "ms_after": 100.0}
    assert cost_bars(report["layers"], planned()) == plain


def test_a_timed_layers_speed_replaces_its_prediction(report: dict[str, Any]) -> None:
    drawn = cost_bars(report["layers"], planned())
    late, unknown = planned(), planned()
    late["layers"][0] |= {"measured_ms": 4.0}
    unknown["layers"][0] |= {"measured_ms": None, "ms": 1.3}
    assert cost_bars(report["layers"], late) != drawn
    assert cost_bars(report["layers"], unknown) == drawn


@pytest.mark.usefixtures("undrawn")
def test_unknown_agreement_and_feature_error_leave_no_line(report: dict[str, Any]) -> None:
    report["fidelity"] |= {"top1_agreement": None, "feature_relative_error": None}
    text = Page(render_html(report)).text
    assert "same top-1" not in text
    assert "feature map" not in text


def test_figures_are_the_same_each_time(report: dict[str, Any]) -> None:
    for draw in (error_curves, cost_bars):
        assert draw(report["layers"]) == draw(report["layers"])
    first, again = (energy_curves(report["energy"], report["layers"]) for _ in range(2))
    assert first == again
    assert "16: " in first


def test_chosen_rank_is_the_one_the_energy_belongs_to(report: dict[str, Any]) -> None:
    report["layers"][1] |= {"ranks": [5, 20, 30], "energy_kept": 1 - 0.9**20}
    drawn = energy_curves({"conv2": report["energy"]["conv2"]}, report["layers"])
    assert "20: 87.8 %" in drawn


def test_figures_without_data_are_empty() -> None:
    assert energy_curves({}, []) == ""
    assert energy_curves({"a": [[1, None], [2, None]]}, [layer("a")]) == ""  # NaN, once written
    assert error_curves([layer("a", errors={}, error_heldout=None)]) == ""
    assert cost_bars([]) == ""


def test_collapsed_layers_do_not_squeeze_the_curves(report: dict[str, Any]) -> None:
    report["layers"][1]["errors"]["symmetric linear"] = 60.0
    drawn = error_curves(report["layers"])
    assert ">2.00<" in drawn or ">2.0<" in drawn
    assert ">60" not in drawn


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (format_times(4.0), "4x"),
        (format_times(4.021), "4.02x"),
        (format_times(None), "-"),
        (format_percent(0.843), "84.3 %"),
        (format_percent(float("nan")), "-"),
        (format_count(15_470_000_000), "15.5 G"),
        (format_count(999_600), "1.00 M"),
        (format_count(655_700_000), "656 M"),
        (format_count(60_000_000), "60.0 M"),
        (format_count(2e15), "2,000.0 T"),
        (format_count(12), "12"),
        (format_count(0), "0"),
        (format_bytes(58_865_000), "58.9 MB"),
        (format_number(-0.04, 1), "0.0"),
        (format_number(-0.3, 1), "-0.3"),
    ],
)
def test_numbers_are_shown_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected


def test_json_knows_no_nan() -> None:
    value = {"a": float("nan"), "b": (1, float("inf")), 3: [{"c": 0.5}]}
    assert strict_json(value) == {"a": None, "b": [1, None], "3": [{"c": 0.5}]}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return Network(
        name="tiny", model=model, preprocess=Preprocess(resize=None, crop=(8, 6)), categories=("a",)
    )


def test_results_are_written_whole(report: dict[str, Any], network: Network, tmp_path: Path) -> None:
    events: list[Event] = []
    report["peak_rss_mb"] = float("nan")
    folder = write_results(
        tmp_path / "out", network.model, {"schema": 1}, report, network, progress=events.append
    )
    assert {entry.name for entry in folder.iterdir()} == {
        "model.safetensors",
        "model.py",
        "plan.json",
        "model.onnx",
        "report.json",
        "report.html",
    }
    written = json.loads((folder / "report.json").read_text())
    assert written["input_size"] == [3, 8, 6]
    assert written["timing"]["total"] == pytest.approx(227.4 + written["timing"]["save"])
    assert written["peak_rss_mb"] > 10
    assert "input_size" not in report
    assert "(1, 3, 8, 6)" in (folder / "report.html").read_text()
    assert isinstance(events[-1], StageDone)


def test_names_that_are_no_text_cost_no_results(
    report: dict[str, Any], network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise ExportError("not here")

    monkeypatch.setattr("cnncompress.output.write_onnx", refuse)
    odd = os.fsdecode(b"a\xff.png")
    report["calibration"]["bad"] = [[odd, "truncated"]]
    folder = write_results(tmp_path / "out", network.model, {"schema": 1}, report, network)
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert written["calibration"]["bad"] == [[odd, "truncated"]]
    assert "truncated" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_network_without_onnx_is_still_saved_and_says_so(
    report: dict[str, Any], network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: nn.Module, size: object, path: Path, **options: object) -> None:
        raise ExportError(f"{path}: torch can't export this network")

    monkeypatch.setattr(output, "write_onnx", refuse)
    events: list[Event] = []
    folder = write_results(tmp_path / "out", network.model, {}, report, network, progress=events.append)
    notes = json.loads((folder / "report.json").read_text())["notes"]
    assert notes[-1] == "no model.onnx: model.onnx: torch can't export this network"
    assert Note(notes[-1]) in events
    assert not (folder / "model.onnx").exists()


def test_a_full_disk_leaves_nothing(
    report: dict[str, Any], network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output, "render_html", fill)
    with pytest.raises(OutputError, match="No space left"):
        write_results(tmp_path / "out", network.model, {}, report, network)
    assert list(tmp_path.iterdir()) == []
