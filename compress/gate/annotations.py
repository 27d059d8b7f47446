"""A verdict as the workflow commands that GitHub shows beside a pull request."""

from cnncompress.gate.verdict import Verdict

TITLE = "cnncompress check"


def annotations(verdict: Verdict) -> list[str]:
    """Name what went wrong as GitHub reads it from a step's output.

    Escaped as in
    https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands, so that no name can end
    its line and begin another command.

    Args:
        verdict: the outcome of a check.

    Returns:
        A line for the error, or for each broken threshold, then one for each warning; none if all is well.
    """
    lines = [
        _command("error", f"{TITLE}: {finding.name}", f"{verdict.network}: {finding.text}")
        for finding in verdict.findings
        if not finding.passed
    ]
    if verdict.error:
        lines.insert(0, _command("error", f"{TITLE}: could not be measured", verdict.line))
    lines += [_command("warning", TITLE, f"{verdict.network}: {warning}") for warning in verdict.warnings]
    return lines


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_property(title)}::{_escaped(message)}"


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
