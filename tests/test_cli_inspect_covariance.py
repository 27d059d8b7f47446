"""`inspect --covariance` and `inspect --filters`: tables, files and exit codes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from cnncompress import models as toolkit_models
from cnncompress.cli import main
from cnncompress.network import Network, Preprocess


def tiny() -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()
    )
    return Network(
        name="tiny", model=model.eval(), preprocess=Preprocess(resize=None, crop=(12, 12)), weights="random"
    )


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def load_network(name: str, **options: Any) -> Network:
        calls.append({"name": name, **options})
        return tiny()

    monkeypatch.setattr(toolkit_models, "load_network", load_network)
    return calls


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(path, images=rng.integers(0, 256, size=(9, 12, 12, 3), dtype=np.uint8))
    return path


def run(*args: Any) -> Result:
    return CliRunner().invoke(main, ["inspect", "tiny", *map(str, args)])


def test_covariance_prints_a_table_and_writes_files(
    photos: Path, tmp_path: Path, loaded: list[dict[str, Any]]
) -> None:
    result = run("--covariance", "--data", photos, "--images", 6, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    # the weights matter here: they aren't made up as for the list of layers
    assert loaded[0]["weights"] == "default"
    header, first, second, *_ = result.stdout.splitlines()
    assert "within, 2 groups" in header
    assert "suggested groups" in header
    assert first.split()[:2] == ["0", "8"]
    assert second.split()[:2] == ["3", "8"]
    assert result.stdout.count("(") >= 6
    told = json.loads((tmp_path / "out" / "covariance.json").read_text())
    assert told["images"] == 6
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"covariance.json", "covariance.npz", "layer-0.png", "layer-3.png", "pair-0-3.png"}


def test_json_is_what_the_file_holds_and_default_images_are_those_of_compress(tmp_path: Path) -> None:
    result = run("--covariance", "--images", 3, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert "photographs" in result.stderr
    told = json.loads((tmp_path / "out" / "covariance.json").read_text())
    assert told["images"] == 3
    assert json.loads(result.stdout) == told


def test_filters_writes_a_picture(tmp_path: Path) -> None:
    result = run("--filters", "0", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "best 3 x 3 filters" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"filters.png", "filters.json"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--covariance"], "--covariance needs --out"),
        (["--filters", "0"], "--filters needs --out"),
        (["--covariance", "--filters", "0", "--out", "OUT"], "not both"),
        (["--out", "OUT"], "--out goes with"),
        (["--filters", "0", "--data", "x", "--out", "OUT"], "--data and --pairs go with --covariance"),
        (["--covariance", "--pairs", "9", "--images", "2", "--out", "OUT"], "no pair's first layer"),
        (["--covariance", "--images", "1", "--out", "OUT"], "--images"),
        (["--covariance", "--data", "missing/", "--out", "OUT"], "no such file or folder"),
        (["--filters", "7", "--out", "OUT"], "unknown layer '7'"),
        (["--filters", "1", "--out", "OUT"], "is a ReLU"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(args: list[str], message: str, tmp_path: Path) -> None:
    result = run(*(tmp_path / "out" if arg == "OUT" else arg for arg in args))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_before_the_network_is_loaded(
    tmp_path: Path, loaded: list[dict[str, Any]]
) -> None:
    (tmp_path / "mine.txt").write_text("x")
    for asked in (["--covariance"], ["--filters", "0"]):
        result = run(*asked, "--out", tmp_path)
        assert result.exit_code == 2
        assert "holds files" in result.stderr
    assert loaded == []
