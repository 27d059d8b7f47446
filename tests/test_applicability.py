"""What is said to fit a layer really does."""

import pytest
from torch import nn

from cnncompress.applicability import applicability, ranks_within
from cnncompress.decompositions import available, check_ranks, make
from cnncompress.errors import ModelError


@pytest.fixture(params=[(3, 16, 5), (12, 18, 3), (8, 8, 1)], ids=["first", "inner", "pointwise"])
def layer(request, describe):
    inputs, outputs, kernel = request.param
    return describe(nn.Conv2d(inputs, outputs, kernel), (inputs, 20, 20))


def test_every_method_is_answered_for(layer):
    found = {entry.method: entry for entry in applicability(layer)}
    assert set(found) == set(available())
    for name, entry in found.items():
        method = make(name)
        if entry.obstacle:
            with pytest.raises(ModelError, match="can't replace"):
                check_ranks(method, layer, (1,))
            continue
        full = tuple(entry.limits.values())
        check_ranks(method, layer, full)
        assert entry.macs_full == method.macs(layer, full)
        if entry.half is not None:
            half = tuple(entry.half.values())
            check_ranks(method, layer, half)
            assert method.macs(layer, half) <= layer.macs // 2


def test_all_listed_values_of_options_are_valid_and_no_others(describe):
    info = describe(nn.Conv2d(12, 18, 3), (12, 20, 20))
    listed = {entry.method: entry.options for entry in applicability(info)}
    for clusters in range(1, 19):
        fits = not make("biclustering-svd", {"G": 1, "H": clusters}).obstacle(info)
        assert fits == (clusters in listed["biclustering-svd"]["H"])
        fits = not make("biclustering-svd", {"G": clusters, "H": 1}).obstacle(info)
        assert fits == (clusters in listed["biclustering-svd"]["G"])


def test_ranks_within_a_cost_are_the_greatest(describe):
    info = describe(nn.Conv2d(12, 18, 3), (12, 20, 20))
    method = make("svd-out")
    (rank,) = ranks_within(method, info, info.macs // 2)
    assert method.macs(info, (rank,)) <= info.macs // 2 < method.macs(info, (rank + 1,))
    assert ranks_within(method, info, 10) is None
