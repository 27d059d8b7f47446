"""Methods of Wang et al. on real layers: what they refuse, what they keep and that their plans rebuild."""

import numpy as np
import pytest
import torch
from torch import nn

from cnncompress import compress_model
from cnncompress.decompositions import make
from cnncompress.errors import OptionError
from cnncompress.factorize import load_
from cnncompress.plan import Plan

CHANNELS, GRID = 6, (9, 8)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).double()


@pytest.fixture
def images():
    torch.manual_seed(1)
    smooth = nn.functional.avg_pool2d(torch.randn(20, CHANNELS, 11, 10, dtype=torch.float64), 3, stride=1)
    return torch.relu(smooth + 0.1)


@pytest.fixture
def fit(describe, observe, layer, images):
    """Fits a method and returns the replacement, the factors and the description of the layer."""

    def fit_method(name, options, ranks, *, rectified=True):
        info = describe(layer.float(), (CHANNELS, *GRID), rectified=rectified)
        layer.double()
        method = make(name, options)
        responses = observe(
            info, layer, images, count=60, margin=method.margin(info, ranks), blocks=method.blocks
        )
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        factors = method.fit(info, weight, bias, responses, ranks)
        module = method.build(info, ranks)
        load_(module, factors, like=layer.weight)
        return module, factors, responses

    return fit_method


CASES = [
    ("sic", {}, (1,)),
    ("sic", {}, (3,)),
    ("sic", {"residual": True}, (2,)),
    ("sic", {"kernel": 5}, (2,)),
    ("sic", {"kind": "parallel"}, (2,)),
    ("sic-bottleneck", {}, (3,)),
    ("sic-bottleneck", {"inner_activation": False, "residual": True}, (3,)),
    ("spatial-bottleneck", {}, (1,)),
    ("spatial-bottleneck", {"padding": 1, "residual": True}, (1,)),
]


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize(("name", "options", "ranks"), CASES)
def test_error_of_the_module_is_the_one_that_chose(
    fit, layer, images, observe, describe, name, options, ranks, rectified
):
    module, factors, _ = fit(name, options, ranks, rectified=rectified)
    method, info = make(name, options), describe(layer, (CHANNELS, *GRID), rectified=rectified)
    answers = observe(info, _Double(module, layer), images, count=60, blocks=method.blocks).held_out.target
    target, answer = np.split(answers, 2)
    if rectified:
        target, answer = (np.maximum(part, 0) for part in (target, answer))
    error = np.sum((target - answer) ** 2) / np.sum(target**2)
    assert error == pytest.approx(factors.errors[factors.chosen], rel=1e-6)
    assert factors.errors[factors.chosen] == min(factors.errors.values())
    assert factors.errors[factors.chosen] < factors.errors["weight"]


class _Double(nn.Module):
    """The true layer's channels, then the replacement's."""

    def __init__(self, replacement, layer):
        super().__init__()
        self.parts = nn.ModuleList([layer, replacement])

    def forward(self, images):
        return torch.cat([part(images) for part in self.parts], dim=1)


def test_layers_of_a_stack_are_used_while_held_out_images_gain(fit):
    _, factors, _ = fit("sic", {}, (3,))
    assert list(factors.errors) == ["weight", "1 layer", "2 layers", "3 layers"]
    (note,) = factors.notes
    history = [float(error) for error in note.split(": ")[1].split(", ")]
    assert history == sorted(history, reverse=True)
    assert len(history) == 4


def test_rectifiers_are_between_layers_where_one_follows(describe, layer):
    for rectified in (True, False):
        info = describe(layer, (CHANNELS, *GRID), rectified=rectified)
        module = make("sic").build(info, (3,))
        kinds = [isinstance(part.activation, nn.ReLU) for part in module]
        assert kinds == [rectified, rectified, False]


@pytest.mark.parametrize("rectified", [True, False])
def test_without_data_the_rest_of_a_stack_passes_on(describe, layer, images, rectified):
    info = describe(layer, (CHANNELS, *GRID), rectified=rectified)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    outputs = []
    for ranks in ((1,), (3,)):
        method = make("sic", {"data": False})
        module = method.build(info, ranks)
        load_(module, method.fit(info, weight, bias, None, ranks), like=layer.weight)
        with torch.no_grad():
            outputs.append(torch.relu(module(images)) if rectified else module(images))
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("name", "options", "settings", "reason"),
    [
        ("sic", {"bases": 2}, {"stride": 2, "padding": 1}, "stride is 2 x 2"),
        ("sic", {"bases": 2}, {"dilation": 2, "padding": 2}, "dilation is 2 x 2"),
        ("sic", {"bases": 2}, {"padding": 1, "padding_mode": "reflect"}, "padding is reflect"),
        ("sic", {"bases": 2}, {"padding": 0}, "it must be 1, which keeps"),
        ("sic", {"kernel": 5}, {"padding": 0}, "it must be 1, which keeps"),
        ("sic", {"kernel": 3}, {"kernel_size": 5, "padding": 2}, "must be at least that, got 3"),
        ("sic", {"kernel": 11}, {"padding": 1}, "supported up to 9"),
        ("sic", {}, {"kernel_size": (3, 5)}, "3 x 5; only odd squares"),
        ("sic", {}, {"kernel_size": 1}, "nothing to filter"),
        ("sic", {"residual": True}, {"out_channels": 4, "padding": 1}, "6 inputs and 4 outputs"),
        ("sic-bottleneck", {}, {"out_channels": 4, "padding": 1}, "6 inputs and 4 outputs"),
        ("sic-bottleneck", {}, {"stride": 2, "padding": 1}, "stride is 2 x 2"),
        ("spatial-bottleneck", {}, {"stride": 2, "padding": 1}, "stride is 2 x 2"),
        ("spatial-bottleneck", {}, {"padding": 0}, "the map keeps its size"),
        ("spatial-bottleneck", {"kernel": 9}, {"padding": 1}, "too small for a whole block"),
        ("spatial-bottleneck", {"padding": 1}, {"padding": 1, "padding_mode": "reflect"}, "need zeros"),
        ("spatial-bottleneck", {"residual": True}, {"out_channels": 4, "padding": 1}, "6 inputs and 4"),
    ],
)
def test_refusals_say_what_is_supported(describe, name, options, settings, reason):
    arguments = {"out_channels": CHANNELS, "kernel_size": 3} | settings
    info = describe(nn.Conv2d(CHANNELS, **arguments), (CHANNELS, *GRID))
    assert reason in make(name, options).obstacle(info)


@pytest.mark.parametrize("settings", [{"stride": 2, "padding": 1}, {"padding": 0}, {"dilation": 2}])
def test_layers_that_move_pixels_get_a_single_convolution(describe, settings):
    info = describe(nn.Conv2d(CHANNELS, CHANNELS, 3, **settings), (CHANNELS, *GRID))
    method = make("sic")
    assert method.obstacle(info) == ""
    assert method.full_ranks(info) == (1,)
    assert method.margin(info, (1,)) == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sic", {"kernel": 4}, "odd number, got 4"),
        ("sic", {"kind": "both"}, "sequential, parallel, got 'both'"),
        ("sic", {"kind": "parallel", "residual": True}, "goes with kind sequential"),
        ("sic", {"b": 0}, "at least 1, got 0"),
        ("spatial-bottleneck", {"k": 1}, "at least 2, got 1"),
        ("spatial-bottleneck", {"k": 2, "p": 2}, r"less than kernel \(k\), 2, got 2"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises(OptionError, match=message):
        make(name, options)


@pytest.mark.parametrize(
    ("method", "options"),
    [("sic", {"bases": 2}), ("sic-bottleneck", {"hidden": 4}), ("spatial-bottleneck", {})],
)
def test_a_saved_plan_rebuilds_the_network(method, options):
    # BatchNorm hides from the unfolded network that a rectifier follows
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
    ).eval()
    images = torch.randn(20, 8, 10, 10)
    result = compress_model(
        net, images, speedup=1.1, method=method, method_options=options, measure=False, allow_slower=True
    )
    assert {plan.method for plan in result.plan.layers} == {method}
    rebuilt = Plan.from_json(result.plan.to_json()).build(net)
    rebuilt.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(images), result.model(images))
