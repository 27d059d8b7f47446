"""The speedup that the gate counts is the one that the report states, whatever replaced the layers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cnncompress.decompositions import available, make
from cnncompress.gate.costs import counted_macs
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.plan import LayerPlan, Plan
from cnncompress.summary import _macs as reported_macs

SIZE = (3, 12, 12)


def network() -> nn.Module:
    """Convolutions that the methods can replace, some of them nested, and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Conv2d(6, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 6, 1),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 10),
    ).eval()


def replacement(name: str, layer: LayerInfo) -> LayerPlan:
    """The layer at about half of its ranks, or left as it is where the method can't replace it."""
    method = make(name)
    if layer.kind not in {"conv2d", "linear"} or method.obstacle(layer):
        return LayerPlan(name=layer.name, method="none")
    full = method.full_ranks(layer)
    if len(full) == 1:
        known = [ranks for ranks in method.settings(layer, 1) if ranks[0] <= max(1, full[0] // 2)]
        ranks = known[-1] if known else next(iter(method.settings(layer, 1)))
    else:
        ranks = tuple(max(1, rank // 2) for rank in full)
    return LayerPlan(name=layer.name, method=name, ranks=tuple(ranks))


def planned(layers: tuple[LayerPlan, ...], *, linear: bool) -> Plan:
    return Plan(
        network="tiny",
        source={"kind": "object"},
        input_size=SIZE,
        layers=layers,
        folded=(("0.0", "0.1"),),
        options={"include_linear": linear},
    )


def rows(layers: list[LayerInfo], plans: tuple[LayerPlan, ...]) -> list[dict[str, object]]:
    """What each method says that its replacement costs, as the report has it."""
    return [
        {
            "kind": layer.kind,
            "macs_before": layer.macs,
            "macs_after": layer.macs if plan.method == "none" else make(plan.method).macs(layer, plan.ranks),
        }
        for layer, plan in zip(layers, plans, strict=True)
    ]


@pytest.mark.parametrize("linear", [False, True], ids=["convolutions", "include_linear"])
@pytest.mark.parametrize("name", available())
def test_every_method_is_counted_as_it_is_reported(name: str, linear: bool) -> None:
    model = network()
    layers = list(inspect_layers(model, SIZE))
    plans = tuple(
        replacement(name, layer)
        if linear or layer.kind == "conv2d"
        else LayerPlan(name=layer.name, method="none")
        for layer in layers
    )
    plan = planned(plans, linear=linear)
    counted = counted_macs(plan, model, plan.build(model))
    reported = reported_macs(layers, rows(layers, plans))
    assert counted["speedup"] == pytest.approx(reported["speedup" if linear else "conv_speedup"])
    assert (counted["all_before"], counted["all_after"]) == (reported["before"], reported["after"])
    assert any(layer.method != "none" for layer in plans)


class Twice(nn.Module):
    """A head that runs on two maps, as detectors' do, and an upsampling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(16, 16, 2, stride=2), nn.Linear(16, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run."""
        maps = self.head(self.head(self.first(images).relu()).relu())
        scores: torch.Tensor = self.last(self.up(maps).mean((2, 3)))
        return scores


@pytest.mark.parametrize("linear", [False, True], ids=["convolutions", "include_linear"])
def test_layers_that_stay_are_counted_as_the_run_counted_them(linear: bool) -> None:
    """A network that was delivered as asked must not fail its own speedup."""
    model = Twice().eval()
    layers = list(inspect_layers(model, SIZE))
    plans = tuple(
        LayerPlan(name=layer.name, method="svd", ranks=(2,))
        if layer.name == "first"
        else LayerPlan(name=layer.name, method="none")
        for layer in layers
    )
    plan = replace(planned(plans, linear=linear), folded=())
    counted = counted_macs(plan, model, plan.build(model))
    reported = reported_macs(layers, rows(layers, plans))
    assert counted["speedup"] == pytest.approx(reported["speedup" if linear else "conv_speedup"])
    assert counted["all_before"] > reported["before"]
    assert counted["speedup"] > counted["all_before"] / counted["all_after"]
