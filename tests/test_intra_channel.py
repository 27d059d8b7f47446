"""The filters that are drawn are a depthwise layer's own, or the best ones of a convolution."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnncompress.errors import ModelError, NumericsError, OptionError
from cnncompress.filter_figures import kernel_tiles
from cnncompress.intra_channel import intra_channel_kernels, write_kernels


class Unravelled(nn.Module):
    """A layer in the manner of the toolkit's own."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(3, 6, 3, groups=3, bias=False)
        self.pointwise = nn.Conv2d(6, 4, 1)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), Unravelled(), nn.Conv2d(4, 6, (1, 3), groups=2), nn.Conv2d(6, 2, 1), nn.ReLU()
    )


def test_depthwise_kernels_are_shown_as_they_are(net: nn.Module) -> None:
    found = intra_channel_kernels(net, "1")
    assert (found.layer, found.kernels.shape, found.energies) == ("1.depthwise", (2, 3, 3, 3), ())
    weight = net[1].depthwise.weight.detach().numpy()
    np.testing.assert_array_equal(found.kernels[1, 2], weight[2 * 2 + 1, 0])
    np.testing.assert_array_equal(found.kernels, intra_channel_kernels(net, "1.depthwise").kernels)


def test_a_convolution_of_shared_filters_shows_these(net: nn.Module) -> None:
    rng = np.random.default_rng(0)
    filters = np.abs(rng.normal(size=(3, 9)))
    weight = rng.normal(size=(8, 3, 1)) * filters
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(weight.reshape(8, 3, 3, 3)))
    found = intra_channel_kernels(net, "0")
    assert found.kernels.shape == (4, 3, 3, 3)
    shown = found.kernels[0].reshape(3, 9)
    shown = shown / np.linalg.norm(shown, axis=1, keepdims=True)
    np.testing.assert_allclose(shown, filters / np.linalg.norm(filters, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(found.energies, [1, 0, 0, 0], atol=1e-9)


def test_energies_fall_and_add_up(net: nn.Module) -> None:
    energies = intra_channel_kernels(net, "0", most_bases=9).energies
    assert len(energies) == 8
    assert list(energies) == sorted(energies, reverse=True)
    assert sum(energies) == pytest.approx(1.0)


def test_grouped_convolutions_keep_to_their_outputs(net: nn.Module) -> None:
    found = intra_channel_kernels(net, "2")
    assert found.kernels.shape == (3, 4, 1, 3)
    weight = net[2].weight.detach().double().numpy()  # outputs 3 to 5 read inputs 2 and 3
    _, _, right = np.linalg.svd(weight[3:, 1, 0])
    cosine = found.kernels[0, 3, 0] @ right[0] / np.linalg.norm(found.kernels[0, 3, 0])
    assert abs(cosine) == pytest.approx(1.0)
    assert (found.kernels.sum(axis=(2, 3)) >= 0).all()


def test_what_has_no_filters_is_refused(net: nn.Module) -> None:
    with pytest.raises(OptionError, match="unknown layer '9'; known"):
        intra_channel_kernels(net, "9")
    with pytest.raises(ModelError, match=r"4: is a ReLU, not a convolution; known: 0, 1\.depthwise"):
        intra_channel_kernels(net, "4")
    with pytest.raises(ModelError, match="3: its kernels are 1 x 1"):
        intra_channel_kernels(net, "3")
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(NumericsError, match="0: a weight"):
        intra_channel_kernels(net, "0")


def test_files_are_a_picture_and_its_numbers(net: nn.Module, tmp_path: Path) -> None:
    kernels = intra_channel_kernels(net, "0")
    path = write_kernels(tmp_path / "out", kernels)
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    told = json.loads((tmp_path / "out" / "filters.json").read_text())
    np.testing.assert_allclose(told["kernels"], kernels.kernels)


def test_zero_is_mid_grey_and_signs_show() -> None:
    def greys(kernel: np.ndarray) -> set[int]:
        with Image.open(io.BytesIO(kernel_tiles(kernel[None, None], "one"))) as picture:
            shown = np.asarray(picture.convert("L"))
        # the tile fills most of the picture, the other shades are those of letters and the white around
        shades = {int(shade) for shade in np.unique(shown) if (shown == shade).mean() > 0.1}
        return shades - {255} if kernel.max() <= 0 else shades

    assert greys(np.zeros((3, 3))) == {128}
    positive, negative = np.zeros((2, 3, 3))
    positive[0], negative[0] = 1.0, -1.0
    assert greys(positive) == {128, 255}
    assert greys(negative) == {0, 128}
