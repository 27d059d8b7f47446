"""The fixture `compression_gate`, in pytest runs of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tiny_folder

TESTS = f'''
import warnings

import pytest

from cnncompress.gate.verdict import Verdict

OWN = {{"model": "{tiny_folder.FACTORY}"}}


def test_kept(compression_gate):
    verdict = compression_gate("out", "val.npz", max_drop=100, min_speedup=1.5, max_size="1MB", **OWN)
    assert isinstance(verdict, Verdict)
    assert verdict.status == "passed"
    assert verdict.accuracy["n"] == 60


def test_broken(compression_gate):
    compression_gate("out", max_size=10, min_speedup=1.1, **OWN)


def test_unmeasured(compression_gate):
    compression_gate("elsewhere", max_size="1MB", **OWN)


def test_unmeasured_images(compression_gate):
    compression_gate("out", "nowhere.npz", max_drop=100, **OWN)


def test_nothing_asked(compression_gate):
    compression_gate("out", "val.npz", **OWN)


def test_no_size(compression_gate):
    compression_gate("out", max_size="big", **OWN)


def test_original_at_hand(compression_gate):
    import tiny_classifier

    original = tiny_classifier.build().model
    verdict = compression_gate("out", "val.npz", max_drop=100, original=original)
    assert verdict.accuracy["top1"]["before"] == 100


def test_judged(compression_gate):
    drop = compression_gate("out", "val.npz", max_drop=100, gate="point", **OWN).accuracy["top1"]["drop"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compression_gate("out", "val.npz", max_drop=drop + 0.1, **OWN)


@pytest.mark.filterwarnings("error")
def test_warned(compression_gate):
    kept = {{"against": "compressed", "baseline": "kept.json"}}
    compression_gate("out", "val.npz", max_drop=1, gate="point", **kept, **OWN)
'''


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest there with the plugin alone, whether or not it is installed as an entry point."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "cnncompress.pytest_plugin",
        "-p",
        "no:cacheprovider",
        *words,
    ]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(folder)}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(  # noqa: S603  # our own words
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        tiny_folder.make(folder)
    (folder / "test_gate.py").write_text(TESTS, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\ncompression_gate = upper\n", encoding="utf-8")
    command = [sys.executable, "-m", "cnncompress", "check", "out", "--eval", "val.npz", "-o", "reports"]
    command += ["--network", tiny_folder.FACTORY, "--write-baseline", "kept.json"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603  # our own words
    return folder


def cases_of(report: Path) -> dict[str, ElementTree.Element]:
    root = ElementTree.parse(report)  # noqa: S314  # our own
    return {case.get("name", ""): case for case in root.iter("testcase")}


@pytest.fixture(scope="module")
def cases(project: Path) -> dict[str, ElementTree.Element]:
    """The test cases of one run of all tests, by name; the command line is stronger than the setting."""
    done = run(project, "--compression-gate=point", "--junitxml=report.xml", "-q")
    assert done.returncode == 1, done.stdout + done.stderr
    return cases_of(project / "report.xml")


def failure(case: ElementTree.Element) -> str:
    found = case.find("failure")
    assert found is not None
    return found.text or ""


def verdicts(case: ElementTree.Element) -> list[dict[str, object]]:
    found = [entry for entry in case.iter("property") if entry.get("name") == "compression_gate"]
    return [json.loads(entry.get("value", "")) for entry in found]


@pytest.mark.parametrize("name", ["test_kept", "test_original_at_hand", "test_judged"])
def test_a_network_that_keeps_its_limits_passes(cases: dict[str, ElementTree.Element], name: str) -> None:
    assert cases[name].find("failure") is None
    assert cases[name].find("error") is None
    assert [verdict["status"] for verdict in verdicts(cases[name])] == ["passed"] * (
        1 + (name == "test_judged")
    )


def test_a_broken_limit_fails_with_all_findings_and_no_traceback(
    cases: dict[str, ElementTree.Element],
) -> None:
    text = failure(cases["test_broken"])
    assert text.startswith(f"{tiny_folder.FACTORY}: failed: size")
    assert "FAILED  size" in text
    assert "passed  speedup" in text
    assert "pytest_plugin" not in text
    (verdict,) = verdicts(cases["test_broken"])
    assert verdict["status"] == "failed"


@pytest.mark.parametrize("name", ["test_unmeasured", "test_unmeasured_images"])
def test_what_cannot_be_measured_fails(cases: dict[str, ElementTree.Element], name: str) -> None:
    assert "could not be measured" in failure(cases[name])
    assert cases[name].find("skipped") is None
    (verdict,) = verdicts(cases[name])
    assert verdict["status"] == "error"


@pytest.mark.parametrize(
    ("name", "said"), [("test_nothing_asked", "nothing to check"), ("test_no_size", "not a size")]
)
def test_a_call_that_asks_for_nothing_is_a_usage_error(
    cases: dict[str, ElementTree.Element], name: str, said: str
) -> None:
    text = failure(cases[name])
    assert "UsageError" in text
    assert said in text


def test_doubts_are_warnings_of_a_class_of_their_own(cases: dict[str, ElementTree.Element]) -> None:
    text = failure(cases["test_warned"])  # which turns warnings into errors
    assert f"CompressionGateWarning: {tiny_folder.FACTORY}: top-1 drop" in text
    assert "images of this kind would do" in text


def test_workers_of_xdist_judge_as_the_setting_says(project: Path) -> None:
    words = ["-p", "xdist", "-n", "1", "--junitxml=workers.xml", "-q"]
    done = run(project, *words, "test_gate.py::test_kept", "test_gate.py::test_judged")
    assert done.returncode == 1, done.stdout + done.stderr
    found = cases_of(project / "workers.xml")
    (verdict,) = verdicts(found["test_kept"])
    assert verdict["gate"] == "upper"
    assert "its upper end" in failure(found["test_judged"])


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "-o", "compression_gate=lower")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "must be point or upper, got 'lower'" in done.stderr


def test_pytest_starts_without_torch(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n\ndef test_nothing(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('cnncompress.pytest_plugin')\n"
        "    assert not {'torch', 'numpy', 'click'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    done = run(tmp_path, "-W", "error")
    assert done.returncode == 0, done.stdout
