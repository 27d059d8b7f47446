"""Any number of processes gives what one gives, and a dead one is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compress_together import METHODS, compressed

from cnncompress import World
from cnncompress.distributed import ALONE, Shard, joined, sharded
from cnncompress.image_source import Batch

HERE = Path(__file__).parent / "processes"


def torchrun(processes: int, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(  # noqa: S603  # our own words
        [*command, "--nproc-per-node", str(processes), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes have; sums of more threads round otherwise
    try:
        return {str(dtype): compressed(ALONE, dtype) for dtype in (torch.float64, torch.float32)}
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("processes", [2, 4])
def test_plan_and_factors_are_those_of_one_process(processes: int, alone: dict, tmp_path: Path) -> None:
    done = torchrun(processes, str(HERE / "compress_together.py"), str(tmp_path / "found.pt"))
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    for dtype, tolerance in (("torch.float64", 1e-9), ("torch.float32", 1e-3)):
        for method in METHODS:
            one, several = alone[dtype][method], found[dtype][method]
            assert several["plan"] == one["plan"]
            assert several["accuracy"] == one["accuracy"]
            assert several["bad"] == one["bad"]
            assert several["weights"].keys() == one["weights"].keys()
            for name, value in one["weights"].items():
                torch.testing.assert_close(several["weights"][name], value, rtol=tolerance, atol=tolerance)
            for name, value in one["fidelity"].items():
                assert several["fidelity"][name] == pytest.approx(value, abs=tolerance)


def test_exchanges() -> None:
    done = torchrun(3, str(HERE / "exchanges.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n").count("all exchanges agree") == 1


FACTORY = """
import os, signal
import torch
from torch import nn

class Dies(nn.Module):
    def forward(self, images):
        if os.environ.get("DIES", "nobody") == os.environ.get("RANK") and len(images) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return images

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        Dies(), nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(FACTORY, encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    torch.save(torch.randn(23, 3, 16, 16, generator=generator), tmp_path / "images.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: str) -> list[str]:
    given = [
        "nets:build",
        "--speedup",
        "2x",
        "--data",
        "images.pt",
        "--input-size",
        "16",
        "--batch-size",
        "5",
    ]
    return [*given, "--no-measure", *words]


def test_the_command_line_under_torchrun(folder: Path) -> None:
    several = torchrun(2, "-m", "cnncompress", *command("-o", "two"), PYTHONPATH=str(folder))
    assert several.returncode == 0, several.stderr
    assert several.stdout.count("-> two") == 1  # one process speaks
    assert several.stderr.count("calibrate: ") == 1
    one = subprocess.run(  # noqa: S603  # our own words
        [sys.executable, "-m", "cnncompress", *command("-o", "one")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
    )
    assert one.returncode == 0, one.stderr
    plans = [json.loads((folder / name / "plan.json").read_text()) for name in ("one", "two")]
    assert plans[0]["layers"] == plans[1]["layers"]
    assert (folder / "one" / "model.safetensors").stat().st_size > 1000
    from safetensors.torch import load_file

    weights = [load_file(folder / name / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)


def test_a_killed_process_ends_the_run_with_a_message_and_writes_nothing(folder: Path) -> None:
    died = torchrun(2, "-m", "cnncompress", *command("-o", "out"), PYTHONPATH=str(folder), DIES="1")
    assert died.returncode != 0
    assert "error: another process of this run has died" in died.stderr
    assert not (folder / "out").exists()
    assert not list(folder.glob(".out*"))


def test_an_error_that_all_processes_meet_is_told_once(folder: Path) -> None:
    wrong = torchrun(
        2, "-m", "cnncompress", *command("-o", "out", "--only", "nothing*"), PYTHONPATH=str(folder)
    )
    assert wrong.returncode != 0
    assert wrong.stderr.count("error: ") == 1
    assert not (folder / "out").exists()


def test_without_torchrun_there_is_one_process() -> None:
    with joined() as world:
        assert world == World(0, 1)
        assert world.is_first
        assert world.gather("a") == ["a"]
        assert world.each([1, 2], str) == ["1", "2"]


def test_batches_are_dealt_out_whole(tensor_source: type) -> None:
    source = tensor_source(torch.arange(23.0)[:, None, None, None])
    assert sharded(source, ALONE) is source

    def batches(shard: Shard, **given: list[int]) -> list[list[int]]:
        found: list[Batch] = list(shard.batches(4, **given))
        return [batch.indices.tolist() for batch in found]

    parts = [batches(Shard(source, World(rank, 4))) for rank in range(4)]
    assert parts[1] == [[4, 5, 6, 7], [20, 21, 22]]
    whole = [batch.indices.tolist() for batch in source.batches(4)]
    assert sorted(batch for part in parts for batch in part) == whole
    assert batches(Shard(source, World(3, 4)), order=[5, 3]) == []
    assert batches(Shard(source, World(0, 4)), order=[5, 3]) == [[5, 3]]
