"""Sampled responses and patches belong together, and moments cover every position."""

import numpy as np
import pytest
import torch
from torch import nn

from cnncompress.collector import Collector
from cnncompress.errors import NumericsError
from cnncompress.inspect import inspect_layers
from cnncompress.sampling import Blocks, Sampler, enough_positions

CONVOLUTIONS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 5, "stride": 2, "padding": 2},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "oblong": {"kernel_size": (3, 5), "stride": (1, 3), "padding": (0, 2)},
    "same": {"kernel_size": 4, "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 5, "padding": 2, "padding_mode": "replicate"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch's, on speed
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_weight_times_patch_is_the_response(case, describe):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 6, **CONVOLUTIONS[case]).double()
    images = torch.randn(4, 3, 11, 13, dtype=torch.float64)
    sampler = Sampler(describe(layer, (3, 11, 13)), 9, seed=3)
    with torch.no_grad():
        outputs = sampler.outputs(layer(images), [5, 0, 7, 2])
        patches = sampler.patches(images, [5, 0, 7, 2])
        expected = layer.weight.flatten(1) @ patches + layer.bias[:, None]
    torch.testing.assert_close(outputs, expected)


def test_linear_layers_are_sampled_too(describe):
    layer = nn.Linear(5, 7)
    rows = torch.randn(3, 6, 5)
    info = describe(layer, (6, 5, 5))
    sampler = Sampler(info, 4, seed=0)
    with torch.no_grad():
        rows = torch.randn(3, 6, 5, 5)
        expected = layer.weight @ sampler.patches(rows, range(3)) + layer.bias[:, None]
        torch.testing.assert_close(sampler.outputs(layer(rows), range(3)), expected)


def test_positions_depend_on_the_image_alone(describe):
    info = describe(nn.Conv2d(3, 4, 3), (3, 12, 12))
    sampler = Sampler(info, 7, seed=1)
    together = sampler.positions([4, 9, 2])
    np.testing.assert_array_equal(together[1], sampler.positions([9])[0])
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(together, Sampler(info, 7, seed=2).positions([4, 9, 2]))
    assert all(len(set(row)) == 7 for row in together)


def test_few_cells_are_all_taken(describe):
    sampler = Sampler(describe(nn.Conv2d(3, 4, 3), (3, 4, 4)), 50, seed=1)
    np.testing.assert_array_equal(sampler.positions([0]), [[0, 1, 2, 3]])


def collect(model, images, batch_size):
    layers = inspect_layers(model, tuple(images.shape[1:]))
    collector = Collector(layers, positions=lambda layer: 5, seed=0)
    with torch.no_grad(), collector.watching(model) as begin:
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            begin(range(first, first + len(part)))
            model(part)
    return collector


def test_collector_sees_responses_before_an_inplace_rectifier():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 4, 3))
    images = torch.randn(6, 3, 9, 9)
    collector = collect(model, images, 4)
    with torch.no_grad():
        first = model[0](images).permute(1, 0, 2, 3).flatten(1).double().numpy()
    np.testing.assert_allclose(collector.moments("0").mean, first.mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        collector.moments("0").covariance, np.cov(first, bias=True), rtol=1e-4, atol=1e-5
    )
    assert float(collector.take_samples("0").min()) < 0
    assert not any(module._forward_hooks for module in model)


def test_collector_does_not_depend_on_the_batch_size():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    images = torch.randn(7, 3, 9, 9)
    one, two = collect(model, images, 7), collect(model, images, 2)
    torch.testing.assert_close(one.take_samples("0"), two.take_samples("0"))
    torch.testing.assert_close(one.moments("0").outer, two.moments("0").outer, rtol=1e-5, atol=1e-4)


def test_nan_names_the_layer():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3))
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0] = float("nan")
    collector = collect(model, torch.randn(2, 3, 9, 9), 2)
    assert torch.isfinite(collector.moments("0").outer).all()
    with pytest.raises(NumericsError, match=r"^1: .*NaN"):
        collector.moments("1")


def test_enough_positions_grow_with_the_channels(describe):
    narrow, wide = describe(nn.Conv2d(3, 8, 3), (3, 9, 9)), describe(nn.Conv2d(3, 512, 3), (3, 9, 9))
    assert enough_positions(narrow, images=240) == 10
    assert enough_positions(wide, images=240) == 64
    assert enough_positions(wide, images=5) == 100


@pytest.mark.parametrize(
    "settings",
    [{"padding": 1}, {"padding": 2, "dilation": 2}, {"padding": (2, 1), "dilation": (2, 1)}, {"padding": 0}],
)
def test_patches_with_a_margin_hold_what_a_larger_kernel_reads(describe, settings):
    layer = nn.Conv2d(2, 3, 3, **settings)
    images = torch.randn(2, 2, 9, 8)
    sampler = Sampler(describe(layer, (2, 9, 8)), 12, seed=0)
    side, dilation = 5, layer.dilation
    larger = nn.Conv2d(
        2,
        3,
        side,
        padding=tuple(p + d for p, d in zip(layer.padding, dilation, strict=True)),
        dilation=dilation,
    )
    with torch.no_grad():
        expected = larger(images).flatten(2)
    positions = torch.from_numpy(sampler.positions([0, 1]))
    patches = sampler.patches(images, [0, 1], margin=1)
    got = larger.weight.detach().flatten(1) @ patches + larger.bias.detach()[:, None]
    wanted = torch.cat([expected[i][:, positions[i]] for i in range(2)], dim=1)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    ones = sampler.patches(torch.ones_like(images), [0, 1], margin=1)
    assert torch.equal(ones.view(2, side * side, -1)[0] > 0, sampler.inside([0, 1], margin=1))


@pytest.mark.parametrize(
    ("side", "shift", "size"), [(2, 0, (8, 6)), (2, 1, (8, 7)), (3, 1, (9, 9)), (3, 2, (7, 8))]
)
def test_blocks_are_whole_squares_of_the_shifted_grid(describe, side, shift, size):
    info = describe(nn.Conv2d(2, 3, 3, padding=1), (2, *size))
    found = Sampler(info, 4 * side**2, 0, Blocks(side, shift)).positions([0, 1, 2]).reshape(3, -1, side, side)
    rows, columns = found // size[1], found % size[1]
    assert (np.diff(rows, axis=2) == 1).all()
    assert (np.diff(columns, axis=3) == 1).all()
    assert ((rows[..., 0, 0] + shift) % side == 0).all()
    assert ((columns[..., 0, 0] + shift) % side == 0).all()
    assert rows.max() < size[0]
