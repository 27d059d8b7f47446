"""Folding BatchNorm changes nothing but the number of layers."""

import torch
from torch import nn

from cnncompress.folding import copy_sharing_weights, fold_batchnorms, foldable
from cnncompress.inspect import inspect_layers


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 3), nn.ReLU(), nn.BatchNorm2d(4),
    )  # fmt: skip
    for norm in (model[1], model[5]):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return model.eval()


def test_folded_network_is_the_same_function_and_the_original_is_untouched():
    model, images = network(), torch.randn(4, 3, 9, 9)
    pairs = foldable(inspect_layers(model, (3, 9, 9)))
    assert pairs == (("0", "1"),)
    with torch.no_grad():
        expected = model(images)
        folded = fold_batchnorms(model, pairs)
        torch.testing.assert_close(folded(images), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(images), expected, rtol=0, atol=0)
    assert isinstance(folded[1], nn.Identity)
    assert isinstance(model[1], nn.BatchNorm2d)
    assert inspect_layers(folded, (3, 9, 9))[0].activation == "relu"


def test_a_sharing_copy_has_modules_of_its_own():
    model = network()
    copy = copy_sharing_weights(model)
    assert copy[0] is not model[0]
    assert copy[0].weight is model[0].weight
    assert copy[1].running_mean is model[1].running_mean
    copy.set_submodule("0", nn.Identity())
    assert isinstance(model[0], nn.Conv2d)
