"""A front shows every network of a run, links to its report, and appears whole."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cnncompress import front
from cnncompress.cli.tables import print_front
from cnncompress.errors import OutputError
from cnncompress.front import Point, front_json, point_of, render_front, write_front
from cnncompress.front_figure import front_curve

VOID = {"meta", "br"}


def report(speedup: float | None = 4.0, **values: Any) -> dict[str, Any]:
    layers = [
        {"name": "conv1", "method": "none", "ranks": []},
        {"name": "conv2", "method": "gsvd3d", "ranks": [48, 64]},
    ]
    written = {
        "asked": {"speedup": speedup, "budget": "latency"},
        "macs": {"speedup": 4.6, "conv_speedup": 5.0},
        "params": {"before": 1000, "after": 250},
        "bytes": {"before": 58_900_000, "after": 14_000_000},
        "layers": layers,
        "fidelity": {"output_relative_error": 0.084, "feature_relative_error": 0.1, "top1_agreement": 0.95},
        "accuracy": {"drop_top1": 0.46, "n": 656},
        "latency": [{"runtime": "torch", "threads": 2, "batch": 1, "device": "cpu"}],
        "planner": None,
    }
    written["latency"][0] |= {"ms_before": 183.2, "ms_after": 46.1, "speedup": 3.97}
    return written | values


class Page(HTMLParser):
    """Collects the text and the addresses, and sees that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.links, self.open, self.tags = "", [], [], set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for key, value in attrs if tag == "a" and key == "href"]
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


def page_of(*points: Point, network: str = "vgg16") -> Page:
    return Page(render_front(front_json(network, points)))


def test_a_point_says_what_the_report_says() -> None:
    point = point_of(report(), "4x")
    assert (point.asked, point.macs_speedup, point.latency_speedup) == (4.0, 5.0, 3.97)
    assert (point.runtime, point.threads, point.ms_after) == ("torch", 2, 46.1)
    assert (point.output_error, point.drop, point.bytes) == (0.084, 0.46, 14_000_000)
    assert point.layers[1] == {"name": "conv2", "method": "gsvd3d", "ranks": [48, 64]}


def test_the_ratio_of_macs_is_that_of_the_budget() -> None:
    asked = {"speedup": 4.0, "budget": "MACs of convolutions and linear layers"}
    assert point_of(report(asked=asked), "4x").macs_speedup == 4.6


@pytest.mark.parametrize("missing", ["accuracy", "fidelity", "latency", "planner"])
def test_parts_that_were_not_measured_are_left_out(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "front_curve", lambda points: "")  # drawing is slow
    without = report()
    del without[missing]
    for one in (without, report(**{missing: None})):
        page = page_of(point_of(one, "4x"), point_of(report(2.0), "2x"))
        assert page.open == []
        assert "None" not in page.text


def test_every_network_has_its_line_its_link_and_its_column() -> None:
    page = page_of(*(point_of(report(speed), f"{speed:g}x") for speed in (2.0, 3.0, 4.5)))
    assert page.links == ["2x/report.html", "3x/report.html", "4.5x/report.html"]
    assert page.text.count("48, 64") == 3
    assert page.tags.isdisjoint({"script", "link", "img", "iframe"})
    assert "torch, 2 threads, batch 1" in page.text


@pytest.mark.parametrize("points", [[], [point_of(report(), "4x")], [point_of(report(None), "given")]])
def test_one_network_or_none_is_a_page_too(points: list[Point]) -> None:
    page = page_of(*points)
    assert page.open == []
    assert len(page.links) == len(points)
    assert ("svg" in page.tags) == bool(points)


def test_what_comes_from_outside_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    written = report(layers=[{"name": evil, "method": evil, "ranks": [1]}])
    written["latency"][0]["runtime"] = evil
    points = [replace(point_of(written, evil), asked=None), point_of(report(), "javascript:alert(1)")]
    html = render_front(front_json(evil, points))
    assert "<script" not in html
    assert not any(link.startswith("javascript:") for link in Page(html).links)


def test_each_asked_speedup_is_named_in_the_picture_and_macs_are_a_second_series() -> None:
    both = front_json("vgg16", [point_of(report(speed), "") for speed in (2.0, 3.0)])["points"]
    drawn = front_curve(both)
    assert ">2x<" in drawn
    assert ">3x<" in drawn
    assert ">measured<" in drawn
    assert ">fewer MACs<" in drawn
    assert "top-1 drop" in drawn
    untimed = front_curve([point | {"latency_speedup": None, "drop": None} for point in both])
    assert ">measured<" not in untimed
    assert "output error" in untimed


def test_a_front_is_written_whole_and_again(tmp_path: Path) -> None:
    folder = tmp_path / "front"
    points = [point_of(report(), "4x")]
    write_front(folder, "vgg16", points)
    write_front(folder, "vgg16", [*points, point_of(report(2.0), "2x")])
    assert {entry.name for entry in folder.iterdir()} == {"front.json", "front.html"}
    written = json.loads((folder / "front.json").read_text())
    assert written["schema"] == 1
    assert [point["folder"] for point in written["points"]] == ["4x", "2x"]
    assert "2x/report.html" in (folder / "front.html").read_text()


def test_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    write_front(tmp_path, "vgg16", [replace(point_of(report(), "4x"), output_error=float("nan"), drop=None)])
    assert json.loads((tmp_path / "front.json").read_text())["points"][0]["output_error"] is None


def test_a_full_disk_leaves_the_earlier_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_front(tmp_path, "vgg16", [point_of(report(), "4x")])
    before = (tmp_path / "front.html").read_text()
    write = Path.write_text

    def fill(path: Path, text: str, **options: Any) -> int:
        write(path, text[:10], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(front.Path, "write_text", fill)
    with pytest.raises(OutputError, match="No space left"):
        write_front(tmp_path, "vgg16", [])
    monkeypatch.undo()
    assert (tmp_path / "front.html").read_text() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"front.json", "front.html"}


def test_the_terminal_shows_a_line_for_each_network(capsys: pytest.CaptureFixture[str]) -> None:
    points = [point_of(report(), "4x"), point_of(report(None, latency=[], accuracy=None), "given")]
    print_front(front_json("vgg16", points))
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["asked", "measured", "ms"]
    assert first.split()[:2] == ["4x", "3.97x"]
    assert second.split()[:2] == ["-", "-"]
    assert second.endswith("given")
