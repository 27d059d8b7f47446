"""The prefix gives what a full forward pass would, whatever it keeps."""

import pytest
import torch
from torch import nn

from cnncompress.prefix import Prefix


class Residual(nn.Module):
    """In-place functions, a skip connection and a value that is read late."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.third = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x):
        x = self.relu(self.first(x))
        y = self.relu(self.second(x))
        y *= self.scale
        y = self.relu(y + x)
        y += 0.5
        return self.third(y).mean((2, 3)) + x.mean((2, 3))


class Dynamic(Residual):
    """Control flow that can't be traced."""

    def forward(self, x):
        if x.sum() > 1e9:
            x = -x
        return super().forward(x)


@pytest.mark.parametrize("network", [Residual, Dynamic])
@pytest.mark.parametrize("memory", [0, 30_000, 10**9])
def test_inputs_equal_those_of_a_forward_pass(network, memory, tensor_source):
    torch.manual_seed(0)
    model, images = network().eval(), torch.randn(7, 3, 8, 8)
    expected = {}
    for name in ("first", "second", "third"):
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: expected.__setitem__(name, inputs[0].clone())
        )
    with torch.no_grad():
        model(images)
    for module in model.modules():
        module._forward_pre_hooks.clear()
    prefix = Prefix(model, tensor_source(images), batch_size=3, memory=memory)
    for name in ("first", "second", "third"):
        found = [(list(indices), inputs.clone()) for indices, inputs in prefix.inputs_of(name)]
        assert [i for indices, _ in found for i in indices] == list(range(7))
        torch.testing.assert_close(torch.cat([inputs for _, inputs in found]), expected[name])


def test_a_replaced_layer_is_seen_by_the_next_one(tensor_source):
    torch.manual_seed(0)
    model, images = Residual().eval(), torch.randn(4, 3, 8, 8)
    prefix = Prefix(model, tensor_source(images), batch_size=2, memory=10**9)
    list(prefix.inputs_of("first"))
    model.set_submodule("first", nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 6, 1)))
    found = torch.cat([inputs for _, inputs in prefix.inputs_of("second")])
    with torch.no_grad():
        torch.testing.assert_close(found, torch.relu(model.first(images)))


def test_kept_values_save_reading_the_images(tensor_source):
    model, images = Residual().eval(), torch.randn(4, 3, 8, 8)
    passes = {}
    for memory in (0, 10**9):
        source = tensor_source(images)
        prefix = Prefix(model, source, batch_size=2, memory=memory)
        for name in ("first", "second", "third"):
            list(prefix.inputs_of(name))
        passes[memory] = source.passes
    assert passes == {0: 3, 10**9: 1}


def test_no_hook_is_left_behind(tensor_source):
    model = Dynamic().eval()
    prefix = Prefix(model, tensor_source(torch.randn(4, 3, 8, 8)), batch_size=2, memory=0)
    list(prefix.inputs_of("second"))
    assert not any(module._forward_pre_hooks for module in model.modules())
