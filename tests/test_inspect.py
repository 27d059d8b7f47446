"""Layers are described by what they do when the network runs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as nnf

from cnncompress.errors import ModelError
from cnncompress.inspect import inspect_layers


class Branches(nn.Module):
    """Modules in an order that differs from that of execution."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Conv2d(4, 4, 1)
        self.last = nn.Linear(8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.first = nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect")
        self.shared = nn.Conv2d(8, 8, 1)
        self.added = nn.Conv2d(8, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.smooth = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = nnf.relu(self.first(x), inplace=True)
        x = torch.relu(self.norm(self.second(x)))
        x = self.shared(self.shared(x))
        x = nnf.relu(x + self.added(x))
        x = nnf.silu(self.smooth(self.depthwise(x)))
        return self.last(x.mean((2, 3)))


@pytest.fixture
def layers():
    return {layer.name: layer for layer in inspect_layers(Branches().train(), (3, 9, 11))}


def test_order_is_that_of_execution(layers):
    assert list(layers)[:3] == ["first", "second", "shared"]
    assert list(layers)[-1] == "unused"


def test_what_follows_is_observed(layers):
    assert layers["first"].activation == "relu"
    assert layers["second"].batchnorm == "norm"
    assert layers["second"].activation == "none"
    assert layers["added"].activation == "none"
    assert "add" in layers["added"].followed_by[0]
    assert layers["smooth"].followed_by == ("silu",)
    assert layers["smooth"].activation == "none"


def test_shapes_and_costs(layers):
    first, second = layers["first"], layers["second"]
    assert (first.padding, first.padding_mode) == ("same", "reflect")
    assert (second.input_size, second.output_size) == ((9, 11), (5, 6))
    assert second.macs == 4 * 9 * 8 * 5 * 6
    assert second.params == 4 * 9 * 8
    assert layers["last"].macs == 8 * 3


def test_reasons(layers):
    assert "never called" in layers["unused"].reason
    assert "called 2 times" in layers["shared"].reason
    assert "depthwise" in layers["depthwise"].reason
    assert [name for name, layer in layers.items() if layer.eligible] == [
        "first", "second", "added", "smooth", "last",
    ]  # fmt: skip


def test_model_is_left_as_it_was():
    model = Branches().train()
    model.norm.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    inspect_layers(model, (3, 9, 9))
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_input_that_is_too_small_is_named():
    with pytest.raises(ModelError, match=r"fails on an input of shape \(1, 3, 4, 4\)"):
        inspect_layers(nn.Sequential(nn.Conv2d(3, 4, 5)), (3, 4, 4))
