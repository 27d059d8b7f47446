"""The gate on the demo: two points less fail a pull request, a harmless change passes."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pull_request
import pytest

pytestmark = pytest.mark.slow


def test_a_degrading_pull_request_fails_and_a_harmless_one_passes(tmp_path: Path) -> None:
    found = pull_request.demonstrate(tmp_path)
    (worse, worse_report), (harmless, harmless_report) = found["worse"], found["harmless"]

    assert (worse.code, worse_report["status"], worse.outputs["status"]) == (1, "failed", "failed")
    drop = worse_report["accuracy"]["top1"]["drop"]
    assert drop > 1.5 * pull_request.LIMIT  # so that a few images that flip on another machine change nothing
    assert float(worse.outputs["drop"]) == drop
    # the network is cheap and small enough: it is its accuracy that fails it
    assert [finding["name"] for finding in worse_report["findings"] if not finding["passed"]] == [
        "top-1 drop"
    ]
    assert [line.partition("::")[2].partition(" ")[0] for line in worse.annotations].count("error") == 1
    assert "compression gate **failed**" in worse.summary
    assert failures(tmp_path / "checkout-worse") == ["top-1 drop"]

    assert (harmless.code, harmless_report["status"], harmless.outputs["status"]) == (0, "passed", "passed")
    assert harmless_report["accuracy"]["top1"]["drop"] < 0.5 * pull_request.LIMIT
    assert not [line for line in harmless.annotations if line.startswith("::error")]
    assert "compression gate passed" in harmless.summary
    assert failures(tmp_path / "checkout-harmless") == []

    for report in (worse_report, harmless_report):
        assert report["accuracy"]["n"] == 656
        assert "baseline.json" in report["against"]
    kept = json.loads((tmp_path / "repository" / "baseline.json").read_text(encoding="utf-8"))
    assert kept["data"]["hash"] == worse_report["data"]["hash"] == harmless_report["data"]["hash"]


def failures(checkout: Path) -> list[str]:
    report = ElementTree.parse(checkout / "cnncompress-check" / "check.xml")  # noqa: S314  # our own
    cases = list(report.iter("testcase"))
    assert [case.get("name") for case in cases] == ["top-1 drop", "speedup", "size"]
    return [case.get("name", "") for case in cases if case.find("failure") is not None]
