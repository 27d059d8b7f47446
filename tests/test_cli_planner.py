"""The planner from the shell, on a network of the user's own: what is written, printed and refused."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from cnncompress import output
from cnncompress.cli import main

BUILD = """
import torch
from torch import nn

def build():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4),
        ).eval()

def build_wider():
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4),
    ).eval()
"""
MODEL = "planned_nets:build"
WIDER = "planned_nets:build_wider"
CALIBRATION = ("--data", "calibration.npz", "--align", "1")
LABELLED = (*CALIBRATION, "--eval", "labelled.npz")
UNTIMED = "--no-measure"


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An importable network, images, and a cache of the test's own, in the working folder."""
    (tmp_path / "planned_nets.py").write_text(BUILD)
    rng = np.random.default_rng(0)
    for name in ("calibration", "labelled"):
        noise = torch.from_numpy(rng.standard_normal((24, 3, 14, 14), dtype=np.float32))
        images = torch.nn.functional.avg_pool2d(noise, 3, stride=1).numpy()
        np.savez(tmp_path / f"{name}.npz", images=images, labels=rng.integers(0, 4, 24))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planned_nets", raising=False)
    monkeypatch.setenv("CNNCOMPRESS_CACHE", str(tmp_path / "cache"))
    # takes a second for each network, and has tests of its own
    monkeypatch.setattr(output, "write_onnx", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args), catch_exceptions=False)


def compress(*args: str) -> Result:
    return run(MODEL, "--input-size", "12", *args)


def report_in(folder: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return written


def test_several_speedups_make_a_folder_each_and_a_front(files: Path) -> None:
    result = compress("--speedup", "2x,3x", *CALIBRATION, UNTIMED, "--method", "auto", "-o", "out")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (files / "out").iterdir()} == {"2x", "3x", "front.json", "front.html"}
    front = json.loads((files / "out" / "front.json").read_text())
    assert [point["asked"] for point in front["points"]] == [2.0, 3.0]
    for point in front["points"]:
        written = report_in(files / "out" / point["folder"])
        assert written["asked"]["speedup"] == written["planner"]["asked"] == point["asked"]
        assert written["macs"]["conv_speedup"] == point["macs_speedup"] >= point["asked"]
        assert (files / "out" / point["folder"] / "report.html").exists()
    *_, first, second, last = result.stdout.splitlines()
    assert first.endswith("-> out/2x")
    assert "(asked 2x)" in first
    assert second.endswith("-> out/3x")
    assert last.endswith("-> out/front.html")
    again = compress("--speedup", "3x,2x", *CALIBRATION, UNTIMED, "-o", "out")
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr


def test_a_front_as_json_is_all_there_is_on_stdout(files: Path) -> None:
    result = compress("--speedup", "2x,2.5x", *CALIBRATION, UNTIMED, "-o", "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((files / "out" / "front.json").read_text())
    assert "calibrate" in result.stderr


def test_the_default_place_of_a_front_is_named_after_the_network(files: Path) -> None:
    result = compress("--speedup", "2x,3x", *CALIBRATION, UNTIMED, "--quiet")
    assert result.exit_code == 0, result.output
    assert (files / "cnncompress-out" / "planned_nets-build-front" / "3x" / "model.safetensors").exists()
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == ""


@pytest.mark.parametrize("method", ["gsvd3d", "auto"])
def test_the_fastest_network_within_a_drop(files: Path, method: str) -> None:
    result = compress("--max-drop", "40", *LABELLED, UNTIMED, "--method", method, "-o", "out")
    assert result.exit_code == 0, result.output
    written = report_in(files / "out")
    trials = written["planner"]["trials"]
    within = {trial["speedup"] for trial in trials if trial["within"]}
    assert written["accuracy"]["drop_top1"] <= 40
    assert written["asked"]["speedup"] == max(within)
    assert trials[0]["speedup"] == 4.0
    for trial in trials:
        assert f"{trial['speedup']:g}x" in result.stderr
    assert "Speedups that were tried" in (files / "out" / "report.html").read_text()
    explained = run("explain", "out")
    assert explained.exit_code == 0, explained.output


def test_a_budget_of_time_is_planned_measured_and_explained(files: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((12, 3, 32, 32), dtype=np.float32)
    np.savez(files / "large.npz", images=noise)
    result = run(
        *(WIDER, "--input-size", "32", "--data", "large.npz", "--budget", "latency", "--speedup", "1.2x"),
        *("--method", "auto", "--batch", "2", "--threads", "1", "--align", "16", "-o", "out"),
    )
    assert result.exit_code == 0, result.output
    written = report_in(files / "out")
    planner = written["planner"]
    assert written["asked"]["budget"] == "latency"
    assert planner["unit"] == "ms"
    assert planner["setting"] == {"runtime": "torch", "threads": 1, "batch": 2, "device": "cpu"}
    assert 1 <= len(planner["rounds"]) <= 3
    assert all(one["measured_speedup"] > 0 for one in planner["rounds"])
    assert [line["name"] for line in planner["layers"]] == ["2"]
    (timed,) = written["latency"]
    assert (timed["runtime"], timed["threads"], timed["batch"]) == ("torch", 1, 2)
    assert result.stdout.splitlines()[-1].startswith(f"{WIDER}: measured speed ")
    assert (files / "cache" / "latency").exists()
    explained = run("explain", "out", "2")
    assert explained.exit_code == 0, explained.output
    assert " ms" in explained.stdout
    assert "planned" in result.stderr


def test_a_budget_of_parameters(files: Path) -> None:
    result = compress("--budget", "params", "--speedup", "2x", *CALIBRATION, UNTIMED, "-o", "out")
    assert result.exit_code == 0, result.output
    planner = report_in(files / "out")["planner"]
    assert planner["unit"] == "parameters"
    assert planner["total"] == 3 * 16 * 9 + 16 + 16 * 24 * 9 + 24 + 24 * 24 * 9 + 24
    assert planner["spent"] <= planner["budget"] <= planner["total"] / 2
    assert "fewer parameters (asked 2x)" in result.stdout.splitlines()[-1]


def test_a_layer_is_explained_from_the_folder_alone(files: Path) -> None:
    assert compress("--method", "auto", *CALIBRATION, UNTIMED, "-o", "out").exit_code == 0
    (line,) = [line for line in report_in(files / "out")["planner"]["layers"] if line["name"] == "2"]
    (files / "planned_nets.py").unlink()
    whole, one = run("explain", "out"), run("explain", "out", "2")
    assert (whole.exit_code, one.exit_code) == (0, 0)
    assert [row.split()[0] for row in whole.stdout.split("\n\n")[1].splitlines()[1:4]] == ["0", "2", "4"]
    assert f"{line['considered']} possibilities" in one.stdout
    assert "predicted to lose" in one.stdout
    assert json.loads(run("explain", "out", "2", "--json").stdout) == line
    wrong = run("explain", "out", "22")
    assert wrong.exit_code == 2
    assert len(wrong.stderr.splitlines()) == 1


def test_ranks_of_a_rule_that_weighs_nothing_are_explained_by_their_reasons(files: Path) -> None:
    assert compress("--speedup", "2x", *CALIBRATION, UNTIMED, "-o", "out").exit_code == 0
    explained = run("explain", "out")
    assert explained.exit_code == 0
    assert "greedy" in explained.stdout


def test_profile_measures_layers_and_what_may_replace_them(files: Path) -> None:
    result = run("profile", MODEL, "--input-size", "12", "--method", "gsvd,gsvd3d", "--align", "4", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["setting"]["runtime"] == "torch"
    assert [layer["name"] for layer in found["layers"]] == ["0", "2", "4", "8"]
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert {one["method"] for one in found["layers"][1]["fastest"]} <= {"gsvd", "gsvd3d"}
    assert (files / "cache" / "latency").exists()
    # what is kept is not measured again
    again = run("profile", MODEL, "--input-size", "12", "--method", "gsvd,gsvd3d", "--align", "4", "--json")
    assert json.loads(again.stdout) == found


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--budget", "latency", "--runtime", "onnxrutime", *CALIBRATION), "did you mean onnxruntime"),
        (("--method", "gsvd3d,gsdv", *CALIBRATION), "did you mean gsvd"),
        (("--distortion", "lost", *CALIBRATION), "'loss', 'response', 'energy'"),
        (("--budget", "flops", *CALIBRATION), "'macs', 'params', 'latency'"),
        (("--speedup", "2x,2x", *CALIBRATION), "twice"),
        (("--speedup", "2x,1x", *CALIBRATION), "above 1x"),
        (("--speedup", "2x,", *CALIBRATION), "4x or 2.5x"),
        (("--max-drop", "1", *CALIBRATION), "--eval"),
        (("--max-drop", "-1", *LABELLED), "above 0"),
        (("--max-drop", "0", *LABELLED), "above 0"),
        (("--max-drop", "nan", *LABELLED), "above 0"),
        (("--max-drop", "1", "--speedup", "2x,3x", *LABELLED), "give --speedup once"),
        (("--max-drop", "1", "--plan", "p.json", *LABELLED), "--plan"),
        (("--budget", "latency", UNTIMED, *CALIBRATION), "leave out --no-measure"),
        (("--method", "auto", "--ranks", "greedy", *CALIBRATION), "take knapsack"),
        (("--budget", "params", "--ranks", "uniform", *CALIBRATION), "take knapsack"),
        (("--threads", "0", *CALIBRATION), "--threads"),
        (("--batch", "0", *CALIBRATION), "--batch"),
        (("--speedup", "900x", "--method", "auto", *CALIBRATION, UNTIMED), "can't be reached"),
        (("--speedup", "2x,900x", *CALIBRATION, UNTIMED), "can't be reached"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(args: tuple[str, ...], message: str) -> None:
    result = compress(*args, "-o", "out")
    assert result.exit_code == 2
    # click shows how a command is used before its one line; ours stand behind the progress
    last = result.stderr.splitlines()[-1]
    assert last.lower().startswith("error: ")
    assert message in last
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_profile_refuses_a_runtime_that_is_none() -> None:
    result = run("profile", MODEL, "--runtime", "tensorflow")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
