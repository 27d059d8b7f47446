"""A verdict as a JUnit report, which GitLab, Jenkins and viewers of GitHub show as tests."""

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from cnncompress.gate.verdict import Finding, Verdict

SUITE = "cnncompress check"
UNMEASURED = "measurement"
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(verdict: Verdict, *, seconds: float) -> str:
    """Write a verdict as JUnit XML.

    One suite with a test case for each threshold, a ``<failure>`` in those that were broken. Where nothing
    could be measured there is one test case, with an ``<error>``. The names of the cases hold no measured
    values, so that viewers follow them from run to run. Fields as in
    https://github.com/testmoapp/junitxml.

    Args:
        verdict: the outcome of a check.
        seconds: that the check took; test cases share them evenly, since one measurement serves all.

    Returns:
        The file's content, to be written as UTF-8. Characters that XML can't hold are replaced by U+FFFD.
    """
    cases = len(verdict.findings) + bool(verdict.error)
    totals = {
        "tests": str(cases),
        "failures": str(sum(not finding.passed for finding in verdict.findings)),
        "errors": str(int(bool(verdict.error))),
        "time": f"{seconds:.3f}",
    }
    root = Element("testsuites", {"name": SUITE, **totals})
    suite = SubElement(root, "testsuite", {"name": SUITE, **totals, "skipped": "0"})
    _add_properties(suite, verdict)
    share = f"{seconds / max(cases, 1):.3f}"
    for finding in verdict.findings:
        _add_finding(_case(suite, finding.name, verdict, share), finding)
    if verdict.error:
        _add_problem(
            _case(suite, UNMEASURED, verdict, share), "error", "could not be measured", verdict.error
        )
    if verdict.warnings:
        SubElement(suite, "system-out").text = _clean(
            "\n".join(f"warning: {warning}" for warning in verdict.warnings)
        )
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _add_properties(suite: Element, verdict: Verdict) -> None:
    facts = {"folder": verdict.folder, "gate": verdict.gate, "against": verdict.against}
    facts |= {f"data.{key}": str(value) for key, value in (verdict.data or {}).items()}
    facts |= {f"environment.{key}": str(value) for key, value in verdict.environment.items()}
    properties = SubElement(suite, "properties")
    for name, value in facts.items():
        SubElement(properties, "property", {"name": _clean(name), "value": _clean(value)})


def _case(suite: Element, name: str, verdict: Verdict, seconds: str) -> Element:
    attributes = {"name": _clean(name), "classname": _clean(f"{SUITE} {verdict.network}"), "time": seconds}
    return SubElement(suite, "testcase", attributes)


def _add_finding(case: Element, finding: Finding) -> None:
    if finding.passed:
        SubElement(case, "system-out").text = _clean(finding.text)
    else:
        _add_problem(case, "failure", "threshold broken", finding.text)


def _add_problem(case: Element, tag: str, kind: str, text: str) -> None:
    cleaned = _clean(text)
    SubElement(case, tag, {"message": cleaned, "type": kind}).text = cleaned


def _clean(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)
