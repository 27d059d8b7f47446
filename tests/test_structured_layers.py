"""The papers' layers are what their equations say, cost what they state, and travel like torch's own."""

from collections.abc import Callable
from copy import deepcopy
from itertools import chain

import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cnncompress.errors import OptionError
from cnncompress.export import write_onnx
from cnncompress.layers import (
    RootModule2d,
    SICBottleneck2d,
    SICConv2d,
    SpatialBottleneck2d,
    TopologicalConv2d,
    UnraveledConv2d,
    layer_macs,
)

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "unraveled": lambda: UnraveledConv2d(4, 6, 3, 2, 1, bases=2),
    "sic": lambda: SICConv2d(4, 4),
    "sic-norm": lambda: SICConv2d(4, 6, 5, bias=False, norm=True),
    "sic-topological": lambda: SICConv2d(4, 4, pointwise=TopologicalConv2d((2, 2), (1, 2), 1)),
    "sic-bottleneck": lambda: SICBottleneck2d(4, norm=True),
    "topological": lambda: TopologicalConv2d((2, 4), (1, 2), 3, 1, 1),
    "topological-tiled": lambda: TopologicalConv2d((2, 4), (2, 2), 3, 1, 1, tile=(2, 1)),
    "spatial-bottleneck": lambda: SpatialBottleneck2d(4, 4),
    "spatial-bottleneck-padded": lambda: SpatialBottleneck2d(4, 6, 3, 1, norm=True),
    "root": lambda: RootModule2d(4, 6, 3, groups=2),
    "root-norm": lambda: RootModule2d(4, 4, 3, 1, 1, groups=2, hidden=8, norm=True, activation=True),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    with torch.no_grad():
        for module in layer.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics that change something
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return layer.eval()


def images(layer: nn.Module, batch: int = 2, size: tuple[int, int] = (7, 6)) -> Tensor:
    return torch.randn(batch, getattr(layer, "in_channels", None) or layer.channels, *size)


CONVOLUTIONS: dict[str, Callable[..., nn.Module]] = {
    "unraveled": lambda *window: UnraveledConv2d(4, 4, *window, bases=3),
    "sic": lambda *window: SICConv2d(4, 4, *window),
    "topological": lambda *window: TopologicalConv2d((2, 2), (1, 2), *window),
    "root": lambda *window: RootModule2d(4, 4, *window[:4], 2, *window[4:]),
}
WINDOWS = [
    (3, 1, 1, 1, True, "zeros"),
    (3, 2, 0, 1, False, "zeros"),
    ((3, 5), (2, 1), (1, 2), (2, 1), True, "zeros"),
    (3, 1, "same", 2, True, "reflect"),
    ((2, 4), 1, "same", 2, False, "zeros"),
    ((1, 2), 1, "same", 2, False, "circular"),
    (3, 1, "valid", 1, True, "replicate"),
    (3, 3, (0, 1), 1, True, "circular"),
    (1, 1, 0, 1, True, "zeros"),
]


@pytest.mark.parametrize("size", [(7, 7), (8, 9), (13, 6)])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_sizes_are_those_of_torch_and_macs_those_of_its_counter(name, window, size):
    layer, convolution = CONVOLUTIONS[name](*window), nn.Conv2d(4, 4, *window[:4], 1, *window[4:])
    x = torch.randn(2, 4, *size)
    assert layer(x).shape == convolution(x).shape
    for module in (layer, convolution):
        assert layer_macs(module, *size) == counted(module, x)


@pytest.mark.parametrize("size", [(7, 6), (8, 8), (5, 9), (4, 4)])
@every_layer
def test_macs_are_those_of_the_flop_counter(name, size):
    layer = build(name)
    assert layer.macs(*size) == counted(layer, images(layer, size=size))


def counted(layer: nn.Module, x: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        layer(x)
    return counter.get_total_flops() / 2 / len(x)


def test_other_layers_are_not_counted_as_nothing():
    with pytest.raises(OptionError, match=r"Linear: needs a method macs"):
        layer_macs(nn.Linear(3, 3), 1, 1)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 5), (2, 3), (2, 2)])
@pytest.mark.parametrize("kernel", [2, (2, 3), 3])
def test_spatial_bottleneck_keeps_any_size(kernel, size, padding):
    layer = SpatialBottleneck2d(3, 5, kernel, padding)
    rows, columns = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    if size[0] + 2 * padding < rows or size[1] + 2 * padding < columns:
        with pytest.raises(OptionError, match="too small for a kernel"):
            layer.macs(*size)
        return
    x = torch.randn(2, 3, *size)
    assert layer(x).shape == (2, 5, *size)
    assert layer.macs(*size) == counted(layer, x)


@pytest.mark.parametrize("training", [False, True])
@every_layer
def test_gradients(name, training):
    layer = build(name).double().train(training)
    names, values = zip(*layer.named_parameters(), strict=True)
    x = images(layer, size=(4, 5)).double().requires_grad_()

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert gradcheck(forward, (x, *values), fast_mode=True)


@every_layer
def test_exported_programs_take_any_batch(name):
    layer = build(name)
    x = images(layer, batch=5)
    program = torch.export.export(layer, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x), layer(x))


class AllAtOnce(nn.Module):
    """Every layer on the first channels of one image: a single export, which takes as long as one layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(build(name) for name in LAYERS)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x[:, : images(layer).shape[1]]) for layer in self.layers)


@pytest.mark.slow
def test_onnx_gives_the_same(tmp_path):
    network, path = AllAtOnce().eval(), tmp_path / "layers.onnx"
    x = torch.randn(3, 8, 7, 6)
    write_onnx(network, x.shape[1:], path)
    outputs = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    for name, output, expected in zip(LAYERS, outputs, network(x), strict=True):
        torch.testing.assert_close(
            torch.from_numpy(output),
            expected.detach(),
            rtol=1e-5,
            atol=1e-5,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("size", [(7, 6), (1, 9), (16, 16)])
@every_layer
def test_channels_last_is_kept(name, size):
    layer = build(name)
    if size[0] == 1 and name.startswith(("root", "spatial")):
        size = (3, 9)  # less would leave nothing of the image
    x = images(layer, size=size).to(memory_format=torch.channels_last)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x.contiguous()))
    torch.testing.assert_close(deepcopy(layer).to(memory_format=torch.channels_last)(x), y)


@every_layer
def test_traced_graphs_give_the_same_for_other_sizes(name):
    layer = build(name)
    traced = fx.symbolic_trace(layer)
    for size in ((7, 6), (6, 7)):
        x = images(layer, size=size)
        torch.testing.assert_close(traced(x), layer(x), rtol=0, atol=0)


@every_layer
def test_copies_and_states_give_the_same(name):
    layer, other = build(name), LAYERS[name]().eval()
    x = images(layer)
    for tensor in chain(other.parameters(), other.buffers()):
        assert tensor.data_ptr() not in {own.data_ptr() for own in layer.state_dict().values()}
    torch.testing.assert_close(deepcopy(layer)(x), layer(x), rtol=0, atol=0)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)


@every_layer
def test_an_empty_meta_layer_takes_a_state(name):
    layer = build(name)
    with torch.device("meta"):
        other = LAYERS[name]().eval()
    x = images(layer)
    assert other(x.to("meta")).shape == layer(x).shape
    other = other.to_empty(device="cpu")
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)


K3 = "kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)"


@pytest.mark.parametrize(
    ("layer", "printed"),
    [
        (UnraveledConv2d(4, 6, 3, padding=1, bases=2), f"4, 6, {K3}, bias=True, bases=2"),
        (SICConv2d(4, 6, norm=True, bias=False), f"4, 6, {K3}, bias=False, residual=False"),
        (
            SICBottleneck2d(4, 5, dilation=2),
            "4, kernel_size=(5, 5), stride=(1, 1), padding=(4, 4), dilation=(2, 2), bias=True, hidden=2, "
            "residual=True",
        ),
        (
            TopologicalConv2d((2, 4), (1, 2), 1, tile=(1, 2)),
            "(2, 4), (1, 2), kernel_size=(1, 1), stride=(1, 1), bias=True, tile=(1, 2)",
        ),
        (
            SpatialBottleneck2d(4, 4, padding=1),
            "4, 4, kernel_size=(2, 2), padding=(1, 1), bias=True, residual=True",
        ),
        (
            RootModule2d(4, 6, 3, padding=1, groups=2, padding_mode="reflect"),
            f"4, 6, {K3}, padding_mode='reflect', groups=2, bias=True, hidden=6",
        ),
    ],
)
def test_prints_its_arguments(layer, printed):
    assert layer.extra_repr() == printed
    assert f"{type(layer).__name__}(" in repr(layer)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: UnraveledConv2d(0, 4, 3), "in_channels must be .* at least 1, got 0"),
        (lambda: UnraveledConv2d(4, 4, 3, bases=0), "bases must be a whole number of at least 1, got 0"),
        (lambda: UnraveledConv2d(4, 4, (3, 0)), r"kernel_size .* at least 1, or two .*, got \(3, 0\)"),
        (lambda: UnraveledConv2d(4, 4, 3, padding=-1), "padding must be .* at least 0, .* got -1"),
        (lambda: UnraveledConv2d(4, 4, 3, padding="full"), "must be a number, 'same' or 'valid'"),
        (lambda: SICConv2d(4, 4, padding_mode="mirror"), "one of zeros, reflect, replicate, circular"),
        (lambda: SICConv2d(4, 4, stride=2), "padding='same' needs stride 1, got 2; give a number"),
        (lambda: SICConv2d(4, 6, residual=True), "needs .* equal channels.* got 4 to 6 channels"),
        (lambda: SICConv2d(4, 4, padding=0, residual=True), "another size"),
        (lambda: SICConv2d(4, 6, pointwise=nn.Conv2d(4, 5, 1)), "must map 4 to 6 channels, got 4 to 5"),
        (lambda: SICBottleneck2d(5), "hidden must be given for an odd number of channels, got 5"),
        (lambda: SICBottleneck2d(4, hidden=0), "hidden must be a whole number of at least 1, got 0"),
        (lambda: SpatialBottleneck2d(4, 4, 2, 2), r"less than kernel_size \(2, 2\), got \(2, 2\)"),
        (lambda: SpatialBottleneck2d(4, 6, residual=True), "got 4 to 6 channels$"),
        (lambda: RootModule2d(12, 8, 3, groups=3), "divide .* 12 and hidden 8, got 3; valid: 1, 2, 4"),
        (lambda: TopologicalConv2d((2, 4), (2,), 3), "must have equally many axes, at least one"),
        (lambda: TopologicalConv2d((), (), 3), "must have equally many axes, at least one"),
        (lambda: TopologicalConv2d((2, 4), (3, 1), 3), r"\(3, 1\) must be from 1 to .* \(2, 4\)"),
        (lambda: TopologicalConv2d((2, 4), (1, 0), 3), "must be from 1 to"),
        (lambda: TopologicalConv2d((2, 4), (1, 2), 3, tile=(2, 3)), r"\(2, 3\) must divide the grid"),
    ],
)  # fmt: skip
def test_refuses_with_what_is_valid(make, says):
    with pytest.raises(OptionError, match=says):
        make()


@pytest.mark.parametrize("bases", [1, 2, 9])
def test_unraveled_is_the_sum_over_bases(bases):
    layer = UnraveledConv2d(3, 5, 3, 2, 1, bases=bases).double()
    filters = layer.depthwise.weight.view(3, bases, 3, 3)
    projection = layer.pointwise.weight.view(5, 3, bases)
    kernel = torch.einsum("ituv,jit->jiuv", filters, projection)  # equation 3
    x = torch.randn(2, 3, 7, 6).double()
    expected = functional.conv2d(x, kernel, layer.pointwise.bias, 2, 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_unraveled_by_all_positions_is_any_convolution():
    convolution = nn.Conv2d(3, 5, 3, 2, 1).double()
    layer = UnraveledConv2d(3, 5, 3, 2, 1, bases=9).double()
    with torch.no_grad():
        layer.depthwise.weight.copy_(torch.eye(9).view(9, 1, 3, 3).repeat(3, 1, 1, 1))
        layer.pointwise.weight.copy_(convolution.weight.view(5, 27, 1, 1))
        layer.pointwise.bias.copy_(convolution.bias)
    x = torch.randn(2, 3, 7, 6).double()
    torch.testing.assert_close(layer(x), convolution(x), rtol=1e-12, atol=1e-12)


def test_sic_adds_its_input_and_rectifies():
    layer = build("sic")
    x = images(layer)
    inner = layer.pointwise(layer.depthwise(x))
    torch.testing.assert_close(layer(x), functional.relu(x + inner), rtol=0, atol=0)
    layer.residual = False
    torch.testing.assert_close(layer(x), functional.relu(inner), rtol=0, atol=0)
    plain = SICConv2d(4, 4, activation=False, residual=False)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(plain(x), inner, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "residual"),
    [
        ((4, 4), True),
        ((4, 4, 5, 1, 2), True),
        ((4, 4, 3, 1, 2, 2), True),
        ((4, 6), False),
        ((4, 4, 3, 1, 0), False),
        ((4, 4, 3, 2, 1), False),
        ((4, 4, 1, 2, 0), False),
        ((4, 4, 2, 1, 1), False),
        ((4, 4, 3, 1, 2), False),
    ],
)
def test_sic_is_residual_exactly_where_shapes_agree(arguments, residual):
    layer = SICConv2d(*arguments)
    assert layer.residual is residual
    x = torch.randn(1, 4, 8, 8)
    assert (layer(x).shape == x.shape) is residual
    assert SICConv2d(*arguments, residual=False).residual is False


def test_bottleneck_is_two_sic_layers_with_one_way_past():
    layer = build("sic-bottleneck")
    first, second = SICConv2d(4, 2, norm=True).eval(), SICConv2d(2, 4, norm=True, activation=False).eval()
    for part, number in ((first, 1), (second, 2)):
        for name in ("depthwise", "pointwise", "norm"):
            getattr(part, name).load_state_dict(getattr(layer, f"{name}{number}").state_dict())
    x = images(layer)
    torch.testing.assert_close(layer(x), functional.relu(x + second(first(x))), rtol=0, atol=0)
    assert layer.macs(8, 8) == first.macs(8, 8) + second.macs(8, 8)


def test_bottleneck_without_inner_rectifier_is_linear():
    layer = SICBottleneck2d(4, hidden=3, bias=False, inner_activation=False, activation=False)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(layer(-2 * x), -2 * layer(x))


def test_bottleneck_with_a_stride_has_no_way_past():
    layer = SICBottleneck2d(4, 3, 2, 1)
    assert not layer.residual
    x = torch.randn(1, 4, 9, 9)
    assert layer(x).shape == (1, 4, 5, 5)
    assert layer.macs(9, 9) == counted(layer, x)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [8, 7])
def test_spatial_bottleneck_acts_on_blocks(size, padding):
    layer = SpatialBottleneck2d(3, 3, 2, padding, activation=False).double()
    x = torch.randn(1, 3, size, size).double()
    covered = (size + 2 * padding) // 2 * 2 - padding  # rows and columns that blocks reach
    y = layer(x) - x
    expected = layer.up.bias.detach().view(3, 1, 1).expand(3, size, size).clone()
    filters, projection = layer.down.weight[:, 0], layer.pointwise.weight[:, :, 0, 0]
    padded = functional.pad(x, (padding, 2, padding, 2))[0]
    for row in range(-padding, covered, 2):
        for column in range(-padding, covered, 2):
            block = padded[:, row + padding :, column + padding :][:, :2, :2]
            value = projection @ (filters * block).sum((1, 2))
            for r, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
                if 0 <= row + r < size and 0 <= column + c < size:
                    expected[:, row + r, column + c] += layer.up.weight[:, 0, r, c] * value
    torch.testing.assert_close(y[0], expected.detach(), rtol=1e-12, atol=1e-12)
    uncovered = y[..., covered:, :]
    assert uncovered.shape[2] == (1 if (size + 2 * padding) % 2 and padding == 0 else 0)
    torch.testing.assert_close(uncovered, layer.up.bias.view(1, 3, 1, 1).expand_as(uncovered))


def test_spatial_bottleneck_costs_a_quarter_of_a_sic_projection():
    layer = SpatialBottleneck2d(8, 8)
    assert layer.macs(6, 4) == 6 * 4 * (2 * 8 + 8 * 8 // 4)
    assert SpatialBottleneck2d(8, 8, padding=1).macs(6, 4) == 4 * 3 * (2 * 4 * 8 + 8 * 8)


def test_root_module_sums_its_groups():
    layer = RootModule2d(4, 5, 3, 1, 1, groups=2, hidden=6).double()
    kernel = torch.zeros(5, 4, 3, 3).double()
    for group in range(2):
        hidden, inputs = slice(3 * group, 3 * group + 3), slice(2 * group, 2 * group + 2)
        kernel[:, inputs] = torch.einsum(
            "jh,hiuv->jiuv", layer.pointwise.weight[:, hidden, 0, 0], layer.grouped.weight[hidden]
        )
    x = torch.randn(2, 4, 6, 5).double()
    expected = functional.conv2d(x, kernel.detach(), layer.pointwise.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "activation", "bias", "of_filters"),
    [
        (False, False, True, False),
        (True, False, True, False),
        (True, True, True, False),
        (False, True, True, True),
        (False, True, False, False),
    ],
)
def test_root_module_has_no_bias_that_another_makes_up_for(norm, activation, bias, of_filters):
    layer = RootModule2d(4, 4, 3, bias=bias, norm=norm, activation=activation)
    assert (layer.grouped.bias is not None) is of_filters
    assert (layer.pointwise.bias is not None) is bias
