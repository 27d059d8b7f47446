"""The demo: a fixed, fair division of the images, and heads whose accuracy is what their file says."""

import collections
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from cnncompress import backbones
from cnncompress.errors import DataError, ModelError
from cnncompress.models import load_network, rebuild
from cnncompress.zoo import elpv, elpv_networks, train_elpv_heads
from cnncompress.zoo.elpv import CATEGORIES, TEST_IMAGES, elpv_cells, elpv_split

NAMES = ("alexnet-elpv", "vgg16-elpv")


def test_the_parts_are_disjoint_and_cover_everything() -> None:
    train, test = elpv_split()
    assert (len(train.paths), len(test.paths)) == (1968, 656) == (1968, TEST_IMAGES)
    assert set(train.paths) | set(test.paths) == {cell.path for cell in elpv_cells()}
    assert not set(train.paths) & set(test.paths)
    assert all(len(part.paths) == len(part.labels) == len(set(part.paths)) for part in (train, test))


def test_both_parts_have_the_same_share_of_every_kind() -> None:
    cells = {cell.path: cell for cell in elpv_cells()}
    _, test = elpv_split()
    everything = collections.Counter((cell.probability, cell.kind) for cell in cells.values())
    tested = collections.Counter((cells[path].probability, cells[path].kind) for path in test.paths)
    for kind, count in everything.items():
        assert abs(tested[kind] - count / 4) < 1


def test_no_image_is_in_the_dataset_twice() -> None:
    contents = [hashlib.sha256(cell.path.read_bytes()).digest() for cell in elpv_cells()]
    assert len(set(contents)) == len(contents)


def test_labels_come_from_the_probability() -> None:
    cells = {cell.path: cell for cell in elpv_cells()}
    for part in elpv_split():
        assert [CATEGORIES[label] == "defective" for label in part.labels] == [
            cells[path].probability >= 0.5 for path in part.paths
        ]


def test_the_division_depends_on_the_seed_and_nothing_else() -> None:
    _, test = elpv_split(0)
    assert test == elpv_split(0)[1]
    assert set(test.paths) != set(elpv_split(1)[1].paths)
    names = ",".join(path.name for path in test.paths)
    assert hashlib.sha256(names.encode()).hexdigest()[:12] == "c62e10f1de2e"  # the shipped heads belong to it


def test_classes_are_mixed_in_every_stretch() -> None:
    for part in elpv_split():
        shares = [np.mean(part.labels[start : start + 100]) for start in range(0, len(part.labels) - 99, 100)]
        assert max(shares) < 0.5
        assert min(shares) > 0.15


def test_a_missing_dataset_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(elpv.importlib.resources, "files", missing)
    with pytest.raises(DataError, match=r"pip install 'cnncompress\[demo\]'"):
        elpv_split()


def test_a_damaged_dataset_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elpv.importlib.resources, "files", lambda name: tmp_path)
    with pytest.raises(DataError, match="reinstall"):
        elpv_split()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.csv").write_text("only two\n")
    with pytest.raises(DataError, match="reinstall"):
        elpv_split()


def test_pooling_is_the_mean_and_the_deviation() -> None:
    maps = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    pooled = elpv_networks.MeanAndDeviation()(maps)
    np.testing.assert_allclose(pooled[:, :3], maps.numpy().mean((2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pooled[:, 3:], maps.numpy().std((2, 3)), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_dead_channel_is_finite() -> None:
    maps = torch.zeros(1, 2, 3, 3, requires_grad=True)
    elpv_networks.MeanAndDeviation()(maps).sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        elpv_networks, "backbone_weights", lambda name, report: backbones.build_backbone(name).state_dict()
    )


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", NAMES)
def test_the_networks_come_with_head_categories_and_licence(name: str) -> None:
    network = load_network(name)
    assert network.features == "features"
    assert network.categories == ("functional", "defective")
    assert network.input_size == (3, 224, 224)
    assert any("CC BY-NC-SA 4.0" in note for note in network.notes)
    assert rebuild(network.source).state_dict().keys() == network.model.state_dict().keys()
    torch.testing.assert_close(
        network.model.state_dict()["classifier.weight"], elpv_networks.head(name)["classifier.weight"]
    )
    with pytest.raises(ModelError, match="default"):
        load_network(name, weights="IMAGENET1K_V1")


def test_the_file_of_heads_states_data_licence_and_accuracies() -> None:
    about = elpv_networks.head_metadata()
    assert "CC BY-NC-SA 4.0" in about["licence"]
    assert about["split"] == "elpv_split(seed=0)"
    for name in NAMES:
        figures = about[name]
        assert figures["accuracy_test"] > figures["accuracy_majority"] + 0.1
        assert (
            figures["accuracy_cross_validated"]
            > figures["accuracy_other_modules"]
            > figures["accuracy_majority"]
        )


def test_the_network_exports_to_onnx_as_it_is() -> None:
    model = rebuild({"kind": "zoo", "name": "alexnet-elpv", "num_classes": None})
    images = torch.zeros(2, 3, 64, 64)
    program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    assert program is not None
    content = io.BytesIO()
    program.save(content)
    onnx.checker.check_model(onnx.load_from_string(content.getvalue()))


# The training


def test_folding_gives_the_logistic_regression_on_standardised_features() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    features = (rng.standard_normal((400, 6)) * [1, 10, 100, 0.1, 1, 1] + 5 + labels[:, None]).astype(
        np.float32
    )
    rows = np.arange(400)
    head = train_elpv_heads.fit(features, labels, rows, 1.0)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    reference = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, tol=1e-6)).fit(features, labels)
    linear = nn.Linear(6, 2)
    linear.load_state_dict({key.removeprefix("classifier."): value for key, value in head.items()})
    chances = linear(torch.from_numpy(features)).softmax(1)[:, 1].detach().numpy()
    np.testing.assert_allclose(chances, reference.predict_proba(features)[:, 1], rtol=1e-3, atol=1e-4)


def test_training_is_repeatable_and_never_fits_on_the_test_part(tmp_path: Path, monkeypatch: Any) -> None:
    train, test = elpv_split()
    seen: list[tuple[Path, ...]] = []

    def pooled(name: str, paths: tuple[Path, ...], part: str, cache: Path | None) -> np.ndarray:
        seen.append(paths)
        labels = np.array(train.labels if part == "train" else test.labels)
        noise = np.random.default_rng(len(paths)).standard_normal((len(paths), 4))
        return (noise + labels[:, None]).astype(np.float32)

    monkeypatch.setattr(train_elpv_heads, "pooled", pooled)
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for file in files:
        train_elpv_heads.main(["--output", str(file)])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert set(seen) == {train.paths, test.paths}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_stated_accuracy_is_reached(name: str) -> None:
    network = load_network(name)
    _, test = elpv_split()
    model = network.model.to(memory_format=torch.channels_last)  # twice as fast
    hits = []
    with torch.inference_mode():
        for start in range(0, 100, 10):
            images = [network.preprocess(Image.open(path)) for path in test.paths[start : start + 10]]
            logits = model(torch.stack(images).contiguous(memory_format=torch.channels_last))
            hits.extend((logits.argmax(1) == torch.tensor(test.labels[start : start + 10])).tolist())
    stated = elpv_networks.head_metadata()[name]["accuracy_test"]
    majority = 1 - np.mean(test.labels[:100])
    assert np.mean(hits) > majority
    # Four standard errors of a hundred images.
    np.testing.assert_allclose(np.mean(hits), stated, atol=4 * np.sqrt(stated * (1 - stated) / 100))
