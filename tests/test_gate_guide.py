"""The guide to the gate: its numbers, its snippets and its list of keys are what the code has."""

import ast
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import images_needed
import pytest
import yaml
from composite_action import ACTION

from cnncompress.cli.check import check
from cnncompress.gate.verdict import Verdict

GUIDE = (Path(__file__).resolve().parents[1] / "notebooks" / "compression_in_ci.md").read_text(
    encoding="utf-8"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines += [line for job in workflows() for line in job.get("script", [])]
    return [line for line in lines if line.startswith("cnncompress check ")]


def workflows() -> list[dict[str, Any]]:
    return [
        part for block in blocks("yaml") for part in yaml.safe_load(block).values() if isinstance(part, dict)
    ]


def test_the_table_of_images_is_what_its_script_prints() -> None:
    assert images_needed.table() in GUIDE


@pytest.mark.parametrize("share", [0.02, 0.13])
def test_the_numbers_of_images_are_the_smallest_hundreds(share: float) -> None:
    images = images_needed.needed(1.0, share)
    assert images_needed.half_width(images, share) <= 1.0 < images_needed.half_width(images - 100, share)


def test_every_command_parses() -> None:
    assert len(commands()) == 4
    for command in commands():
        words = shlex.split(command, comments=True)[2:]
        assert check.make_context("check", words).params["out"] == Path("networks/solar")


def test_the_workflow_gives_inputs_that_the_action_has() -> None:
    inputs = yaml.safe_load(ACTION.read_text(encoding="utf-8"))["inputs"]
    (job,) = [part["gate"] for part in workflows() if "gate" in part]
    step = job["steps"][-1]
    assert step["uses"].partition("/.github/")[2].partition("@")[0] == "actions/check"
    assert step["with"].keys() <= inputs.keys()
    undocumented = [name for name in inputs if f"{name}:" not in GUIDE and f"`{name}`" not in GUIDE]
    assert not undocumented


def test_python_snippets_are_python() -> None:
    assert blocks("python")
    for block in blocks("python"):
        ast.parse(block)


def test_every_key_of_the_report_is_described() -> None:
    described = GUIDE.partition("## check.json")[2]
    keys = {"schema", "status", *(field.name for field in fields(Verdict))}
    assert keys == keys & set(re.findall(r"`(\w+)`", described))
    assert json.loads(json.dumps(Verdict(network="a", folder="b").to_json())).keys() == keys
