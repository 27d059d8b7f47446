"""The whole run on a tiny network."""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import cnncompress
from cnncompress import compress_model
from cnncompress.decompositions import available
from cnncompress.errors import BudgetError, DataError, ModelError, NumericsError, OptionError, OutputError
from cnncompress.events import LayerDone, StageDone


class Net(nn.Module):
    """A residual network with BatchNorm and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.body = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True),
            nn.Conv2d(24, 24, 3, padding=1),
        )  # fmt: skip
        self.head = nn.Linear(24, 5)

    def forward(self, images):
        x = torch.relu(self.body(self.stem(images)))
        x = torch.relu(x + self.block(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.nn.functional.avg_pool2d(torch.randn(40, 3, 18, 18), 3, stride=1)


OPTIONS = {"speedup": 2.0, "align": 1, "measure": False}


def run(net, data, **options):
    return compress_model(net, data, **(OPTIONS | options))


@pytest.mark.parametrize("method", available())
def test_every_method_meets_the_budget_and_counts_its_costs_right(net, images, method):
    result = run(net, images, method=method, speedup=1.7)
    macs = result.report["macs"]
    assert 1.7 <= macs["conv_speedup"] < 1.85
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result.model(images[:1])
    assert counter.get_total_flops() // 2 == macs["after"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images[:1])
    assert counter.get_total_flops() // 2 == macs["before"]
    assert result.report["params"]["after"] == sum(p.numel() for p in result.model.parameters())


def test_result_is_close_and_made_of_plain_torch_layers(net, images):
    result = run(net, images)
    assert 0 < result.report["fidelity"]["output_relative_error"] < 0.1
    assert result.report["fidelity"]["heldout_images"] == 8
    for module in result.model.modules():
        assert type(module) is Net or type(module).__module__.startswith("torch.")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in result.model.modules())
    assert not result.model.training


def test_callers_model_is_never_changed(net, images):
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    names = [name for name, _ in net.named_modules()]
    run(net, images)
    assert net.training
    assert [name for name, _ in net.named_modules()] == names
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_result_shares_no_memory_with_the_callers_model(net, images):
    result = run(net, images)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        for weight in (*result.model.parameters(), *result.model.buffers()):
            weight.zero_()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_same_seed_same_weights_other_seed_other_images(net, images):
    one, two, three = (run(net, images, seed=seed, images=30) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert one.plan == two.plan
    assert one.plan.data_hash != three.plan.data_hash


def test_saved_network_loads_without_data_and_is_the_same(net, images, tmp_path):
    result = run(net, images)
    folder = result.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "model.onnx", "plan.json", "report.json", "report.html",
    }  # fmt: skip
    loaded = cnncompress.load(folder, model=Net())
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), result.model(images), rtol=0, atol=1e-5)
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["seed"] == 0
    assert plan["data_hash"] == result.report["data_hash"]
    assert plan["options"]["align"] == 1
    assert torch.__version__.startswith(plan["environment"]["torch"])
    with pytest.raises(ModelError, match="pass the model yourself"):
        cnncompress.load(folder)
    with pytest.raises(OutputError, match="plan"):
        cnncompress.load(tmp_path)


def test_report_says_what_happened_to_each_layer(net, images):
    events = []
    report = run(net, images, report=events.append).report
    rows = {row["name"]: row for row in report["layers"]}
    assert rows["stem.0"]["method"] == "gsvd" or "entries" in rows["stem.0"]["reason"]
    assert rows["head"]["method"] == "none"
    assert "linear" in rows["head"]["reason"]
    body = rows["body"]
    assert body["method"] == "gsvd3d"
    assert 0 < body["energy_kept"] <= 1
    assert set(body["errors"]) == {"symmetric linear", "asymmetric linear", "asymmetric nonlinear"}
    assert set(rows["block.3"]["errors"]) == {"symmetric linear", "asymmetric linear"}  # an add follows
    assert body["error_heldout"] == min(body["errors"].values())
    assert sum(row["macs_after"] for row in rows.values()) == report["macs"]["after"]
    assert {event.stage for event in events if isinstance(event, StageDone)} >= {"calibrate", "factorize"}
    assert [event.name for event in events if isinstance(event, LayerDone)] == list(rows)
    assert set(report["timing"]) >= {"calibrate", "factorize", "evaluate", "total"}
    json.dumps(report)


def test_accuracy_is_measured_on_labelled_images(net, images):
    torch.manual_seed(3)
    others = torch.nn.functional.avg_pool2d(torch.randn(30, 3, 18, 18), 3, stride=1)
    with torch.no_grad():
        labels = net(others).argmax(1)
    accuracy = run(net, images, eval_data=(others, labels)).report["accuracy"]
    assert accuracy["n"] == 30
    assert accuracy["top1_before"] == 100
    assert accuracy["drop_top1"] == pytest.approx(100 - accuracy["top1_after"])


def test_evaluation_on_calibration_images_is_refused(net, images):
    with pytest.raises(DataError, match="both"):
        run(net, images, eval_data=(images[5:9], torch.zeros(4, dtype=torch.int64)))


def test_linear_layers_when_asked(net, images):
    result = run(net, images, include_linear=True, method="gsvd", speedup=1.5)
    assert result.report["macs"]["speedup"] >= 1.5
    assert result.report["asked"]["budget"] == "MACs of convolutions and linear layers"


def test_a_plan_can_be_given_by_hand(net, images, tmp_path):
    first = run(net, images)
    folder = first.save(tmp_path / "out")
    again = run(net, images, ranks="manual", manual_plan=str(folder / "plan.json"))
    assert again.plan.layers == first.plan.layers


@pytest.mark.parametrize("speedup", [1, 0, -2, float("nan"), float("inf")])
def test_senseless_speedups(net, images, speedup):
    with pytest.raises(OptionError, match="speedup must be greater than 1"):
        run(net, images, speedup=speedup)


def test_unreachable_speedup(net, images):
    with pytest.raises(BudgetError, match=r"100x can't be reached"):
        run(net, images, speedup=100)


def test_network_without_convolutions(images):
    with pytest.raises(ModelError, match="can replace no layer"):
        run(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), images)


def test_nan_weights_name_the_layer(net, images):
    with torch.no_grad():
        net.body.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match=r"^body: .*NaN"):
        run(net, images)


def test_one_image_is_refused_clearly(net, images):
    with pytest.raises(DataError, match="at least 2"):
        run(net, images[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gsvd3"}, "did you mean gsvd3d"),
        ({"ranks": "gredy"}, "did you mean greedy"),
        ({"ranks": "manual"}, "plan file"),
        ({"holdout": 1.0}, "between 0 and 1"),
        ({"align": 0}, "at least 1"),
        ({"images": 0}, "at least 1"),
        ({"skip": ("nowhere*",)}, "no layer is named like"),
        ({"layer_ranks": {"head": (2,)}}, "not replaced"),
    ],
)
def test_bad_options_say_what_is_right(net, images, options, message):
    with pytest.raises(OptionError, match=message):
        run(net, images, **options)


def test_kinds_of_solutions_are_compared_when_asked(net, images):
    result = run(net, images, compare=True)
    rows = {row["name"]: row for row in result.report["layers"] if row["method"] != "none"}
    for row in rows.values():
        assert set(row["errors_alone"]) == {
            "symmetric linear", "symmetric nonlinear", "asymmetric linear", "asymmetric nonlinear",
        }  # fmt: skip
    first = next(iter(rows.values()))
    assert first["errors_alone"]["symmetric linear"] == pytest.approx(first["errors"]["symmetric linear"])
    assert result.report["timing"]["compare"] > 0
    same = run(net, images)
    assert same.plan.layers == result.plan.layers
    assert all(
        torch.equal(a, b) for a, b in zip(same.model.parameters(), result.model.parameters(), strict=True)
    )
    assert not any(row["errors_alone"] for row in same.report["layers"])
