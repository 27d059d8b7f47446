"""Windows on the channels' grid, their tiles, and the convolution on them."""

from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cnncompress.layers import ChannelOrder, TopologicalConv2d
from cnncompress.solvers.topology import best_tile, neighbourhood, neighbourhood_mask, tile_channels

TOPOLOGIES = [
    ((6,), (2,)),
    ((6,), (6,)),
    ((2, 4), (1, 3)),
    ((4, 4), (2, 2)),
    ((3, 4), (3, 2)),
    ((4, 2, 2), (2, 1, 2)),
    ((4, 2, 3), (3, 2, 2)),
]
PAPERS = [  # table 4 of seed 000
    ((8, 16), (4, 8)),
    ((16, 16), (8, 8)),
    ((16, 32), (8, 16)),
    ((4, 8, 4), (2, 5, 3)),
    ((8, 8, 4), (4, 5, 3)),
    ((8, 8, 8), (4, 5, 6)),
]
every_topology = pytest.mark.parametrize(("grid", "neighbours"), TOPOLOGIES, ids=str)


def tilings(grid):
    return product(*([block for block in range(1, size + 1) if size % block == 0] for size in grid))


@every_topology
def test_mask_is_the_definition(grid, neighbours):
    mask = neighbourhood_mask(grid, neighbours)
    places = list(product(*map(range, grid)))  # row by row
    for (j, output), (i, input_) in product(enumerate(places), enumerate(places)):
        offsets = [(a - b) % size for a, b, size in zip(input_, output, grid, strict=True)]
        assert mask[j, i] == all(offset < window for offset, window in zip(offsets, neighbours, strict=True))


@pytest.mark.parametrize(("grid", "neighbours"), TOPOLOGIES + PAPERS, ids=str)
def test_equal_fan_in_and_fan_out(grid, neighbours):
    mask = neighbourhood_mask(grid, neighbours)
    assert mask.dtype == bool
    assert mask.diagonal().all()
    np.testing.assert_array_equal(mask.sum(0), prod(neighbours))
    np.testing.assert_array_equal(mask.sum(1), prod(neighbours))


@every_topology
def test_neighbours_begin_at_the_own_place_and_are_distinct(grid, neighbours):
    table = neighbourhood(grid, neighbours)
    np.testing.assert_array_equal(table[:, 0], np.arange(prod(grid)))
    assert all(len(set(row)) == prod(neighbours) for row in table.tolist())


@every_topology
def test_tiles_cover_outputs_once_and_hold_all_their_neighbours(grid, neighbours):
    table = neighbourhood(grid, neighbours)
    for tile in tilings(grid):
        tiles = tile_channels(grid, neighbours, tile)
        assert tiles.outputs.shape == (prod(grid) // prod(tile), prod(tile))
        np.testing.assert_array_equal(np.sort(tiles.outputs.ravel()), np.arange(prod(grid)))
        for outputs, inputs in zip(tiles.outputs, tiles.inputs, strict=True):
            # neither twice round the circle nor more than is read
            assert sorted(inputs) == sorted(set(table[outputs].ravel()))
            np.testing.assert_array_equal(inputs[tiles.places[outputs]], table[outputs])


@pytest.mark.parametrize("positions", [1, 9])
@every_topology
def test_the_best_tile_executes_no_more_than_a_dense_convolution(grid, neighbours, positions):
    channels = prod(grid)
    tiles = tile_channels(grid, neighbours, best_tile(grid, neighbours, positions=positions))
    assert channels * prod(neighbours) <= tiles.multiplications <= channels**2


def test_the_best_tile_of_full_windows_is_the_grid():
    for grid in ((7,), (4, 6), (8, 8, 8)):
        assert best_tile(grid, grid) == grid
        assert best_tile(grid, grid, positions=9) == grid


@pytest.mark.parametrize(
    ("number", "of_1x1", "of_3x3"),  # what was measured to be fast, on one core
    [
        (0, (8, 16), (1, 16)),
        (1, (16, 16), (2, 16)),
        (2, (4, 32), (2, 8)),
        (3, (4, 8, 4), (1, 8, 4)),
        (4, (8, 8, 4), (1, 8, 4)),
        (5, (2, 8, 8), (1, 2, 8)),
    ],
)
def test_tiles_of_the_papers_grids(number, of_1x1, of_3x3):
    assert TopologicalConv2d(*PAPERS[number], 1).tile == of_1x1
    assert TopologicalConv2d(*PAPERS[number], 3).tile == of_3x3


@pytest.mark.parametrize(("grid", "neighbours"), PAPERS, ids=str)
def test_the_papers_grids_save_a_third_at_least(grid, neighbours):
    layer = TopologicalConv2d(grid, neighbours, 3, padding=1)
    dense = nn.Conv2d(layer.in_channels, layer.out_channels, 3).weight.numel() * 36
    assert layer.theoretical_macs(6, 6) == dense * prod(neighbours) // prod(grid)
    assert layer.theoretical_macs(6, 6) < layer.macs(6, 6) < 0.67 * dense


@pytest.mark.parametrize(
    "window", [(1,), (3, 1, 1), (3, 2, 0), ((3, 2), 1, "same", 2, False, "circular")], ids=str
)
@every_topology
def test_tiles_grouped_layers_and_reference_agree(grid, neighbours, window):
    x = torch.randn(2, prod(grid), 6, 5).double()
    for tile in tilings(grid):
        layer = TopologicalConv2d(grid, neighbours, *window, tile=tile).double()
        expected = layer.reference(x)
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.grouped()(x), expected, rtol=1e-12, atol=1e-12)


@every_topology
def test_dense_weight_has_the_weights_where_the_mask_is(grid, neighbours):
    layer = TopologicalConv2d(grid, neighbours, 3)
    dense = layer.dense_weight().detach()
    mask = torch.from_numpy(neighbourhood_mask(grid, neighbours))
    assert dense.shape == (prod(grid), prod(grid), 3, 3)
    assert not dense[~mask].any()
    table = torch.from_numpy(neighbourhood(grid, neighbours))
    torch.testing.assert_close(dense[torch.arange(prod(grid))[:, None], table], layer.weight, rtol=0, atol=0)


def test_full_windows_are_any_convolution():
    convolution = nn.Conv2d(12, 12, 3, padding=1).double()
    for tile in (None, (1, 2)):
        layer = TopologicalConv2d((3, 4), (3, 4), 3, padding=1, tile=tile).double()
        order = torch.from_numpy(neighbourhood((3, 4), (3, 4)))
        with torch.no_grad():
            layer.weight.copy_(convolution.weight[torch.arange(12)[:, None], order])
            layer.bias.copy_(convolution.bias)
        x = torch.randn(2, 12, 5, 5).double()
        torch.testing.assert_close(layer(x), convolution(x), rtol=1e-12, atol=1e-12)
        assert layer.macs(5, 5) == layer.theoretical_macs(5, 5)


def test_equation_8():
    layer = TopologicalConv2d((2, 3), (1, 2), 1, bias=False)
    x = torch.randn(1, 6, 1, 1)
    kernel, signal = layer.weight.view(2, 3, 2), x.view(2, 3)
    expected = kernel[..., 0] * signal + kernel[..., 1] * signal.roll(-1, dims=1)
    torch.testing.assert_close(layer(x).view(2, 3), expected)


def test_training_moves_connections_alone():
    torch.manual_seed(0)
    layer = TopologicalConv2d((2, 4), (1, 3), 3, padding=1, tile=(1, 4))
    reference = TopologicalConv2d((2, 4), (1, 3), 3, padding=1, tile=(1, 1))
    reference.load_state_dict(layer.state_dict())
    x, target = torch.randn(4, 8, 5, 5), torch.randn(4, 8, 5, 5)
    for forward, model in ((layer, layer), (reference.reference, reference)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            functional.mse_loss(forward(x), target).backward()
            optimizer.step()
    torch.testing.assert_close(layer.weight, reference.weight)
    outside = ~neighbourhood_mask((2, 4), (1, 3))
    assert not layer.dense_weight()[torch.from_numpy(outside)].any()
    assert sum(parameter.numel() for parameter in layer.parameters()) == 8 * 3 * 9 + 8


def test_grouped_layers_are_torchs_own_and_apart_from_the_layer():
    layer = TopologicalConv2d((4, 4), (2, 2), 3, padding=1, tile=(2, 2))
    before, grouped = layer.weight.detach().clone(), layer.grouped()
    assert [type(part) for part in grouped] == [ChannelOrder, nn.Conv2d, ChannelOrder]
    with torch.no_grad():
        for parameter in grouped.parameters():
            parameter.zero_()
    torch.testing.assert_close(layer.weight.detach(), before, rtol=0, atol=0)
    dense = TopologicalConv2d((4, 4), (4, 4), 3).grouped()
    assert [type(part) for part in dense] == [nn.Conv2d]


def test_states_are_the_same_for_all_tiles():
    layer = TopologicalConv2d((2, 4), (1, 3), 3)
    assert set(layer.state_dict()) == {"weight", "bias"}
    other = TopologicalConv2d((2, 4), (1, 3), 3, tile=(1, 2))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(other(x), layer(x))
