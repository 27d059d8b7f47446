"""Covariances between neighbouring convolutions are those of the pixels that the network computes."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as nnf

from cnncompress.covariance import CovarianceStudy, study_covariance
from cnncompress.covariance_output import write_study
from cnncompress.errors import DataError, ModelError, NumericsError, OptionError, OutputError
from cnncompress.events import StageAdvanced, StageDone
from cnncompress.inspect import inspect_layers
from cnncompress.pixel_pairs import Pair, neighbouring_pairs


class Branches(nn.Module):
    """Convolutions around a pooling, in-place rectifiers and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = nnf.relu(self.first(images), inplace=True)
        y = nnf.relu(self.second(nnf.max_pool2d(x, 2)), inplace=True)
        return self.head((y + self.shortcut(x)).mean((2, 3)))


SIZE = (3, 8, 10)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Branches().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(12, *SIZE, generator=torch.Generator().manual_seed(0))


def responses(model: Any, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the first two layers, directly: as matrices of channels and samples."""
    with torch.no_grad():
        first = model.first(images)
        second = model.second(nnf.max_pool2d(nnf.relu(first), 2))
        resized = nnf.interpolate(second, size=first.shape[2:], mode="nearest-exact")
    return first.transpose(0, 1).flatten(1).double().numpy(), resized.transpose(0, 1).flatten(
        1
    ).double().numpy()


def test_pairs_are_neighbours_in_the_order_of_execution(model: nn.Module) -> None:
    pairs = neighbouring_pairs(inspect_layers(model, SIZE))
    assert [(pair.first.name, pair.second.name) for pair in pairs] == [
        ("first", "second"),
        ("second", "shortcut"),
    ]
    assert [pair.grid for pair in pairs] == [(8, 10), (4, 5)]
    (only,) = neighbouring_pairs(inspect_layers(model, SIZE), ["sec*"])
    assert only == pairs[1]


def test_moments_are_those_of_all_pixels(model: nn.Module, images: Tensor, tensor_source: Any) -> None:
    study = study_covariance(model, SIZE, tensor_source(images), batch_size=5)
    first, second = responses(model, images)
    pair = study.pairs[0]
    assert (pair.samples, study.images) == (12 * 80, 12)
    joint = np.cov(np.concatenate([first, second]), bias=True)
    np.testing.assert_allclose(pair.plain, joint[:4, 4:], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(study.layers[0].correlation, np.abs(np.corrcoef(first)), atol=1e-5)
    roots = []
    for block in (joint[:4, :4], joint[4:, 4:]):
        values, vectors = np.linalg.eigh(block)
        roots.append(vectors @ np.diag(values**-0.5) @ vectors.T)
    np.testing.assert_allclose(pair.whitened, roots[0] @ joint[:4, 4:] @ roots[1], atol=1e-4)


def test_each_layer_is_described_once_at_its_own_size(
    model: nn.Module, images: Tensor, tensor_source: Any
) -> None:
    study = study_covariance(model, SIZE, tensor_source(images))
    assert [(layer.name, layer.samples) for layer in study.layers] == [
        ("first", 12 * 80),
        ("second", 12 * 20),
        ("shortcut", 12 * 20),
    ]


@pytest.mark.parametrize("size", [(4, 5), (3, 7), (8, 10), (1, 1)])
def test_pixels_are_those_of_the_resized_map(describe: Any, size: tuple[int, int]) -> None:
    large = describe(nn.Conv2d(1, 2, 1), (1, 8, 10))
    small = describe(nn.Conv2d(1, 3, 1), (1, *size))
    pair = Pair.of(large, small)
    output = torch.arange(2 * 3 * size[0] * size[1], dtype=torch.float32).reshape(2, 3, *size)
    drawn = pair.drawn([7, 9], pixels=11, seed=0)
    resized = nnf.interpolate(output, size=pair.grid, mode="nearest-exact").flatten(2)
    wanted = [resized[image][:, torch.from_numpy(drawn[image])] for image in range(2)]
    assert torch.equal(pair.taken(output, drawn), torch.cat(wanted, dim=1).double())


def test_pixels_depend_on_the_image_and_the_seed_alone(
    model: nn.Module, images: Tensor, tensor_source: Any
) -> None:
    def plain(batch_size: int, seed: int) -> np.ndarray:
        study = study_covariance(
            model, SIZE, tensor_source(images), pixels=20, batch_size=batch_size, seed=seed
        )
        assert study.pairs[0].samples == 12 * 20
        return study.pairs[0].plain

    np.testing.assert_allclose(plain(1, 0), plain(12, 0), rtol=1e-5, atol=1e-8)
    assert np.abs(plain(12, 0) - plain(12, 1)).max() > 1e-4
    layer = inspect_layers(model, SIZE)[0]
    drawn = Pair.of(layer, layer).drawn([3], pixels=20, seed=0)
    assert len(set(drawn.ravel())) == 20


def test_the_model_is_left_as_it_was(model: nn.Module, images: Tensor, tensor_source: Any) -> None:
    before = copy.deepcopy(model.state_dict())
    model.train()
    study_covariance(model, SIZE, tensor_source(images))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_grouped_convolutions_show_as_blocks(tensor_source: Any) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(8, 16, 1, groups=4, bias=False), nn.ReLU(), nn.Conv2d(16, 16, 1, groups=4, bias=False)
    )
    images = torch.randn(40, 8, 6, 6, generator=torch.Generator().manual_seed(2))
    study = study_covariance(net, (8, 6, 6), tensor_source(images))
    (pair,) = study.pairs
    four = next(grouping for grouping in pair.groupings if grouping.groups == 4)
    assert (pair.suggested, pair.own_groups) == (4, 4)
    assert four.contiguous > 0.85
    assert four.score >= four.contiguous
    assert study.layers[1].suggested == 4


def test_too_few_pixels_are_told(model: nn.Module, images: Tensor, tensor_source: Any) -> None:
    assert study_covariance(model, SIZE, tensor_source(images)).notes == ()
    (note, _) = study_covariance(model, SIZE, tensor_source(images[:2]), pixels=20).notes
    assert "first and second: 40 pixels for 10 channels" in note


def test_progress_counts_images_and_matrices(model: nn.Module, images: Tensor, tensor_source: Any) -> None:
    events: list[Any] = []
    study_covariance(model, SIZE, tensor_source(images), report=events.append)
    steps = {
        stage: sum(e.steps for e in events if isinstance(e, StageAdvanced) and e.stage == stage)
        for stage in (e.stage for e in events if isinstance(e, StageDone))
    }
    assert steps == {"covariances": 12, "group channels": 5}


def test_what_cannot_be_measured_is_refused(model: nn.Module, images: Tensor, tensor_source: Any) -> None:
    with pytest.raises(OptionError, match=r"named like 'conv9'; known: first, second"):
        study_covariance(model, SIZE, tensor_source(images), pairs=["conv9"])
    with pytest.raises(OptionError, match="pixels must be at least 1, got 0"):
        study_covariance(model, SIZE, tensor_source(images), pixels=0)
    with pytest.raises(DataError, match="no image"):
        study_covariance(model, SIZE, tensor_source(images[:0]))
    with pytest.raises(ModelError, match="two convolutions"):
        study_covariance(nn.Sequential(nn.Conv2d(3, 4, 1)), SIZE, tensor_source(images))
    shared = nn.Conv2d(3, 3, 1)
    with pytest.raises(ModelError, match="found 1"):
        study_covariance(nn.Sequential(shared, shared, nn.Conv2d(3, 4, 1)), SIZE, tensor_source(images))
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(NumericsError, match="first: its responses hold NaN"):
        study_covariance(model, SIZE, tensor_source(images))


@pytest.fixture
def study(model: nn.Module, images: Tensor, tensor_source: Any) -> CovarianceStudy:
    return study_covariance(model, SIZE, tensor_source(images), pairs=["first"])


def test_files_hold_pictures_numbers_and_matrices(study: CovarianceStudy, tmp_path: Path) -> None:
    files = write_study(tmp_path / "out", study)
    assert sorted(path.name for path in files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert {path.name for path in files} >= {"layer-first.png", "pair-first-second.png"}
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert np.asarray(picture.convert("L")).std() > 10
    told = json.loads((tmp_path / "out" / "covariance.json").read_text())
    assert told["pairs"][0]["groupings"][0]["groups"] == 2
    assert sorted(told["pairs"][0]["groupings"][0]["column_order"]) == list(range(6))
    with np.load(tmp_path / "out" / "covariance.npz", allow_pickle=False) as matrices:
        np.testing.assert_allclose(matrices["whitened/first/second"], study.pairs[0].whitened, atol=1e-6)
        assert matrices["correlation/second"].shape == (6, 6)


def test_a_folder_in_use_is_left_alone(study: CovarianceStudy, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="holds files"):
        write_study(tmp_path, study)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_layers_of_odd_names_and_prime_channels_are_drawn(tensor_source: Any, tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("a b/c", nn.Conv2d(3, 5, 1))
    net.add_module("d", nn.Conv2d(5, 7, 1))
    result = study_covariance(net, (3, 4, 4), tensor_source(torch.randn(3, 3, 4, 4)))
    assert [pair.suggested for pair in result.pairs] == [1]
    assert "pair-a_b_c-d.png" in {path.name for path in write_study(tmp_path / "o", result)}
