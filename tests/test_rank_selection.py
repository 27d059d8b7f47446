"""Ranks meet the budget, follow the user's wishes, and say what can't be done."""

import numpy as np
import pytest
from torch import nn

from cnncompress.decompositions import make
from cnncompress.errors import BudgetError, ModelError, OptionError
from cnncompress.inspect import inspect_layers
from cnncompress.ranks import Candidate, choose_methods, choose_ranks


@pytest.fixture
def layers():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
        nn.Conv2d(48, 64, 1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 6 * 6, 10),
    )  # fmt: skip
    return inspect_layers(model, (3, 12, 12))


def candidates(layers, methods, step=1):
    found = []
    for layer in layers:
        if layer.name in methods:
            full = methods[layer.name].full_ranks(layer)
            energies = tuple(np.exp(-np.arange(rank) / (0.2 * rank)) for rank in full)
            found.append(Candidate(layer=layer, method=methods[layer.name], energies=energies, step=step))
    return found


@pytest.mark.parametrize("method", ["gsvd3d", "gsvd", "spatial", "svd", "pca"])
@pytest.mark.parametrize("rule", ["greedy", "uniform"])
@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("speedup", [1.5, 2.5])
def test_budget_is_met(layers, method, rule, step, speedup):
    methods, _ = choose_methods(layers, make(method))
    conv = [layer for layer in layers if layer.kind == "conv2d"]
    total = sum(layer.macs for layer in conv)
    fixed = sum(layer.macs for layer in conv if layer.name not in methods)
    plans = choose_ranks(
        candidates(layers, methods, step), total=total, fixed=fixed, speedup=speedup, rule=rule
    )
    after = fixed
    for layer in conv:
        plan = plans.get(layer.name)
        if plan is None or plan.method == "none":
            after += layer.macs if plan is not None else 0
            continue
        cost = make(plan.method, plan.options).macs(layer, plan.ranks)
        assert cost < layer.macs
        assert all(rank % step == 0 for rank in plan.ranks)
        after += cost
    assert total / after >= speedup
    if rule == "greedy":  # a uniform speedup has no way to spend what rounding leaves
        assert total / after <= speedup * (1.03 if step == 1 else 1.25)


def test_methods_fall_back_and_reasons_are_given(layers):
    methods, reasons = choose_methods(layers, make("gsvd3d", {"symmetric": True}))
    assert {name: method.name for name, method in methods.items()} == {
        "2": "gsvd3d",
        "4": "gsvd",
        "6": "gsvd3d",
    }
    assert methods["4"].symmetric
    assert "27 entries" in reasons["0"]
    assert "linear" in reasons["9"]


def test_skip_only_and_linear(layers):
    methods, reasons = choose_methods(layers, make("gsvd"), skip=["2"], include_linear=True)
    assert list(methods) == ["4", "6", "9"]
    assert reasons["2"] == "skipped as asked"
    methods, reasons = choose_methods(layers, make("gsvd"), only=["0", "9"])
    assert list(methods) == ["0", "9"]
    with pytest.raises(OptionError, match=r"no layer is named like 'conv\*'.*layers: 0, 2"):
        choose_methods(layers, make("gsvd"), skip=["conv*"])


def test_nothing_to_do_is_an_error(layers):
    with pytest.raises(ModelError, match="no layer of this network can be replaced by"):
        choose_methods(layers, make("gsvd"), skip=["*"])


def test_ranks_given_by_the_user_are_kept(layers):
    methods, _ = choose_methods(layers, make("gsvd3d"))
    common = {"total": sum(layer.macs for layer in layers[:4]), "fixed": layers[0].macs, "speedup": 2.0}
    plans = choose_ranks(candidates(layers, methods), **common, given={"2": (20, 30)})
    assert plans["2"].ranks == (20, 30)
    with pytest.raises(OptionError, match=r"^0: ranks were given for a layer that is not replaced"):
        choose_ranks(candidates(layers, methods), **common, given={"0": (3,)})
    with pytest.raises(ValueError, match=r"2: channel must be between"):
        choose_ranks(candidates(layers, methods), **common, given={"2": (20, 300)})


def test_unreachable_speedups_name_the_limit(layers):
    methods, _ = choose_methods(layers, make("gsvd3d"))
    total, fixed = sum(layer.macs for layer in layers[:4]), layers[0].macs
    with pytest.raises(BudgetError, match=r"100x can't be reached.*it is (\d+\.\d+)x") as caught:
        choose_ranks(candidates(layers, methods), total=total, fixed=fixed, speedup=100)
    limit = float(str(caught.value).split("it is ")[1].split("x")[0])
    assert 2 < limit <= total / fixed


def bottlenecks():
    def block(inputs, inner, outputs):
        return [nn.Conv2d(inputs, inner, 1), nn.ReLU(), nn.Conv2d(inner, inner, 3, padding=1), nn.ReLU(),
                nn.Conv2d(inner, outputs, 1), nn.ReLU()]  # fmt: skip

    stem = [nn.Conv2d(3, 32, 7, padding=3), nn.ReLU()]
    return inspect_layers(nn.Sequential(*stem, *block(32, 32, 96), *block(96, 32, 96)), (3, 12, 12))


@pytest.mark.parametrize("rule", ["greedy", "uniform", "joint"])
@pytest.mark.parametrize("speedup", [2, 3.5])
def test_networks_of_pointwise_and_spatial_layers_meet_the_budget(rule, speedup):
    layers = bottlenecks()
    methods, _ = choose_methods(layers, make("gsvd3d"))
    assert {method.name for method in methods.values()} == {"gsvd", "gsvd3d"}
    total = sum(layer.macs for layer in layers)
    plans = choose_ranks(candidates(layers, methods), total=total, fixed=0, speedup=speedup, rule=rule)
    after = sum(
        layer.macs
        if plans[layer.name].method == "none"
        else make(plans[layer.name].method).macs(layer, plans[layer.name].ranks)
        for layer in layers
    )
    assert speedup <= total / after < 1.15 * speedup
