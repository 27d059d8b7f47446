"""The composite action, its bash steps run for real on a tiny network."""

import json
import re
from pathlib import Path

import pytest
import tiny_folder
import yaml
from composite_action import ACTION, Outcome, run_action

from cnncompress.cli.check import check

STEPS = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
SCRIPTS = [step["run"] for step in STEPS["runs"]["steps"] if "run" in step]


STAND_IN = """#!/bin/sh
printf '%s\\0' "$@" > words
if [ -f found.json ]; then mkdir -p "$3"; cp found.json "$3/check.json"; fi
exit "$(cat code)"
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A program cnncompress that notes its words and ends with the code in the file of that name."""
    program = tmp_path / "programs" / "cnncompress"
    program.parent.mkdir()
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    return program.parent


def stand_in(
    workspace: Path, programs: Path, code: int, found: object, **given: str
) -> tuple[Outcome, list[str]]:
    """What the action does with a code and a check.json, and the words that the program got."""
    (workspace / "code").write_text(str(code), encoding="utf-8")
    if found is not None:
        (workspace / "found.json").write_text(json.dumps(found), encoding="utf-8")
    inputs = {name.replace("_", "-"): value for name, value in given.items()}
    outcome = run_action(inputs, workspace, programs)
    words = (workspace / "words").read_text(encoding="utf-8").split("\0")
    return outcome, words[:-1]


def test_what_was_lost_fails_the_step_and_is_told_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tiny_folder.make(tmp_path)
    asked = {"max-drop": "1", "min-speedup": "1.5x", "model": tiny_folder.FACTORY}
    outcome = run_action({"folder": "out", "eval": "val.npz", **asked}, tmp_path)
    assert outcome.code == 1, outcome.log
    report = json.loads((tmp_path / "cnncompress-check" / "check.json").read_text(encoding="utf-8"))
    assert outcome.outputs == {"status": "failed", "drop": str(report["accuracy"]["top1"]["drop"])}
    title = "::error title=cnncompress check%3A top-1 drop::"
    assert [line for line in outcome.annotations if line.startswith(title)]
    assert "compression gate **failed**" in outcome.summary
    assert "<failure" in (tmp_path / "cnncompress-check" / "check.xml").read_text(encoding="utf-8")
    assert outcome.skipped[-1] == "Upload the reports"


@pytest.mark.parametrize(("code", "status"), [(0, "passed"), (1, "failed"), (3, "error")])
def test_codes_and_statuses_are_passed_on(tmp_path: Path, programs: Path, code: int, status: str) -> None:
    found = {"status": status, "accuracy": {"top1": {"drop": -0.5}} if code < 2 else None}
    outcome, _ = stand_in(tmp_path, programs, code, found, folder="out", max_drop="1")
    assert outcome.code == code, outcome.log
    assert outcome.outputs == {"status": status, "drop": "-0.5" if code < 2 else ""}


def test_inputs_become_single_words_and_are_never_read_as_commands(tmp_path: Path, programs: Path) -> None:
    hostile = '-my out\'s "$(touch pwned)" `touch pwned`; touch pwned #\n*'
    names = [name for name in STEPS["inputs"] if name not in {"python-version", "install", "artifact"}]
    given = {name.replace("-", "_"): f"{hostile}{name}" for name in names}
    outcome, words = stand_in(tmp_path, programs, 0, {"status": "passed"}, **given)
    assert outcome.code == 0, outcome.log
    assert words[:3] == ["check", "-o", f"{hostile}report-folder"]
    assert words[-2:] == ["--", f"{hostile}folder"]
    options = {name for name in names if name not in {"folder", "report-folder"}}
    assert {word for word in words if hostile in word} == {
        *(f"--{name}={hostile}{name}" for name in options),
        *(words[2], words[-1]),
    }
    assert not (tmp_path / "pwned").exists()


def test_inputs_that_are_not_given_are_no_words(tmp_path: Path, programs: Path) -> None:
    _, words = stand_in(tmp_path, programs, 0, {"status": "passed"}, folder="out", max_size="5MB")
    assert words == ["check", "-o", "cnncompress-check", "--quiet", "--max-size=5MB", "--", "out"]


def test_wrong_usage_leaves_no_report_of_an_earlier_run(tmp_path: Path, programs: Path) -> None:
    old = tmp_path / "old" / "check.json"
    old.parent.mkdir()
    old.write_text('{"status": "passed"}', encoding="utf-8")
    outcome, _ = stand_in(tmp_path, programs, 2, None, folder="out", report_folder="old")
    assert outcome.code == 2, outcome.log
    assert outcome.outputs == {"status": "error", "drop": ""}
    assert not old.exists()


def test_inputs_are_never_part_of_a_script() -> None:
    assert SCRIPTS
    assert not any("${{" in script for script in SCRIPTS)


def test_every_input_is_used_and_every_option_exists() -> None:
    text = ACTION.read_text(encoding="utf-8")
    unused = [name for name in STEPS["inputs"] if f"inputs.{name}" not in text]
    assert not unused
    known = {name for parameter in check.params for name in parameter.opts}
    passed = {word for script in SCRIPTS for word in re.findall(r"add (--\S+)", script)}
    assert passed
    assert passed <= known


def test_variables_of_a_script_are_set_by_its_step() -> None:
    for step in STEPS["runs"]["steps"]:
        used = set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", step.get("run", "")))
        given = set(step.get("env", {})) | {"GITHUB_OUTPUT"}
        assert used <= given
