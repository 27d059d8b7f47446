"""``cnncompress check``: exit codes, files, what GitHub is told."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import cnncompress as cc
from cnncompress.cli import main
from cnncompress.export import ExportError

FACTORY = "checked_nets:build"
SOURCE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 8),
    )
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's module, labelled images in it, and a compressed network."""
    folder = tmp_path_factory.mktemp("check")
    (folder / "checked_nets.py").write_text(SOURCE)
    images = torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(1))

    def refuse(*given: object, **options: object) -> None:
        raise ExportError("not here")  # the export takes seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr("cnncompress.output.write_onnx", refuse)
        network = cc.load_network(FACTORY, input_size=12)
        with torch.no_grad():
            labels = network.model(images).argmax(1).numpy()
        np.savez(folder / "val.npz", images=images.numpy(), labels=labels)
        options = cc.Options(speedup=1.5, measure=False)
        cc.compress(network, cc.api.open_source(images, preprocess=None), None, options).save(folder / "out")
    sys.modules.pop("checked_nets", None)
    return folder


@pytest.fixture
def out(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the compressed network; no CI around."""
    monkeypatch.syspath_prepend(home)
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(home / "out", tmp_path / "out")
    shutil.copy(home / "val.npz", tmp_path)
    return tmp_path / "out"


def check(*given: str) -> Result:
    return CliRunner().invoke(main, ["check", "out", "--network", FACTORY, *given])


def junit(folder: Path) -> ElementTree.Element:
    return ElementTree.parse(folder / "check.xml").getroot()  # noqa: S314  # our own file


def spoil(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["6.weight"] = -state["6.weight"]
    save_file(state, folder / "model.safetensors")


def test_kept_thresholds_are_code_0_and_one_line(out: Path) -> None:
    result = check(
        "--eval", "val.npz", "--max-drop", "50", "--min-speedup", "1.5x", "--max-size", "1MB", "-q"
    )
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert result.stdout.startswith(f"{FACTORY}: passed: top-1 drop")
    assert result.stderr == ""
    written = json.loads((out / "check.json").read_text())
    assert written["status"] == "passed"
    assert [finding["name"] for finding in written["findings"]] == ["top-1 drop", "speedup", "size"]
    assert junit(out).get("failures") == "0"


def test_a_broken_threshold_is_code_1_and_named(out: Path) -> None:
    spoil(out)
    result = check("--eval", "val.npz", "--max-drop", "5", "--min-speedup", "1.5", "-q")
    assert result.exit_code == 1
    assert "failed: top-1 drop" in result.stdout
    assert "speedup" not in result.stdout  # what was kept isn't news
    assert junit(out).get("failures") == "1"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "nothing to check"),
        (("--max-drop", "1", "--baseline", "b.json", "--write-baseline", "c.json"), "--baseline"),
        (("--max-drop", "1", "--against", "compressed"), "--baseline"),
        (("--max-drop", "1", "--labels", "labels.csv"), "--eval"),
        (("--max-size", "1MB", "--gate", "upper"), "--max-drop"),
        (("--max-size", "1MB", "--baseline", "b.json"), "--max-drop"),
        (("--max-drop", "1000", "--eval", "val.npz"), "points"),
        (("--min-speedup", "0.5"), "above 1x"),
        (("--max-size", "some"), "size"),
        (("--max-size", "1MB", "--device", "cuda:99", "--eval", "val.npz"), "cuda"),
    ],
)
def test_wrong_usage_is_code_2(out: Path, given: tuple[str, ...], message: str) -> None:
    result = check(*given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert not (out / "check.json").exists()


def test_what_cannot_be_measured_is_code_3_and_leaves_its_files(out: Path) -> None:
    result = check("--eval", "nowhere", "--max-drop", "1", "--gate", "upper", "-q")
    assert result.exit_code == 3
    assert "could not be measured" in result.stdout
    assert "nowhere" in result.stdout
    written = json.loads((out / "check.json").read_text())
    assert (written["status"], written["gate"]) == ("error", "upper")
    assert junit(out).get("errors") == "1"


def test_an_error_goes_by_the_networks_name_as_a_verdict_does(out: Path) -> None:
    check("--eval", "nowhere", "--max-drop", "1", "-q")
    names = [next(junit(out).iter("testcase")).get("classname")]
    check("--eval", "val.npz", "--max-drop", "50", "-q")
    names.append(next(junit(out).iter("testcase")).get("classname"))
    assert names[0] == names[1]
    assert FACTORY in str(names[0])


def test_a_missing_folder_is_code_3_and_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check("--min-speedup", "2").exit_code == 3
    assert not (tmp_path / "out").exists()


def test_a_crash_is_not_taken_for_a_failed_gate(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*given: object, **options: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr("cnncompress.gate.check_folder", crash)
    result = check("--min-speedup", "2", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"] == "RuntimeError: out of order"
    assert "Traceback" in result.stderr


def test_own_code_that_exits_is_not_taken_for_a_failed_gate(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving_nets.py").write_text("import sys\n\ndef build():\n    sys.exit(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = ["check", "out", "--network", "leaving_nets:build", "--min-speedup", "1.5"]
    assert CliRunner().invoke(main, given).exit_code == 3


def run_alone(out: Path, prepare: str, *given: str) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own, after some lines of Python."""
    program = f"{prepare}\nfrom cnncompress.cli import main\nmain()"
    words = [sys.executable, "-c", program, "check", "out", "--network", FACTORY, "--min-speedup", *given]
    return subprocess.run(  # noqa: S603  # our own words
        words, cwd=out.parent, capture_output=True, text=True, check=False
    )


def test_a_broken_installation_is_not_taken_for_a_failed_gate(out: Path) -> None:
    done = run_alone(out, "import sys; sys.modules['torch'] = None", "1.1")
    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_a_full_stdout_is_no_pass_and_no_crash(out: Path, home: Path) -> None:
    full = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    done = run_alone(out, f"import sys; sys.path.insert(0, {str(home)!r}); {full}", "1.1", "-q")
    assert done.returncode == 3
    assert "stdout can't be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_processes_are_wrong_usage(out: Path) -> None:
    done = run_alone(out, "import os; os.environ['WORLD_SIZE'] = '2'", "1.1")
    assert done.returncode == 2
    assert "torchrun" in done.stderr


def test_a_folder_without_a_report_is_told(out: Path) -> None:
    given = ("--eval", "val.npz", "--max-drop", "50", "--json", "-q")
    assert not any("report.json" in warning for warning in json.loads(check(*given).stdout)["warnings"])
    (out / "report.json").unlink()
    (warning,) = [text for text in json.loads(check(*given).stdout)["warnings"] if "report.json" in text]
    assert "the factory's own" in warning


def test_an_original_with_other_weights_is_told(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps({**report, "weights": "checkpoint best.pt"}))
    save_file(cc.load_network(FACTORY).model.state_dict(), "w.safetensors")
    given = ("--eval", "val.npz", "--checkpoint", "w.safetensors", "--json", "-q")
    direct = check(*given, "--max-drop", "50", "--write-baseline", "base.json")
    paired = check("--eval", "val.npz", "--max-drop", "50", "--baseline", "base.json", "--json", "-q")
    for result in (direct, paired):
        assert any(
            "was compressed from checkpoint best.pt, but is compared with checkpoint w.safetensors" in warning
            for warning in json.loads(result.stdout)["warnings"]
        )


def test_interrupting_is_code_130(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cnncompress.gate.check_folder", interrupt)
    assert check("--min-speedup", "2").exit_code == 130


def test_json_is_all_there_is_on_stdout(out: Path) -> None:
    result = check("--eval", "val.npz", "--max-drop", "50", "--json")
    assert json.loads(result.stdout) == json.loads((out / "check.json").read_text())
    assert "evaluate the compressed network" in result.stderr


def test_files_go_where_they_are_wanted(out: Path, tmp_path: Path) -> None:
    assert check("--min-speedup", "1.5", "-o", "results/here", "-q").exit_code == 0
    assert {file.name for file in (tmp_path / "results" / "here").iterdir()} == {"check.json", "check.xml"}
    assert not (out / "check.json").exists()


def test_files_that_cannot_be_written_are_no_pass(out: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    result = check("--min-speedup", "1.5", "-o", "taken", "-q")
    assert result.exit_code == 3
    assert "taken" in result.stdout


def test_a_baseline_makes_the_original_unneeded(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check("--eval", "val.npz", "--write-baseline", "sub/base.json", "-q").exit_code == 0
    first = check("--eval", "val.npz", "--max-drop", "40", "--json", "-q")

    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("the original was loaded")

    monkeypatch.setattr("cnncompress.gate.reference.load_original", refuse)
    second = check("--eval", "val.npz", "--max-drop", "40", "--baseline", "sub/base.json", "--json", "-q")
    assert second.exit_code == 0
    assert json.loads(second.stdout)["accuracy"] == json.loads(first.stdout)["accuracy"]
    assert "base.json" in json.loads(second.stdout)["against"]
    spoil(out)
    assert (
        check(
            *("--eval", "val.npz", "--max-drop", "1", "--baseline", "sub/base.json", "-q"),
            *("--against", "compressed"),
        ).exit_code
        == 1
    )


def test_a_baseline_alone_says_what_was_measured(out: Path) -> None:
    result = check("--eval", "val.npz", "--write-baseline", "base.json")
    assert result.exit_code == 0
    assert "top-1 100.00 ->" in result.stdout
    assert "base.json" in result.stderr


def test_github_gets_annotations_and_a_summary(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("# before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    spoil(out)
    result = check("--eval", "val.npz", "--max-drop", "5", "-q")
    assert result.exit_code == 1
    assert result.stdout.count("\n") == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("::error")]
    assert "top-1 drop" in error
    text = summary.read_text()
    assert text.startswith("# before\n")
    assert "top-1 drop" in text


def test_a_summary_that_cannot_be_written_changes_nothing(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    result = check("--min-speedup", "1.5", "-q")
    assert result.exit_code == 0
    assert "no summary" in result.stderr


def test_own_code_only_runs_when_named(out: Path) -> None:
    result = CliRunner().invoke(main, ["check", "out", "--min-speedup", "1.5", "-q"])
    assert result.exit_code == 3
    assert f"--network {FACTORY}" in result.stdout


def test_a_check_is_part_of_the_folder(out: Path) -> None:
    """The next compression into the folder may replace it, the check's files included."""
    from cnncompress.folder import check_folder

    assert check("--min-speedup", "1.5", "-q").exit_code == 0
    check_folder(out, overwrite=True)


def test_a_folder_whose_name_is_no_text_is_told_apart_from_a_failed_gate(out: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"o\xffdd")  # safetensors reads no such path
    shutil.copytree(out, tmp_path / odd)
    given = ("--network", FACTORY, "--min-speedup", "1.5", "-q")
    result = CliRunner().invoke(main, ["check", odd, *given, "--json"])
    assert result.exit_code == 3
    assert json.loads(result.stdout) == json.loads((tmp_path / odd / "check.json").read_text())
    missing = CliRunner().invoke(main, ["check", odd + "x", *given])
    assert missing.exit_code == 3
    assert "could not be measured" in missing.stdout
