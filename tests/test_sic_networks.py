"""The networks of the SIC papers cost what the papers print, or what their tables amount to.

Multiplications of convolutions and linear layers, none for BatchNorm, rectifiers, pools and biases;
parameters are the weights of the same layers, without biases and BatchNorm. Topological layers count by
connections, as in the papers.
"""

from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cnncompress.layers import SICConv2d, SpatialBottleneck2d
from cnncompress.zoo import registry
from cnncompress.zoo.costs import layer_costs
from cnncompress.zoo.sic_tables import FINAL, FIRST

NAMES = [f"sic-{letter}" for letter in FINAL] + [f"sic004-{letter}" for letter in "jkno"]
"""All but the first version's that the final one has too."""


@cache
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return registry.build(name)


@cache
def macs(name: str) -> dict[str, int]:
    """Theoretical multiply-accumulates by layer."""
    costs = layer_costs(on_meta(name), registry.entry(name).input_size, theoretical=True)
    return {layer: cost.macs for layer, cost in costs.items()}


@cache
def sizes(name: str) -> dict[str, tuple[int, ...]]:
    """Sizes of what the parts of the network return, for two images."""
    found: dict[str, tuple[int, ...]] = {}
    model = on_meta(name)
    handles = [
        part.register_forward_hook(lambda _, __, y, key=key: found.update({key: tuple(y.shape)}))
        for key, part in [*model.features.named_children(), ("scores", model)]
    ]
    model(torch.zeros(2, *registry.entry(name).input_size, device="meta"))
    for handle in handles:
        handle.remove()
    return found


def of_stages(macs: dict[str, int], number: int | None = None) -> int:
    prefix = "features.stage" + (f"{number}." if number else "")
    return sum(value for name, value in macs.items() if name.startswith(prefix))


@pytest.mark.parametrize(
    ("name", "millions"),  # printed
    [
        ("sic-a", 1092.99),  # 1093
        ("sic-b", 593.19),  # 593
        ("sic-c", 267.33),  # 268, which is not its rounding
        ("sic-d", 375.95),  # 376
        ("sic-e", 484.57),  # 485
        ("sic-f", 393.05),  # 393
        ("sic-l", 380.76),  # 381
        ("sic-m", 491.78),  # 492, and 490 in the first version
        ("sic-n", 866.27),  # 866
        ("sic-o", 1297.63),  # 1300
        ("sic004-n", 844.64),  # 845
        ("sic004-o", 1296.33),  # 1172, which no depth of 40 layers gives
    ],
)
def test_multiplications(name, millions):
    assert round(sum(macs(name).values()) / 1e6, 2) == millions


def test_larger_kernels_add_17_million():
    d, f = (sum(macs(name).values()) for name in ("sic-d", "sic-f"))
    assert round((f - d) / 1e6, 2) == 17.10  # 17
    assert round((f - d) / d, 4) == 0.0455  # below 5 %


@pytest.mark.parametrize(
    ("name", "millions"),
    [("sic-l", 6.28), ("sic-m", 6.99), ("sic-n", 10.25), ("sic-o", 14.66)],  # 6.3, 7, 10.3, 14.7
)
def test_parameters(name, millions):
    layers = [layer for layer in on_meta(name).modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert round(sum(layer.weight.numel() for layer in layers) / 1e6, 2) == millions


def test_the_part_that_all_models_of_table_1_share():
    millions = [(sum(m.values()) - of_stages(m)) / 1e6 for m in map(macs, ("sic-a", "sic-h", "sic004-k"))]
    assert [round(value, 2) for value in millions] == [158.71] * 3
    first = macs("sic-a")
    assert first["features.conv1.0"] == 108 * 108 * 64 * 49 * 3
    assert sum(value for name, value in first.items() if "widen" in name) == 44_826_624
    assert first["hidden"] + first["classifier"] == 1024 * 2048 + 2048 * 1000


@pytest.mark.parametrize(
    ("name", "share"),  # of model A's stages; printed, where depthwise filters and padding count nothing
    [
        ("sic-b", 0.4650),  # 4/9
        ("sic-c", 0.1163),  # 1/9
        ("sic-d", 0.2325),  # 2/9
        ("sic-e", 0.3488),  # 1/3
        ("sic-g", 0.5),  # 1/2
        ("sic-h", 0.46875),  # 15/32
        ("sic-i", 0.5),  # 1/2
        ("sic-j", 0.1317),  # 1/9
        ("sic004-j", 0.1822),  # 1/6
        ("sic004-k", 0.1319),  # 1/9
    ],
)
def test_shares_of_the_baseline(name, share):
    digits = 5 if share == 0.46875 else 4
    assert round(of_stages(macs(name)) / of_stages(macs("sic-a")), digits) == share


@pytest.mark.parametrize(("stage", "share"), [(2, 0.142), (3, 0.127), (4, 0.119)])
def test_topological_sic_by_stage(stage, share):
    assert round(of_stages(macs("sic-j"), stage) / of_stages(macs("sic-a"), stage), 3) == share  # 1/9


@pytest.mark.parametrize(("name", "saved"), [("sic004-j", 0.216), ("sic004-k", 0.433)])  # 25 %, 50 %
def test_spatial_bottlenecks_against_sic(name, saved):
    assert round(1 - of_stages(macs(name)) / of_stages(macs("sic-d")), 3) == saved


@pytest.mark.parametrize(
    ("stage", "width", "percent"),
    [(2, 128, 6.57), (3, 256, 3.40), (4, 512, 1.73)],  # 6.6, 3.4, 1.7: table 2 of the first version
)
def test_intra_channel_share_of_sic_layers(stage, width, percent):
    inside = {name: value for name, value in macs("sic-d").items() if f".stage{stage}." in name}
    filters = sum(value for name, value in inside.items() if "depthwise" in name)
    assert round(100 * filters / sum(inside.values()), 2) == percent


@pytest.mark.parametrize(("width", "ratio"), [(128, 0.2482), (256, 0.2491), (512, 0.2495)])  # 1/4
def test_a_spatial_bottleneck_is_a_quarter_of_a_sic_layer(width, ratio):
    with torch.device("meta"):
        bottleneck, sic = SpatialBottleneck2d(width, width), SICConv2d(width, width)
    assert round(bottleneck.macs(18, 18) / sic.macs(18, 18), 4) == ratio


@pytest.mark.parametrize("name", ["sic-a", "sic-b", "sic-g", "sic-j", "sic-m", "sic004-j"])
def test_executed_multiplications_are_those_of_the_flop_counter(name):
    model, size = on_meta(name).eval(), registry.entry(name).input_size
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *size, device="meta"))
    assert 2 * sum(cost.macs for cost in layer_costs(model, size).values()) == counter.get_total_flops()


def test_counting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert {name: cost.macs for name, cost in layer_costs(model, (3, 4, 4)).items()} == {
        "0": 4 * 27 * 4,
        "3": 32,
    }
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert not any(module._forward_hooks for module in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


def test_letters_of_the_first_version():
    same = {first: final for first, a in FIRST.items() for final, b in FINAL.items() if a is b}
    assert same == dict(zip("abcdefghilm", "abdfeghijlm", strict=True))
    assert registry.entry("sic004-c").builder.args == registry.entry("sic-d").builder.args


@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_registered_and_classifies(name):
    pixels = 224 if name[-1] in "no" else 221
    assert registry.entry(name).input_size == (3, pixels, pixels)
    assert sizes(name)["scores"] == (2, 1000)
    convolutions = [module for module in on_meta(name).modules() if isinstance(module, nn.Conv2d)]
    assert all(convolution.bias is None for convolution in convolutions)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sic-a", {"stage2": (2, 128, 36, 36), "stage3": (2, 256, 18, 18), "stage4": (2, 512, 6, 6)}),
        (
            "sic-n",
            {
                "stage2": (2, 64, 56, 56),
                "stage3": (2, 128, 28, 28),
                "stage4": (2, 256, 14, 14),
                "stage5": (2, 512, 7, 7),
            },
        ),
    ],
)
def test_sizes_of_stages(name, expected):
    assert {part: size for part, size in sizes(name).items() if part.startswith("stage")} == expected


def test_random_weights_keep_signals_in_bounds():
    torch.manual_seed(0)
    model = registry.build("sic-c", classes=3)
    scores = model(torch.randn(2, 3, 221, 221))
    assert scores.shape == (2, 3)
    assert 1e-3 < float(scores.detach().std()) < 1e3
