"""The report in a real browser: it fetches nothing, runs nothing, and fits a phone and paper."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from cnncompress.report import render_html

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on the PATH"),
]

EVIL = "</script><script>document.title='broken'</script>\"]]>"
LONG = "a_name_without_a_single_space_that_is_longer_than_a_phone_is_wide_" * 2
_PIXEL = (
    "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4n"
    "ICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/wAALCAABAAEBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgED"
    "AwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVW"
    "V1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo"
    "6erx8vP09fb3+Pn6/9oACAEBAAA/APn+v//Z"
)


def line(name: str) -> dict[str, Any]:
    return {
        "name": name, "method": "gsvd3d", "ranks": [8, 16], "macs_before": 4e6, "macs_after": 1e6,
        "energy_kept": 0.97, "error_heldout": 0.11, "errors": {EVIL: 0.2, "asymmetric": 0.11},
        "reason": LONG, "ms_before": 3.0, "ms_after": 1.0, "layer_speedup": 3.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Everything a report can hold, with names that are too long or mean harm."""
    names = ("conv1", EVIL, LONG)
    planned = {"name": EVIL, "method": "gsvd", "loss": 0.03, "ms": 1.2, "measured_ms": 1.3}
    planned |= {"probe": {"method": "gsvd", "ranks": [32], "predicted": 0.01, "real": 0.013}}
    setting = {"runtime": "torch", "threads": 1, "batch": 1, "device": "cpu"}
    texts = [" ".join(f"{value:.4f}" for value in range(start, start + 27)) for start in (0, 5)]
    examples = [
        {
            "index": place, "file": name, "kind": kind, "label": name, "before": name, "after": EVIL,
            "picture": picture,
        }
        for place, (name, kind, picture) in enumerate(
            [(EVIL, "lost", _PIXEL), (LONG, "gained", None), ("x", "both_wrong", "https://example.com/x.jpg")]
        )
    ]  # fmt: skip
    return {
        "schema": 1, "name": EVIL + LONG, "created": "2026-11-20T15:00:00+00:00",
        "asked": {"speedup": 4.0, "budget": "conv MACs"},
        "macs": {
            "before": 8e6, "after": 5e6, "speedup": 1.6,
            "conv_before": 8e6, "conv_after": 2e6, "conv_speedup": 4.0,
        },
        "params": {"before": 1000, "after": 250}, "bytes": {"before": 58_900_000, "after": 14_000_000},
        "layers": [line(name) for name in names],
        "energy": {name: [[1, 0.5], [16, 0.9], [32, 1.0]] for name in names},
        "fidelity": {
            "heldout_images": 60, "output_relative_error": 0.08, "feature_relative_error": 0.1,
            "cosine": 0.99, "top1_agreement": 0.95,
        },
        "accuracy": {
            "dataset": LONG, "n": 656, "top1_before": 84.3, "top1_after": 83.84, "drop_top1": 0.46,
            "ci95_paired": [-0.61, 1.52], "top5_before": 98.0, "top5_after": 97.0, "drop_top5": 1.0,
        },
        "changed": {
            "dataset": LONG, "images": 656, "changed": 3, "lost": 1, "gained": 1, "both_wrong": 1, "kinds": 2,
            "pairs": [{"before": EVIL, "after": LONG, "images": 3, "lost": 1, "gained": 1, "both_wrong": 1}],
            "examples": examples,
        },
        "latency": [
            {
                **setting, "ms_before": 183.2, "ms_after": 66.1, "speedup": 2.77,
                "iqr_before": 3.1, "iqr_after": 1.2,
            }
        ],
        "layer_timing": setting,
        "filters": {"layer": LONG, "shape": [2, 3, 3, 3], "before": texts, "after": texts[::-1]},
        "planner": {
            "unit": "ms", "distortion": "loss", "setting": setting, "asked": 4.0, "budget": 41.2,
            "spent": 41.1, "fixed": 3.4, "total": 160.0, "loss": 0.031, "bound": 0.0309, "gap": 0.003,
            "layers": [planned],
            "trials": [
                {"speedup": 9.0, "drop": None, "images": 0, "within": False, "problem": LONG},
            ],
        },
        "timing": {"calibrate": 61.2, "total": 227.4}, "peak_rss_mb": 2311.0,
        "calibration": {"description": LONG, "images": 300, "bad": [[LONG, "no"]], "data_hash": "9f" * 32},
        "options": {"speedup": 4.0, "skip": [LONG]}, "environment": {"cnncompress": "0.1.0", "cpu": LONG},
        "data_hash": "ab12", "notes": [LONG, EVIL], "weights": LONG, "input_size": [3, 224, 224],
        "preprocess": {
            "resize": 256, "crop": [224, 224], "mean": [0.5] * 3, "std": [0.2] * 3,
            "interpolation": "bilinear",
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(report), encoding="utf-8")
    return path


def chromium(folder: Path, *arguments: str) -> str:
    """What a headless browser writes to its standard output; it must have nothing to complain of."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={folder / 'profile'}", *arguments]
    command.insert(-1, "--enable-logging=stderr")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)  # noqa: S603  # ourselves
    assert "CONSOLE" not in done.stderr
    return done.stdout


def measured(folder: Path, page: Path, script: str, width: int) -> Any:
    """Run a script beside the page in a frame as wide as a phone, and read what it found."""
    # a window can't be narrower than 500 pixels; the frame's document is given as text to share its origin
    html = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    outer = folder / "outer.html"
    outer.write_text(
        f"""<!DOCTYPE html><meta charset="utf-8">
        <iframe style="width:{width}px;height:900px;border:0"></iframe>
        <pre id="found"></pre><script>
        const frame = document.querySelector("iframe");
        frame.addEventListener("load", () => {{
          const inner = frame.contentWindow, page = frame.contentDocument;
          document.querySelector("#found").textContent = JSON.stringify(({script})(page, inner));
        }});
        frame.srcdoc = {html};
        </script>""",
        encoding="utf-8",
    )
    dom = chromium(
        folder, "--window-size=1400,1000", "--virtual-time-budget=3000", "--dump-dom", f"file://{outer}"
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    return json.loads(unescape(found.group(1)))


def test_nothing_is_fetched_and_nothing_runs(page: Path, tmp_path: Path) -> None:
    dom = chromium(tmp_path, "--dump-dom", f"file://{page}")
    assert "<title>broken" not in dom
    script = """(page, inner) => ({
      fetched: inner.performance.getEntriesByType("resource").map(one => one.name),
      addresses: [...page.querySelectorAll("*")].flatMap(one => [...one.attributes])
        .filter(one => /href$|^src|^data$|^action$|^on/.test(one.name)).map(one => one.value.slice(0, 5)),
      active: page.querySelectorAll("script, iframe, object, embed, link, form, base, [onload]").length,
      pictures: [...page.querySelectorAll("img")].map(one => one.naturalWidth),
    })"""
    found = measured(tmp_path, page, script, 1100)
    assert all(address.startswith("data:") for address in found["fetched"])
    assert {address[0] if address[0] == "#" else address for address in found["addresses"]} == {"#", "data:"}
    assert found["active"] == 0
    assert found["pictures"] == [1]  # the one within the page is shown, the one elsewhere is left out


@pytest.mark.parametrize("width", [400, 700, 1100])
def test_only_tables_code_and_figures_scroll_sideways(page: Path, tmp_path: Path, width: int) -> None:
    script = """(page, inner) => ({
      page: page.documentElement.scrollWidth,
      inner: page.documentElement.clientWidth,
      wide: [...page.querySelectorAll("body *")].filter(one =>
        !one.closest(".scroll, figure, pre, .unseen") &&
        one.getBoundingClientRect().right > inner.innerWidth + 1
      ).map(one => one.outerHTML.slice(0, 80)).slice(0, 5),
      sections: page.querySelectorAll("section").length,
    })"""
    found = measured(tmp_path, page, script, width)
    assert found["sections"] > 8
    assert found["wide"] == []
    assert found["page"] <= found["inner"] <= width


def test_headings_tables_and_pictures_can_be_told_apart_without_eyes(page: Path, tmp_path: Path) -> None:
    script = """(page) => ({
      levels: [...page.querySelectorAll("h1, h2, h3")].map(one => Number(one.tagName[1])),
      tables: [...page.querySelectorAll("table")].filter(one => !one.caption).length,
      heads: [...page.querySelectorAll("th")].filter(one => !one.scope).length,
      figures: [...page.querySelectorAll("figure svg")].filter(one => !one.ariaLabel).length,
      images: [...page.querySelectorAll("img")].filter(one => !one.hasAttribute("alt")).length,
      drawn: page.querySelectorAll("figure svg").length,
    })"""
    found = measured(tmp_path, page, script, 1100)
    assert found["levels"][0] == 1
    assert found["levels"].count(1) == 1
    assert all(
        after - before <= 1 for before, after in zip(found["levels"], found["levels"][1:], strict=False)
    )
    assert (found["tables"], found["heads"], found["figures"], found["images"]) == (0, 0, 0, 0)
    assert found["drawn"] == 9


def test_it_prints(page: Path, tmp_path: Path) -> None:
    chromium(
        tmp_path, f"--print-to-pdf={tmp_path / 'report.pdf'}", "--no-pdf-header-footer", f"file://{page}"
    )
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
