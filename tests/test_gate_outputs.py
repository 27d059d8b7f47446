"""What a check writes for machines: valid whatever the names are, and complete."""

import dataclasses
import json
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cnncompress.errors import OptionError
from cnncompress.gate.annotations import annotations
from cnncompress.gate.junit import junit_xml
from cnncompress.gate.markdown import markdown
from cnncompress.gate.verdict import Finding, Verdict
from cnncompress.sizes import byte_size

few = settings(max_examples=30, deadline=None)
HOSTILE = "a|b`c`\n::set-output name=x::y\r<script>&\"']]>\x00\x1b[31m\ud800\ufffe%0A*_[x](y) ünïcode 𝄞"
TOP1 = {
    "before": 81.1,
    "after": 79.12,
    "drop": 1.98,
    "low": -0.31,
    "high": 4.27,
    "lost": 36,
    "gained": 23,
    "p_value": 0.118,
}


def finding(name: str = "top-1 drop", *, passed: bool = True, **changes: Any) -> Finding:
    values = {"value": 0.4, "judged": 0.4, "limit": 0.5, "unit": "points", "text": "0.4, at most 0.5"}
    return Finding(name=name, passed=passed, **{**values, **changes})


def verdict(*findings: Finding, **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "network": "tiny",
        "folder": "out",
        "findings": findings,
        "accuracy": {"n": 656, "top1": TOP1, "top5": None},
        "macs": {"counted": "convolutions", "before": 6000, "after": 2000, "speedup": 3.0},
        "data": {"description": "val", "hash": "0" * 64},
        "environment": {"python": "3.11.2", "cores": 2},
    }
    return Verdict(**{**values, **changes})


def hostile(text: str, *, error: bool) -> Verdict:
    return verdict(
        *(() if error else (finding(text, passed=False, text=text),)),
        network=text,
        folder=text,
        against=text,
        data={"description": text},
        warnings=(text,),
        error=text if error else "",
        environment={"cpu": text},
    )


def parsed(report: str) -> ElementTree.Element:
    return ElementTree.fromstring(report.encode("utf-8"))  # noqa: S314  # our own


# JUnit


def test_every_threshold_is_a_case_and_the_counts_agree() -> None:
    root = parsed(junit_xml(verdict(finding(), finding("size", passed=False)), seconds=3.0))
    (suite,) = root
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == ["top-1 drop", "size"]
    assert [case.find("failure") is not None for case in cases] == [False, True]
    for element in (root, suite):
        assert [element.get(key) for key in ("tests", "failures", "errors")] == ["2", "1", "0"]
    assert sum(float(case.get("time", "nan")) for case in cases) == float(suite.get("time", "nan")) == 3


def test_what_could_not_be_measured_is_an_error_and_no_empty_suite() -> None:
    (suite,) = parsed(junit_xml(verdict(error="no image"), seconds=0.1))
    (case,) = suite.findall("testcase")
    problem = case.find("error")
    assert problem is not None
    assert problem.get("message") == "no image"
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "1")


def test_warnings_versions_and_data_are_in_the_report() -> None:
    (suite,) = parsed(junit_xml(verdict(finding(), warnings=("too few images",)), seconds=0.0))
    assert "too few images" in (suite.findtext("system-out") or "")
    found = {entry.get("name"): entry.get("value") for entry in suite.iter("property")}
    assert found["environment.python"] == "3.11.2"
    assert found["data.hash"] == "0" * 64


def test_elements_stand_in_the_order_that_jenkins_wants() -> None:
    (suite,) = parsed(junit_xml(verdict(finding(), finding(), warnings=("w",)), seconds=0.0))
    assert [part.tag for part in suite] == ["properties", "testcase", "testcase", "system-out"]


def test_the_report_depends_on_the_verdict_and_the_time_alone() -> None:
    one, other = (junit_xml(verdict(finding()), seconds=seconds) for seconds in (1, 2))
    assert junit_xml(verdict(finding()), seconds=1) == one
    assert one.replace("1.000", "") == other.replace("2.000", "")


@pytest.mark.parametrize("error", [False, True])
@few
@given(text=st.text(st.characters(), min_size=1, max_size=30))
def test_any_text_makes_valid_xml(text: str, error: bool) -> None:
    (suite,) = parsed(junit_xml(hostile(text, error=error), seconds=1.0))
    case = suite.find("testcase")
    assert case is not None
    problem = case.find("error" if error else "failure")
    assert problem is not None
    kept = [char for char in text if char.isprintable()]
    assert [char for char in problem.get("message", "") if char in kept] == kept


def test_hostile_names_are_kept_where_xml_can_hold_them() -> None:
    (suite,) = parsed(junit_xml(hostile(HOSTILE, error=False), seconds=1.0))
    found = next(entry.get("value") for entry in suite.iter("property") if entry.get("name") == "folder")
    replaced = HOSTILE
    for unwritable in "\x00\x1b\ud800\ufffe":
        replaced = replaced.replace(unwritable, "\ufffd")
    assert found == replaced


# Markdown


def rendered(text: str) -> list[Any]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def tables(text: str) -> list[list[list[str]]]:
    """Every table's rows of cells as text."""
    found: list[list[list[str]]] = []
    inside = False
    for token in rendered(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in {"th_open", "td_open"}:
            inside = True
        elif token.type == "inline" and inside:
            found[-1][-1].append("".join(child.content for child in token.children or ()))
            inside = False
    return found


def test_the_summary_shows_thresholds_accuracies_and_versions() -> None:
    text = markdown(
        verdict(
            finding(passed=False, value=1.98, judged=4.27),
            finding("speedup", value=3.03, judged=3.03, limit=3.0, unit="x"),
            warnings=("too few images",),
        )
    )
    thresholds, accuracies, versions = tables(text)
    assert thresholds[1] == [
        "top-1 drop",
        "1.98 points, judged at 4.27 points",
        "at most 0.5 points",
        "failed",
    ]
    assert thresholds[2] == ["speedup", "3.03x", "at least 3x", "passed"]
    assert accuracies[1][:5] == ["top-1", "81.10 %", "79.12 %", "1.98", "-0.31 to 4.27"]
    assert ["python", "3.11.2"] in versions
    assert "too few images" in text


def test_a_broken_limit_never_looks_kept() -> None:
    text = markdown(verdict(finding(passed=False, value=0.500001, judged=0.500001)))
    (_, row), *_ = tables(text)
    assert row[1] != row[2].removeprefix("at most ")


def test_no_accuracy_no_table_of_it() -> None:
    text = markdown(verdict(finding("size", unit="bytes", value=10, judged=10, limit=20), accuracy=None))
    assert "95 %" not in text
    assert tables(text)[0][1][1:3] == ["10 bytes", "at most 20 bytes"]


@pytest.mark.parametrize("error", [False, True])
@few
@given(
    text=st.text(
        st.one_of(st.characters(), st.sampled_from("|`<>&\\\n\r*_[]()~#!$-")), min_size=1, max_size=20
    )
)
def test_any_text_stays_in_its_cell(text: str, error: bool) -> None:
    written = markdown(hostile(text, error=error))
    plain = markdown(hostile("plain", error=error))
    shape = [[len(row) for row in table] for table in tables(plain)]
    assert [[len(row) for row in table] for table in tables(written)] == shape
    allowed = ("<details><summary>Versions and data</summary>", "</details>")
    html = [token.content.strip() for token in rendered(written) if token.type == "html_block"]
    assert html == list(allowed)
    inline = [child for token in rendered(written) for child in token.children or ()]
    assert not {child.type for child in inline} & {
        "html_inline",
        "link_open",
        "image",
        "code_inline",
        "em_open",
    }


def test_hostile_names_show_as_they_are() -> None:
    (_, row), *_ = tables(markdown(hostile("a|b`c` <b>*x*</b> [l](u) \\", error=False)))
    assert row[0] == "a|b`c` <b>*x*</b> [l](u) \\"


# Annotations


def test_broken_thresholds_and_warnings_are_annotated() -> None:
    lines = annotations(verdict(finding(), finding("size", passed=False, text="9 MB"), warnings=("few",)))
    assert lines == [
        "::error title=cnncompress check%3A size::tiny: 9 MB",
        "::warning title=cnncompress check::tiny: few",
    ]


def test_what_could_not_be_measured_is_annotated() -> None:
    (line,) = annotations(verdict(error="no image"))
    assert line.startswith("::error ")
    assert "no image" in line


def test_nothing_to_say_is_no_line() -> None:
    assert annotations(verdict(finding())) == []


@few
@given(text=st.text(st.characters()))
def test_no_name_ends_its_line_or_its_property(text: str) -> None:
    for line in annotations(hostile(text, error=False)):
        assert not set("\r\n") & set(line)
        _, properties, message = line.split("::", 2)
        name, title = properties.split(" title=", 1)
        assert name in {"error", "warning"}
        assert not set(":,") & set(title)
        found = message.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")
        assert found == f"{text}: {text}"


# All of them


def test_outputs_leave_the_verdict_alone() -> None:
    made = verdict(finding())
    before = json.dumps(made.to_json())
    junit_xml(made, seconds=1.0), markdown(made), annotations(made)
    assert json.dumps(made.to_json()) == before
    assert dataclasses.is_dataclass(made)


# Sizes


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20MB", 20_000_000), ("1.5 MiB", 3 * 2**19), ("7", 7), (7, 7), ("2k", 2000), ("1GB", 10**9)],
)
def test_sizes_are_read(text: int | str, expected: int) -> None:
    assert byte_size(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1 PB", "1e3", "٣MB", "i", "1ib"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="500MB"):
        byte_size(text)
