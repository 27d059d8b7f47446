"""The probed kernel does what the chain does."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnncompress.effective_kernel import effective_kernel, filter_arrays, filters_of
from cnncompress.errors import ModelError
from cnncompress.inspect import LayerInfo, inspect_layers


class Selection(nn.Module):
    """A fixed order of channels."""

    order: Tensor

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(order))

    def forward(self, images: Tensor) -> Tensor:
        return images.index_select(1, self.order)


def pointwise_first(spatial: dict[str, Any], kernel: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 3, 1, bias=False), nn.Conv2d(3, 6, kernel, **spatial))


def separable(spatial: dict[str, Any], kernel: tuple[int, int]) -> nn.Sequential:
    def along(axis: int) -> dict[str, Any]:
        def only(pair: tuple[int, int], neutral: int) -> tuple[int, int]:
            return (pair[0], neutral) if axis == 0 else (neutral, pair[1])

        padding = spatial["padding"]
        return spatial | {
            "stride": only(spatial["stride"], 1),
            "dilation": only(spatial["dilation"], 1),
            "padding": padding if isinstance(padding, str) else only(padding, 0),
        }

    return nn.Sequential(
        nn.Conv2d(4, 3, (kernel[0], 1), bias=False, **along(0)), nn.Conv2d(3, 6, (1, kernel[1]), **along(1))
    )


def shuffled(spatial: dict[str, Any], kernel: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 8, 1, groups=2, bias=False),
        nn.Conv2d(8, 12, kernel, groups=4, bias=False, **spatial),
        nn.ChannelShuffle(2),
        nn.Conv2d(12, 6, 1, groups=2),
    )


def selected(spatial: dict[str, Any], kernel: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        Selection([2, 0, 3, 1]),
        nn.Conv2d(4, 4, kernel, groups=4, **spatial),
        nn.Conv2d(4, 6, 1),
        Selection([5, 1, 0, 4, 2, 3]),
    )


SPATIAL: list[dict[str, Any]] = [
    {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)},
    {"stride": (2, 3), "padding": (0, 2), "dilation": (1, 1)},
    {"stride": (1, 1), "padding": (2, 1), "dilation": (2, 1)},
    {"stride": (4, 2), "padding": (2, 2), "dilation": (1, 3)},
    {"stride": (1, 1), "padding": "same", "dilation": (2, 2)},
    {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "padding_mode": "reflect"},
]


def described(spatial: dict[str, Any], kernel: tuple[int, int]) -> LayerInfo:
    torch.manual_seed(1)
    (layer,) = inspect_layers(nn.Sequential(nn.Conv2d(4, 6, kernel, **spatial)), (4, 17, 15))
    return layer


@pytest.mark.parametrize("kernel", [(3, 3), (5, 2)])
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("build", [pointwise_first, separable, shuffled, selected])
def test_convolving_with_the_probed_kernel_is_running_the_chain(
    build: Any, spatial: dict[str, Any], kernel: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    chain = build(spatial, kernel).double()
    probed = effective_kernel(chain, described(spatial, kernel))
    assert probed.shape == (6, 4, *kernel)
    dense = nn.Conv2d(4, 6, kernel, bias=False, **spatial).double()
    images = torch.randn(2, 4, 17, 15, dtype=torch.float64)
    with torch.no_grad():
        dense.weight.copy_(torch.from_numpy(probed))
        # what biases add is constant where no padding follows them; a bias in front of one isn't linear
        for name, parameter in chain.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        torch.testing.assert_close(chain(images), dense(images), rtol=1e-10, atol=1e-12)


def test_a_single_layer_is_its_own_kernel_whatever_its_bias() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    probed = effective_kernel(conv, described({"stride": (2, 2), "padding": (1, 1)}, (3, 3)))
    np.testing.assert_allclose(probed, conv.weight.detach().numpy(), rtol=1e-6, atol=1e-7)


def test_linear_layers_are_1_x_1_kernels() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Linear(5, 2, bias=False), nn.Linear(2, 3))
    (layer,) = inspect_layers(nn.Sequential(nn.Linear(5, 3)), (1, 1, 5))
    probed = effective_kernel(chain, layer)
    first, second = chain[0].weight, chain[1].weight
    torch.testing.assert_close(torch.from_numpy(probed[:, :, 0, 0]).float(), (second @ first).detach())


def test_the_replacement_is_left_as_it_was() -> None:
    chain = pointwise_first({"padding": (1, 1), "padding_mode": "circular"}, (3, 3)).train()
    effective_kernel(chain, described({"padding": (1, 1), "padding_mode": "circular"}, (3, 3)))
    assert chain[1].padding == (1, 1)
    assert chain[1].padding_mode == "circular"
    assert chain[0].weight.dtype == torch.float32
    assert chain.training


@pytest.mark.parametrize(
    "wrong",
    [
        nn.Conv2d(4, 6, 5),
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 5, 3),
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(4, 6, 3, dilation=2),
    ],
)
def test_what_has_another_patch_is_refused(wrong: nn.Module) -> None:
    with pytest.raises(ModelError, match="0: the replacement doesn't map the layer's 4 x 3 x 3 patch to 6"):
        effective_kernel(wrong, described({}, (3, 3)))


def first_layer(channels: int = 3, outputs: int = 6, kernel: int = 5) -> tuple[nn.Conv2d, LayerInfo]:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, outputs, kernel, stride=2)
    (layer,) = inspect_layers(nn.Sequential(conv), (channels, 16, 16))
    return conv, layer


def test_filters_survive_the_report() -> None:
    conv, layer = first_layer()
    replaced = nn.Conv2d(3, 6, 5, stride=2)
    filters = filters_of(conv.weight, replaced, layer)
    assert filters is not None
    assert filters["layer"] == "0"
    before, after = filter_arrays(filters)
    np.testing.assert_allclose(before, conv.weight.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(after, replaced.weight.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5, 0.0])
def test_four_digits_are_kept_at_every_scale(scale: float) -> None:
    conv, layer = first_layer()
    filters = filters_of(scale * conv.weight, conv, layer)
    assert filters is not None
    expected = (scale * conv.weight).detach().numpy()
    np.testing.assert_allclose(filter_arrays(filters)[0], expected, atol=1.1e-3 * np.abs(expected).max())


def test_permuted_outputs_are_shown_beside_their_originals() -> None:
    conv, layer = first_layer()
    order = [3, 0, 5, 1, 2, 4]
    permuted = nn.Sequential(conv, Selection(order))
    filters = filters_of(conv.weight, permuted, layer, order=order)
    assert filters is not None
    assert filters["after"] == filters["before"]


def test_layers_without_a_picture_have_no_filters() -> None:
    for channels, outputs, kernel in ((4, 6, 5), (3, 120, 11)):
        conv, layer = first_layer(channels, outputs, kernel)
        assert (channels, kernel) == (4, 5) or conv.weight.numel() > 40_000
        assert filters_of(conv.weight, conv, layer) is None
    conv, layer = first_layer()
    assert filters_of(conv.weight * float("nan"), conv, layer) is None
    (linear,) = inspect_layers(nn.Sequential(nn.Linear(3, 4)), (1, 1, 3))
    assert filters_of(torch.ones(4, 3, 1, 1), nn.Linear(3, 4), linear) is None
