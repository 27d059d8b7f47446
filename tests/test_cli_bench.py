"""``cnncompress bench`` on a folder of results: tables, JSON, files, and refusals."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from cnncompress.cli import main
from cnncompress.cli.bench_tables import print_bench
from cnncompress.errors import OutputError
from cnncompress.plan import LayerPlan, Plan
from cnncompress.runtimes import RUNTIMES, runtime_named
from cnncompress.text_file import check_file, write_text

BUILD = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()
"""
MODEL = "benched_nets:build"
BEFORE = ("out", "--model", MODEL, "--repeats", "1")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An importable network and the folder of a compression."""
    (tmp_path / "benched_nets.py").write_text(BUILD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "benched_nets", raising=False)
    monkeypatch.chdir(tmp_path)
    import benched_nets

    torch.manual_seed(0)
    plan = Plan(
        network="net",
        source={"kind": "factory", "factory": MODEL},
        input_size=(3, 10, 10),
        folded=(("0", "1"),),
        layers=(
            LayerPlan(name="0", method="spatial", ranks=(4,)),
            LayerPlan(name="3", method="none", reason="as it is"),
            LayerPlan(name="7", method="svd-out", ranks=(2,)),
        ),
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.json").write_text(json.dumps(plan.to_json()))
    save_file(plan.build(benched_nets.build()).state_dict(), tmp_path / "out" / "model.safetensors")
    yield tmp_path
    sys.modules.pop("benched_nets", None)


def bench(*words: str) -> Result:
    return CliRunner().invoke(main, ["bench", *words], catch_exceptions=False)


def document(*words: str) -> Any:
    done = bench(*BEFORE, *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_json_has_network_settings_environment_times_and_layers() -> None:
    found = document("--runtimes", "torch", "--threads", "1,2", "--batch", "1,3", "--per-layer")
    assert found["network"] == "net"
    assert found["settings"] == {"runtimes": ["torch"], "threads": [1, 2], "batches": [1, 3], "repeats": 1}
    assert found["environment"]["cpu"]
    settings = [(1, 1), (1, 3), (2, 1), (2, 3)]
    for lines in (found["latency"], found["layers"]):
        assert [(line["threads"], line["batch"]) for line in lines] == settings
        assert all(line["ms_before"] > 0 and line["ms_after"] > 0 for line in lines)
    for line in found["layers"]:
        assert [layer["name"] for layer in line["layers"]] == ["0", "7"]
        assert line["ms_before"] == pytest.approx(sum(layer["ms_before"] for layer in line["layers"]))


def test_layers_are_timed_only_when_asked_for() -> None:
    assert document("--runtimes", "torch")["layers"] is None


def test_the_file_is_what_is_printed(home: Path) -> None:
    file = home / "new" / "bench.json"
    done = bench(*BEFORE, "--runtimes", "torch", "--json", "-o", str(file))
    assert file.read_text() == done.stdout
    table = bench(*BEFORE, "--runtimes", "torch", "--output", str(file))
    assert "before ms" in table.stdout
    assert json.loads(file.read_text())["network"] == "net"
    assert [path.name for path in file.parent.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("file", "message"), [("out", "is a folder"), ("benched_nets.py/bench.json", "can't be written")]
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    file: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Plan, "read", refuse)
    done = bench(*BEFORE, "--runtimes", "torch", "-o", file)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_write_that_fails_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kept.json"
    write_text(file, "before")
    check_file(file)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_text(file, "after")
    assert file.read_text() == "before"
    assert not list(tmp_path.glob(".kept*"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_runs_or_says_in_one_line_why_not(runtime: str) -> None:
    if runtime == "torch.compile" and runtime_named(runtime).obstacle() is None:
        pytest.skip("compiled in tests/test_runtimes.py and tests/test_per_layer.py, which takes seconds")
    done = bench(*BEFORE, "--runtimes", runtime, "--per-layer", "--quiet")
    if runtime_named(runtime).obstacle() is None:
        assert done.exit_code == 0, done.output
        assert f"replaced layers in {runtime}" in done.stdout
        assert done.stderr == ""
    else:
        assert done.exit_code == 2
        assert done.stderr.startswith(f"error: runtime '{runtime}' can't run here")
        assert len(done.stderr.splitlines()) == 1


def test_unknown_runtimes_get_suggestions() -> None:
    done = bench(*BEFORE, "--runtimes", "torch,openvno")
    assert done.exit_code == 2
    assert done.stderr == "error: unknown runtime 'openvno'; did you mean openvino?\n"
    assert bench(*BEFORE, "--runtimes", ",").exit_code == 2


def layer(name: str, before: float, after: float, *, slower: bool, timed: str) -> dict[str, Any]:
    spread = {"iqr_before": 0.125, "iqr_after": 0.25}
    macs = {"macs_before": 200, "macs_after": 100}
    times = {"ms_before": before, "ms_after": after, "speedup": before / after}
    own = {"name": name, "method": "spatial", "ranks": [4, 2], "slower": slower, "timed": timed}
    return own | macs | times | spread


def measured(layers: list[dict[str, Any]]) -> dict[str, Any]:
    setting = {"runtime": "onnxruntime", "threads": 2, "batch": 4, "device": "cpu"}
    network = setting | {
        "ms_before": 10.0,
        "ms_after": 8.0,
        "iqr_before": 0.1,
        "iqr_after": 0.1,
        "speedup": 1.25,
    }
    sums = {f"ms_{when}": sum(one[f"ms_{when}"] for one in layers) for when in ("before", "after")}
    return {
        "network": "net",
        "settings": {"repeats": 5},
        "environment": {"cpu": "a processor"},
        "latency": [network],
        "layers": [setting | sums | {"layers": layers}],
    }


def test_the_table_marks_slower_layers_and_tells_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    print_bench(
        measured(
            [
                layer("first", 4.0, 1.0, slower=False, timed="profile"),
                layer("second", 2.0, 4.0, slower=True, timed="network"),
            ]
        )
    )
    lines = capsys.readouterr().out.splitlines()
    title = lines.index("replaced layers in onnxruntime, threads: 2, batch: 4")
    _, first, second, together, rest, whole = (line.split() for line in lines[title + 1 :])
    assert first == ["first", "spatial", "4,2", "2x", "4.000", "0.125", "1.000", "0.250", "4x"]
    assert second[-8:] == ["slower,", "run", "as", "a", "network", "of", "its", "own"]
    assert together == ["these", "together", "2x", "6.000", "5.000", "1.20x"]
    assert rest == ["all", "the", "rest", "4.000", "3.000"]
    assert whole == ["whole", "network", "10.000", "8.000", "1.25x"]


@pytest.mark.parametrize(("before", "busier"), [(9.0, False), (10.5, False), (15.0, True)])
def test_layers_that_take_longer_than_their_network_are_explained(
    before: float, busier: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    print_bench(measured([layer("only", before, 1.0, slower=False, timed="module")]))
    assert ("the machine was busier" in capsys.readouterr().out) is busier


def test_a_network_that_is_the_original_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_bench(measured([]))
    assert capsys.readouterr().out.splitlines()[-1] == "none: the network is the original"


def test_slow_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from cnncompress import measure

    def slow(*given: Any, **settings: Any) -> tuple[measure.Latency, ...]:
        spread = {"iqr_before": 0.0, "iqr_after": 0.0}
        times = {"ms_before": 1.0, "ms_after": 100.0, "speedup": 0.01}
        return (measure.Latency(runtime="torch", threads=1, batch=1, repeats=1, **times, **spread),)

    monkeypatch.setattr(measure, "latencies", slow)
    done = bench(*BEFORE, "--runtimes", "torch")
    assert done.exit_code == 0
    assert "0.01x" in done.stdout
