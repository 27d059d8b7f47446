"""Runs the bash steps of a composite action as GitHub's runner does, to test them without GitHub.

Steps that use another action (Python, upload) are skipped, as is the one that installs cnncompress: the
environment at hand has it. The outcome names them.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ACTION = Path(__file__).resolve().parents[2] / ".github" / "actions" / "check" / "action.yml"
INSTALLS = "install"
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run of the action left behind.

    Attributes:
        code: exit code of the step that failed, 0 if none did.
        log: what the steps wrote to stdout and stderr.
        summary: Markdown of the job's summary.
        outputs: of the action.
        skipped: names of the steps that weren't run.
    """

    code: int
    log: str
    summary: str
    outputs: Mapping[str, str]
    skipped: tuple[str, ...]

    @property
    def annotations(self) -> list[str]:
        """The workflow commands in the log."""
        return [line for line in self.log.splitlines() if line.startswith(("::error", "::warning"))]


def run_action(given: Mapping[str, str], workspace: Path, programs: Path | None = None) -> Outcome:
    """Run the action's bash steps in a checked-out repository.

    Args:
        given: inputs as a workflow's ``with:`` has them.
        workspace: the repository.
        programs: folder of programs that stand in for those of the environment.

    Returns:
        The outcome.

    Raises:
        ValueError: an input is unknown or missing.
    """
    described = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    values = {f"inputs.{name}": value for name, value in _inputs(described["inputs"], given).items()}
    values["github.action_path"] = str(ACTION.parent)
    own = [] if programs is None else [str(programs)]
    path = os.pathsep.join([*own, str(Path(sys.executable).parent), os.environ["PATH"]])
    code, logs, skipped = 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder, "summary.md")
        summary.touch()
        for number, step in enumerate(described["runs"]["steps"]):
            if code and "always()" not in step.get("if", ""):
                continue
            if "uses" in step or step.get("id") == INSTALLS:
                skipped.append(step["name"])
                continue
            output = Path(folder, f"output-{number}")
            output.touch()
            runner = {
                "PATH": path,
                "GITHUB_ACTIONS": "true",
                "GITHUB_WORKSPACE": str(workspace),
                "GITHUB_STEP_SUMMARY": str(summary),
                "GITHUB_OUTPUT": str(output),
            }
            done = _run_step(step, values, workspace, runner)
            logs.append(done.stdout)
            values |= {f"steps.{step['id']}.outputs.{name}": text for name, text in _read_outputs(output)}
            code = code or done.returncode
        return Outcome(
            code=code,
            log="".join(logs),
            summary=summary.read_text(encoding="utf-8"),
            outputs={name: _filled(output["value"], values) for name, output in described["outputs"].items()},
            skipped=tuple(skipped),
        )


def inputs_of_workflow(workflow: Path) -> dict[str, str]:
    """What a workflow's first step that uses the action passes to it.

    Args:
        workflow: the file.

    Returns:
        Inputs by name, as text.
    """
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    step = next(step for step in steps if "/.github/actions/check" in step.get("uses", ""))
    return {name: str(value) for name, value in step["with"].items()}


def _inputs(described: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    unknown = given.keys() - described.keys()
    missing = {name for name, about in described.items() if about.get("required")} - given.keys()
    if unknown or missing:
        raise ValueError(f"unknown inputs {sorted(unknown)}, missing inputs {sorted(missing)}")
    return {name: given.get(name, about.get("default", "")) for name, about in described.items()}


def _run_step(
    step: Mapping[str, Any], values: Mapping[str, str], workspace: Path, runner: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as script:
        script.write(_filled(step["run"], values))
        script.flush()
        return subprocess.run(  # noqa: S603  # the action's own steps
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script.name],  # noqa: S607  # the shell that GitHub names
            cwd=workspace,
            env={
                **os.environ,
                **{name: _filled(text, values) for name, text in step.get("env", {}).items()},
                **runner,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            check=False,
        )


def _filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its expressions evaluated; of outputs, those that were never set are empty."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        return values.get(name, "") if name.startswith("steps.") else values[name]

    return _EXPRESSION.sub(value, text)


def _read_outputs(file: Path) -> list[tuple[str, str]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(name, text) for name, _, text in (line.partition("=") for line in lines)]
