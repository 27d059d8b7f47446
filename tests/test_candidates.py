"""What may take a layer's place."""

import pytest
from torch import nn

from cnncompress.candidates import enumerate_candidates
from cnncompress.decompositions import available, make
from cnncompress.inspect import inspect_layers


def layer_of(inputs: int, outputs: int, size: int = 14):
    net = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())
    return inspect_layers(net, (inputs, size, size))[0]


@pytest.mark.parametrize("name", available())
def test_all_are_cheaper_and_fit(name: str) -> None:
    layer, method = layer_of(32, 48), make(name)
    found = enumerate_candidates(layer, [method], 4, most=50)
    assert bool(found) == (not method.obstacle(layer) and _any_cheaper(method, layer))
    for same, ranks in found:
        assert same is method
        assert method.macs(layer, ranks) < layer.macs
        assert not method.unfit(layer, ranks)


def _any_cheaper(method, layer) -> bool:
    return any(method.macs(layer, ranks) < layer.macs for ranks in method.settings(layer, 4))


@pytest.mark.parametrize("align", [1, 16])
@pytest.mark.parametrize("name", ["gsvd", "gsvd3d", "gtucker"])
def test_grids_are_thinned_but_keep_their_ends(name: str, align: int) -> None:
    layer, method = layer_of(256, 256), make(name)
    few = {ranks for _, ranks in enumerate_candidates(layer, [method], align, most=60)}
    all_of_them = {ranks for _, ranks in enumerate_candidates(layer, [method], align, most=10**9)}
    assert few <= all_of_them
    assert len(few) <= 60
    assert len(few) >= min(15, len(all_of_them))
    assert min(all_of_them) in few
    cheapest = min(method.macs(layer, ranks) for ranks in all_of_them)
    assert min(method.macs(layer, ranks) for ranks in few) == cheapest


def test_a_method_that_does_not_fit_is_left_out() -> None:
    layer = layer_of(3, 16)
    assert {method.name for method, _ in enumerate_candidates(layer, [make("gsvd3d"), make("gsvd")], 1)} == {
        "gsvd"
    }
