"""A verdict as Markdown, for GitHub's summary of a job and for merge requests."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnncompress.gate.verdict import Finding, Verdict

_HEADLINES = {"passed": "passed", "failed": "**failed**", "error": "**could not be measured**"}
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = re.compile(r"[&<>\\`*_{}\[\]|~#!$]")  # $ opens a formula on GitHub
_DIGITS = (4, 6, 9, 17)


def markdown(verdict: Verdict) -> str:
    """Write a verdict as GitHub-flavoured Markdown.

    Args:
        verdict: the outcome of a check.

    Returns:
        A headline, the thresholds, the accuracies, the warnings, and what was run in a folded part.
    """
    parts = [f"### {escaped(verdict.network)}: compression gate {_HEADLINES[verdict.status]}"]
    if verdict.error:
        parts.append(escaped(verdict.error))
    if verdict.findings:
        parts.append(_table(("threshold", "measured", "limit", ""), map(_finding_row, verdict.findings)))
    if verdict.accuracy:
        parts.append(_accuracies(verdict.accuracy, verdict.against))
    if verdict.warnings:
        parts.append("\n".join(f"- warning: {escaped(warning)}" for warning in verdict.warnings))
    parts.append(_details(verdict))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Make a text harmless in one line or one table cell of Markdown.

    Args:
        text: any; it shows as it is.

    Returns:
        One line: control characters and line ends become single blanks; what Markdown or HTML would read
        is escaped.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return _SPECIAL.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), line)


def _finding_row(finding: Finding) -> tuple[str, ...]:
    bound = "at least" if finding.name == "speedup" else "at most"
    measured = _number(finding.value, finding.limit, finding.unit)
    if finding.judged != finding.value:
        measured += f", judged at {_number(finding.judged, finding.limit, finding.unit)}"
    limit = f"{bound} {_number(finding.limit, finding.judged, finding.unit)}"
    return (
        escaped(finding.name),
        escaped(measured),
        escaped(limit),
        "passed" if finding.passed else "**failed**",
    )


def _number(value: float, other: float, unit: str) -> str:
    """A number with its unit and so many digits that it doesn't look like the other."""
    if unit == "bytes":
        return f"{value:,.0f} bytes"
    digits = next(
        (digits for digits in _DIGITS if f"{value:.{digits}g}" != f"{other:.{digits}g}"), _DIGITS[0]
    )
    return f"{value:.{digits}g}{'' if unit == 'x' else ' '}{unit}"


def _accuracies(accuracy: Mapping[str, Any], against: str) -> str:
    heads = ("", "before", "after", "drop, points", "95 % interval", "lost", "gained", "p")
    rows = [
        (
            name,
            f"{found['before']:.2f} %",
            f"{found['after']:.2f} %",
            f"{found['drop']:.2f}",
            f"{found['low']:.2f} to {found['high']:.2f}",
            str(found["lost"]),
            str(found["gained"]),
            f"{found['p_value']:.3g}",
        )
        for name, found in (("top-1", accuracy.get("top1")), ("top-5", accuracy.get("top5")))
        if found
    ]
    compared = f", against {escaped(against)}" if against else ""
    return (
        f"Accuracy on {accuracy['n']} images{compared}. Lost: right before, wrong after; "
        f"gained: the reverse; p: exact McNemar test.\n\n{_table(heads, rows)}"
    )


def _details(verdict: Verdict) -> str:
    facts: dict[str, object] = {"folder": verdict.folder, "judged": verdict.gate}
    if verdict.size is not None:
        facts["size"] = f"{verdict.size:,} bytes"
    for title, values in (("MACs", verdict.macs), ("data", verdict.data), ("", verdict.environment)):
        facts |= {f"{title} {key}".strip(): value for key, value in (values or {}).items()}
    rows = [(escaped(name), escaped(_fact(value))) for name, value in facts.items()]
    return f"<details><summary>Versions and data</summary>\n\n{_table(('', ''), rows)}\n\n</details>"


def _fact(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(heads), _row(["---"] * len(heads)), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
