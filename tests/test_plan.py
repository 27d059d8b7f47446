"""A plan survives JSON and rebuilds the architecture without data."""

import json

import pytest
import torch
from torch import nn

from cnncompress.errors import CompressError, ModelError, OutputError
from cnncompress.plan import LayerPlan, Plan


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 5),
    )  # fmt: skip


@pytest.fixture
def plan():
    return Plan(
        network="tiny",
        source={"kind": "object"},
        input_size=(3, 6, 6),
        folded=(("0", "1"),),
        layers=(
            LayerPlan(name="0", method="none", reason="small"),
            LayerPlan(name="3", method="gsvd3d", ranks=(4, 6), options={"symmetric": True}),
            LayerPlan(name="6", method="svd", ranks=(2,)),
        ),
        options={"speedup": 4.0},
        seed=3,
        data_hash="ab",
    )


def test_round_trip_through_a_file(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan.to_json()))
    assert Plan.read(path) == plan


def test_build_gives_plain_layers_and_leaves_the_model(plan):
    model = network()
    built = plan.build(model)
    assert built(torch.randn(2, 3, 6, 6)).shape == (2, 5)
    assert [tuple(part.kernel_size) for part in built[3]] == [(3, 1), (1, 3), (1, 1)]
    assert isinstance(built[1], nn.Identity)
    assert built[0].bias is not None
    assert isinstance(model[3], nn.Conv2d)
    assert {type(module).__module__.split(".")[0] for module in built.modules()} == {"torch"}


def test_another_network_is_refused(plan):
    with pytest.raises(ModelError, match="6: the plan names this layer"):
        plan.build(network()[:5])


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: v.update(schema=99),
        lambda v: v.pop("layers"),
        lambda v: v.update(layers=[{"name": 3}]),
        lambda v: v.update(layers=[{"name": "3", "method": "svd", "ranks": ["x"]}]),
        lambda v: v.update(surprise=1),
        lambda v: v.update(input_size=[3]),
        lambda v: v.update(folded=[["a"]]),
    ],
)
def test_damaged_plans_are_refused(plan, tmp_path, damage):
    value = json.loads(json.dumps(plan.to_json()))
    damage(value)
    (tmp_path / "plan.json").write_text(json.dumps(value))
    with pytest.raises(OutputError, match="plan"):
        Plan.read(tmp_path / "plan.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}'])
def test_what_is_no_plan_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(OutputError, match="plan"):
        Plan.read(tmp_path / "plan.json")


@pytest.mark.parametrize(
    "change", [{"method": "unheard"}, {"ranks": (0, 1)}, {"ranks": (1,)}, {"options": {"x": 1}}]
)
def test_impossible_layers_are_refused_when_built(plan, change):
    fields = {"name": "3", "method": "gsvd3d", "ranks": (4, 6), "options": {}} | change
    bad = Plan(network="tiny", source={}, input_size=(3, 6, 6), layers=(LayerPlan(**fields),))
    with pytest.raises(CompressError):
        bad.build(network())
