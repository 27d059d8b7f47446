"""A ChannelOrder is x[:, order], whatever the memory format, and one gather in exported files."""

from copy import deepcopy

import onnx
import pytest
import torch
from torch import fx, nn

from cnncompress.export import write_onnx
from cnncompress.layers import ChannelOrder
from cnncompress.layers.channel_order import BLOCK
from cnncompress.prefix import Prefix


def shuffled(channels: int, dim: int = 1) -> ChannelOrder:
    layer = ChannelOrder(channels, dim)
    layer.order = torch.randperm(channels)
    return layer


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 8, 1, 1), (3, 8, 1, 5), (2, 8, 7, 6), (1, 8, 100, 60)])
def test_equals_indexing_and_keeps_the_memory_format(size, memory_format):
    layer, x = shuffled(8), torch.randn(size).contiguous(memory_format=memory_format)
    y = layer(x)
    torch.testing.assert_close(y, x[:, layer.order], rtol=0, atol=0)
    assert y.is_contiguous(memory_format=memory_format)


def test_several_blocks_are_tried_above():
    assert BLOCK < 8 * 100 * 60


def test_no_images_are_reordered_to_none():
    assert shuffled(8)(torch.randn(0, 8, 4, 4)).shape == (0, 8, 4, 4)


def test_starts_as_identity_and_travels_in_the_state():
    x, layer = torch.randn(2, 5, 3, 3), shuffled(5)
    torch.testing.assert_close(ChannelOrder(5)(x), x, rtol=0, atol=0)
    loaded = ChannelOrder(5)
    loaded.load_state_dict(layer.state_dict())
    torch.testing.assert_close(loaded(x), layer(x), rtol=0, atol=0)
    assert repr(layer) == "ChannelOrder(5, dim=1)"


def test_the_last_axis_of_linear_inputs():
    layer, x = shuffled(5, dim=-1), torch.randn(2, 3, 5)
    torch.testing.assert_close(layer(x), x[..., layer.order], rtol=0, atol=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_flow_back_in_the_old_order(memory_format):
    layer = shuffled(8)
    x = torch.randn(2, 8, 90, 90).contiguous(memory_format=memory_format).requires_grad_()
    factors = torch.randn(2, 8, 90, 90)
    (layer(x) * factors).sum().backward()
    torch.testing.assert_close(x.grad, factors[:, layer.order.argsort()], rtol=0, atol=0)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), shuffled(8), nn.Conv2d(8, 6, 1, groups=2), nn.ChannelShuffle(2), nn.ReLU(),
        nn.Conv2d(6, 6, 1, groups=3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4), shuffled(4, -1),
    )  # fmt: skip
    return layers.eval()


def test_traced_graphs_run_also_as_copies(tensor_source):
    model, images = network(), torch.randn(4, 3, 9, 9)
    with torch.no_grad():
        for traced in (fx.symbolic_trace(model), deepcopy(fx.symbolic_trace(deepcopy(model)))):
            torch.testing.assert_close(traced(images), model(images), rtol=0, atol=0)
        prefix = Prefix(deepcopy(model), tensor_source(images), batch_size=4, memory=10**9)
        for name in ("2", "8"):
            ((_, values),) = prefix.inputs_of(name)
            torch.testing.assert_close(values, model[: int(name)](images))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_exports_as_one_gather_each_for_any_batch(tmp_path, memory_format):
    path = tmp_path / "model.onnx"
    write_onnx(network().to(memory_format=memory_format), (3, 9, 9), path)  # compares batches 1, 2 and 3
    gathers = [node for node in onnx.load(path).graph.node if node.op_type == "Gather"]
    axes = [attribute.i for node in gathers for attribute in node.attribute]
    assert sorted(axis for axis in axes if axis != 0) == [-1, 1]  # those of axis 0 pick sizes
