"""Splits whose first factor projects what a layer reads, and whose rest is solved on the responses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from cnncompress.decompositions import Decomposition, fallback_of, make
from cnncompress.decompositions.projections import projected, projection_split
from cnncompress.errors import OptionError
from cnncompress.factorize import load_
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses

Floats = NDArray[np.float64]
KINDS = ("vertical", "pointwise")
KERNEL = (3, 5)
FULL = {"vertical": 12, "pointwise": 4}
INPUTS, OUTPUTS, IMAGE = 8, 12, (13, 11)


@pytest.fixture
def weight(rng: np.random.Generator) -> Floats:
    return rng.standard_normal((6, 4, *KERNEL))


@pytest.fixture
def patches(rng: np.random.Generator) -> Floats:
    return _mixing(rng, 4 * 15) @ rng.standard_normal((4 * 15, 300))


def _mixing(rng: np.random.Generator, size: int) -> Floats:
    """Scales inputs very differently and correlates them."""
    return rng.standard_normal((size, size)) * np.geomspace(1, 0.05, size)


@pytest.fixture
def layer() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(INPUTS, OUTPUTS, 3, padding=1).double()


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth images with channels of unequal energy, as features are."""
    torch.manual_seed(1)
    mixing = torch.from_numpy(_mixing(np.random.default_rng(2), INPUTS))
    noise = torch.randn(48, INPUTS, IMAGE[0] + 2, IMAGE[1] + 2, dtype=torch.float64)
    smooth = nn.functional.avg_pool2d(noise, 3, stride=1)
    return torch.relu(torch.einsum("oi,nihw->nohw", mixing, smooth))


@pytest.fixture
def info(layer: nn.Conv2d, describe: Callable[..., LayerInfo]) -> LayerInfo:
    described = describe(layer.float(), (INPUTS, *IMAGE))
    layer.double()
    return described


@pytest.fixture
def responses(
    info: LayerInfo, layer: nn.Conv2d, images: torch.Tensor, observe: Callable[..., Responses]
) -> Responses:
    return observe(info, layer, images)


def fitted(
    method: Decomposition, info: LayerInfo, layer: nn.Conv2d, responses: Responses | None, *ranks: int
) -> nn.Sequential:
    assert layer.bias is not None
    given = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    module = method.build(info, ranks)
    load_(module, method.fit(info, *given, responses, ranks), like=layer.weight)
    return module


def unseen_error(module: nn.Module, layer: nn.Conv2d, images: torch.Tensor) -> float:
    """After the rectifier, on the quarter of the images that no fit has read."""
    with torch.no_grad():
        unseen = images[len(images) * 3 // 4 :]
        target, got = (torch.relu(part(unseen)) for part in (layer, module))
    return float(((target - got) ** 2).sum() / (target**2).sum())


@pytest.mark.parametrize("kind", KINDS)
class TestProjection:
    def test_leading_filters_are_those_of_smaller_ranks(
        self, kind: Any, weight: Floats, patches: Floats
    ) -> None:
        greatest = projection_split(kind, weight, patches, FULL[kind])
        for rank in range(1, FULL[kind]):
            filters, rest = projection_split(kind, weight, patches, rank)
            np.testing.assert_allclose(filters, greatest[0][:rank], atol=1e-12)
            np.testing.assert_allclose(rest, greatest[1][:, :rank], atol=1e-12)

    def test_leading_rows_are_outputs_of_leading_filters(
        self, kind: Any, weight: Floats, patches: Floats
    ) -> None:
        filters = projection_split(kind, weight, patches, FULL[kind])[0]
        everything = projected(kind, filters, patches, KERNEL)
        few = projected(kind, filters[:2], patches, KERNEL)
        np.testing.assert_allclose(few, everything[: few.shape[0]], atol=1e-12)

    def test_rest_of_the_weight_restores_it_at_full_rank(
        self, kind: Any, weight: Floats, patches: Floats
    ) -> None:
        filters, rest = projection_split(kind, weight, patches, FULL[kind])
        given = rest.reshape(6, -1) @ projected(kind, filters, patches, KERNEL)
        np.testing.assert_allclose(given, weight.reshape(6, -1) @ patches, atol=1e-9)

    def test_projected_rows_are_what_convolutions_give(
        self, kind: Any, weight: Floats, rng: np.random.Generator
    ) -> None:
        image = torch.from_numpy(rng.standard_normal((1, 4, 7, 9)))
        unfold = nn.Unfold(KERNEL)
        filters, rest = projection_split(kind, weight, unfold(image)[0].numpy(), 3)
        rows = projected(kind, filters, unfold(image)[0].numpy(), KERNEL)
        with torch.no_grad():
            first = nn.functional.conv2d(image, torch.from_numpy(filters))
            both = nn.functional.conv2d(first, torch.from_numpy(rest.copy()))
        np.testing.assert_allclose(rest.reshape(6, -1) @ rows, both.flatten(2)[0].numpy(), atol=1e-10)

    def test_dead_inputs_and_few_samples_leave_it_exact(
        self, kind: Any, weight: Floats, patches: Floats
    ) -> None:
        seen = patches[:, :2].copy()
        seen[:15] = 0  # the first channel
        filters, rest = projection_split(kind, weight, seen, FULL[kind])
        assert np.isfinite(filters).all()
        assert np.isfinite(rest).all()
        if kind == "pointwise":
            given = np.einsum("orhw,rc->ochw", rest, filters[:, :, 0, 0])
            np.testing.assert_allclose(given, weight, atol=1e-9)


def test_without_a_projection_patches_are_read_themselves(weight: Floats, patches: Floats) -> None:
    filters, rest = projection_split("none", weight, patches, 4)
    assert projected("none", filters, patches, KERNEL) is patches
    assert rest is weight
    np.testing.assert_array_equal(filters[:, :, 0, 0], np.eye(4))


@pytest.mark.parametrize(
    ("name", "twin", "ranks"),
    [("gspatial", "spatial", (8,)), ("gsvd-in", "svd-in", (3,)), ("gspatial", "spatial", (14,))],
)
def test_responses_beat_the_weight_alone_on_unseen_images(
    name: str,
    twin: str,
    ranks: tuple[int, ...],
    info: LayerInfo,
    layer: nn.Conv2d,
    responses: Responses,
    images: torch.Tensor,
) -> None:
    ours, theirs = (fitted(make(method), info, layer, responses, *ranks) for method in (name, twin))
    assert unseen_error(ours, layer, images) < unseen_error(theirs, layer, images)


@pytest.mark.parametrize("start", ["moment", "tensorly"])
def test_tucker_behind_responses_beats_that_of_the_weight(
    start: str, info: LayerInfo, layer: nn.Conv2d, responses: Responses, images: torch.Tensor
) -> None:
    ours = fitted(make("gtucker", {"start": start}), info, layer, responses, 4, 6)
    theirs = fitted(make("biclustering-svd", {"G": 1, "H": 1, "sweeps": 5}), info, layer, None, 4, 6)
    assert unseen_error(ours, layer, images) < unseen_error(theirs, layer, images)


@pytest.mark.parametrize("rank", [3, 6, 9])
def test_tucker_that_reads_every_channel_is_the_channel_split(
    rank: int, info: LayerInfo, layer: nn.Conv2d, responses: Responses, images: torch.Tensor
) -> None:
    tucker = fitted(make("gtucker"), info, layer, responses, INPUTS, rank)
    split = fitted(make("gsvd"), info, layer, responses, rank)
    errors = [unseen_error(module, layer, images) for module in (tucker, split)]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)


def test_tucker_that_writes_every_channel_is_the_mirrored_split(
    info: LayerInfo, layer: nn.Conv2d, responses: Responses, images: torch.Tensor
) -> None:
    tucker = fitted(make("gtucker"), info, layer, responses, 3, OUTPUTS)
    split = fitted(make("gsvd-in"), info, layer, responses, 3)
    with torch.no_grad():
        torch.testing.assert_close(tucker(images), split(images))


def test_spatial_split_in_three_with_every_channel_is_the_one_in_two(
    info: LayerInfo, layer: nn.Conv2d, responses: Responses, images: torch.Tensor
) -> None:
    three = fitted(make("gsvd3d"), info, layer, responses, 9, OUTPUTS)
    two = fitted(make("gspatial"), info, layer, responses, 9)
    with torch.no_grad():
        torch.testing.assert_close(three(images), two(images))


@pytest.mark.parametrize("name", ["gspatial", "gsvd-in", "gtucker"])
def test_a_disturbed_prefix_is_made_up_for(
    name: str,
    info: LayerInfo,
    layer: nn.Conv2d,
    images: torch.Tensor,
    observe: Callable[..., Responses],
) -> None:
    disturbed = 0.6 * images
    seen = observe(info, layer, images, disturbed)
    half = tuple(-(-rank // 2) for rank in make(name).full_ranks(info))
    errors = []
    for symmetric in (False, True):
        module = fitted(make(name, {"symmetric": symmetric}), info, layer, seen, *half)
        with torch.no_grad():
            target, got = torch.relu(layer(images)), torch.relu(module(disturbed))
        errors.append(float(((target - got) ** 2).sum()))
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("name", ["gspatial", "gsvd-in", "gtucker"])
def test_layers_that_gain_nothing_are_left_to_the_channel_split(
    name: str, describe: Callable[..., LayerInfo]
) -> None:
    method = make(name, {"nonlinear": False})
    assert fallback_of(method) == make("gsvd", {"nonlinear": False})
    assert "1 x 1" in method.obstacle(describe(nn.Conv2d(8, 8, 1), (8, 9, 9)))
    assert "3 input channels" in method.obstacle(describe(nn.Conv2d(3, 8, 3), (3, 9, 9)))
    assert method.obstacle(describe(nn.Linear(8, 8), (4, 8)))
    assert method.obstacle(describe(nn.Conv2d(8, 8, 3), (8, 9, 9))) == ""


def test_tucker_ranks_that_another_forbids_are_not_listed(describe: Callable[..., LayerInfo]) -> None:
    info = describe(nn.Conv2d(4, 20, 3), (4, 9, 9))
    method = make("gtucker")
    assert method.unfit(info, (1, 9)) == ""
    assert "exceeds the 9" in method.unfit(info, (1, 10))
    assert (1, 10) not in method.settings(info, 1)
    assert (2, 10) in method.settings(info, 1)


def test_tucker_lists_a_bounded_number_of_pairs(describe: Callable[..., LayerInfo]) -> None:
    info = describe(nn.Conv2d(300, 500, 3), (300, 9, 9))
    settings = make("gtucker").settings(info, 1)
    assert (300, 500) in settings
    assert len(settings) <= 64 * 64


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(OptionError, match="moment or tensorly, got 'random'"):
        make("gtucker", {"start": "random"})
