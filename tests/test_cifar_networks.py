"""The narrow networks for 32 x 32 images cost what the papers' structures promise, and learn."""

import pytest
import torch
from torch import nn

from cnncompress.layers import RootModule2d, SICConv2d, SpatialBottleneck2d, TopologicalConv2d
from cnncompress.training.costs import count_macs
from cnncompress.zoo import registry
from cnncompress.zoo.cifar_networks import INPUT_SIZE, NAMES, WIDTHS, network_in_network

SIDES = (16, 8, 4)
STAGES = list(zip(WIDTHS, SIDES, strict=True))


def build(name, classes=None):
    torch.manual_seed(0)
    return registry.build(name, classes)


def macs(name):
    return count_macs(build(name), INPUT_SIZE)


def frame():
    """Stem, 1 x 1s between the stages, 1 x 1 and linear layer behind them."""
    between = 32 * 64 * 64 + 64 * 128 * 16 + 128 * 256 * 16
    return 27 * 32 * 32 * 32 + between + 2560


@pytest.mark.parametrize("name", NAMES)
def test_all_are_registered_and_take_32_x_32(name):
    assert name in registry.names()
    assert registry.entry(name).input_size == INPUT_SIZE
    assert registry.entry(name).preprocess.crop == (32, 32)
    model = build(name, 7).train()  # in evaluation BatchNorm scales nothing yet
    with torch.no_grad():
        output = model(torch.randn(8, *INPUT_SIZE))
    assert output.shape == (8, 7)
    assert 1e-2 < output.std(0).mean() < 1e2  # neither dead nor blown up


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("cifar-plain", lambda n, h: 2 * 9 * n * n * h * h),
        ("cifar-groups", lambda n, h: 4 * 9 * n * n // 4 * h * h),
        ("cifar-sic", lambda n, h: 4 * (9 * n + n * n) * h * h),
        ("cifar-sic-half", lambda n, h: 2 * (9 * n + n * n) * h * h),
        # spec C5: two layers, the second on a grid that the padding enlarges
        ("cifar-spatial-bottleneck", lambda n, h: 4 * (8 * n + n * n) * ((h // 2) ** 2 + (h // 2 + 1) ** 2)),
    ],
)
def test_stages_cost_what_the_formulas_say(name, stage):
    assert macs(name) == frame() + sum(stage(n, h) for n, h in STAGES)


def test_topological_projections_connect_a_quarter():
    model = build("cifar-sic-tps")
    found = [module for module in model.modules() if isinstance(module, TopologicalConv2d)]
    assert len(found) == 24
    for layer, (n, h) in zip(found, [stage for stage in STAGES for _ in range(8)], strict=True):
        assert layer.theoretical_macs(h, h) == n * n // 4 * h * h <= layer.macs(h, h) <= n * n * h * h


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("cifar-sic", SICConv2d, 12),
        ("cifar-sic-half", SICConv2d, 6),
        ("cifar-sic-tps", SICConv2d, 24),
        ("cifar-spatial-bottleneck", SpatialBottleneck2d, 24),
        ("cifar-nin-root-8", RootModule2d, 3),
    ],
)
def test_layers_are_the_papers_with_residual_and_norm(name, kind, count):
    found = [module for module in build(name).modules() if isinstance(module, kind)]
    assert len(found) == count
    assert all(isinstance(layer.norm, nn.BatchNorm2d) for layer in found)
    assert all(layer.residual for layer in found if kind is not RootModule2d)
    if kind is SpatialBottleneck2d:
        assert [layer.window.padding for layer in found[:4]] == [(0, 0), (1, 1)] * 2


def test_network_in_network_at_full_width_costs_as_the_papers():
    for name, groups in (("nin-orig", (1, 1)), ("nin-root-4", (4, 2)), ("nin-root-8", (8, 4))):
        wide = network_in_network(groups, width=1.0)
        assert count_macs(wide, INPUT_SIZE) == count_macs(registry.build(name), INPUT_SIZE)
    assert macs("cifar-nin-orig") > macs("cifar-nin-root-4") > macs("cifar-nin-root-8")


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_gets_a_gradient(name):
    model = build(name).train()
    nn.functional.cross_entropy(model(torch.randn(4, *INPUT_SIZE)), torch.tensor([0, 3, 5, 9])).backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []
    assert all(bool(torch.isfinite(value.grad).all()) for value in model.parameters())
