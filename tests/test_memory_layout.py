"""Networks run in channels_last where they can, and in the contiguous format where they must."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from cnncompress import compress_model, load
from cnncompress.cli import main
from cnncompress.errors import ModelError
from cnncompress.events import Note
from cnncompress.inspect import inspect_layers
from cnncompress.measure import latencies
from cnncompress.memory_layout import CONTIGUOUS_NOTE, faster_layout, layout_of
from cnncompress.sensitivity import sensitivities

SIZE = (3, 8, 8)
OPTIONS = {"speedup": 1.5, "align": 1, "method": "gsvd3d"}


class Net(nn.Module):
    """Convolutions, a way to flatten, and a classifier."""

    def __init__(self, flatten=torch.nn.Flatten(1), **conv):  # noqa: B008  # has no state
        super().__init__()
        self.flatten = flatten
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, **conv), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1, **conv), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Linear(12 * 4 * 4, 5)

    def forward(self, images):
        return self.head(self.flatten(self.body(images)))


def viewed(x):
    return x.view(x.size(0), -1)


def merged(x):
    # with one image alone this is possible in both formats
    return x.view(x.shape[0] * x.shape[1], -1).reshape(x.shape[0], -1)


def channels_behind(x):
    return x.permute(0, 2, 3, 1).view(len(x), -1)


def blind(x):
    """Reads the memory as it lies, without an error but to another output."""
    return x.as_strided((len(x), x[0].numel()), (x[0].numel(), 1))


def net(flatten, seed=0, **conv):
    torch.manual_seed(seed)
    return Net(flatten, **conv).eval()


def flattened(x):
    return torch.flatten(x, 1)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.nn.functional.avg_pool2d(torch.randn(30, 3, 10, 10), 3, stride=1)


@pytest.mark.parametrize(
    ("flatten", "layout"),
    [
        (flattened, torch.channels_last),
        (viewed, torch.contiguous_format),
        (merged, torch.contiguous_format),
        (blind, torch.contiguous_format),
        (channels_behind, torch.channels_last),
    ],
)
def test_the_faster_layout_is_one_in_which_the_output_is_right(flatten, layout):
    assert faster_layout(net(flatten), SIZE) is layout
    # a mistake with one constant feature map after the other would not be seen on zeros
    assert faster_layout(net(flatten, bias=False), SIZE) is layout


@pytest.mark.parametrize("flatten", [flattened, viewed])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_numbers(flatten, dtype):
    expected = torch.channels_last if flatten is flattened else torch.contiguous_format
    assert faster_layout(net(flatten).to(dtype), SIZE) is expected


def test_networks_that_take_one_image_only():
    assert faster_layout(net(lambda x: x.reshape(1, 192)), SIZE) is torch.channels_last
    assert faster_layout(net(lambda x: x.permute(2, 3, 0, 1).reshape(1, 192)), SIZE) is torch.channels_last
    assert faster_layout(net(lambda x: x.view(192)), SIZE) is torch.contiguous_format


def test_several_outputs_are_all_compared():
    class Two(Net):
        def forward(self, images):
            x = self.body(images)
            return {"mean": x.mean((2, 3)), "more": [self.flatten(x), None]}

    assert faster_layout(Two(flattened), SIZE) is torch.channels_last
    assert faster_layout(Two(blind), SIZE) is torch.contiguous_format


@pytest.mark.parametrize("flatten", [flattened, viewed])
def test_the_callers_network_is_left_as_it_was(flatten):
    model = net(flatten).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    strides = [parameter.stride() for parameter in model.parameters()]
    drawn = torch.get_rng_state()
    faster_layout(model, SIZE)
    assert model.training
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize(
    "model",
    [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(3, 4, 2),
        nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1)),
    ],
)
def test_the_layout_that_a_network_was_put_in_is_read_off_its_weights(model):
    assert layout_of(model) is torch.contiguous_format
    for layout in (torch.channels_last, torch.contiguous_format):
        assert layout_of(model.to(memory_format=layout)) is layout


@pytest.mark.parametrize("model", [nn.Linear(3, 4), nn.ReLU(), nn.Conv2d(1, 4, 1)])
def test_networks_that_cannot_tell_count_as_contiguous(model):
    assert layout_of(model.to(memory_format=torch.channels_last)) is torch.contiguous_format


@pytest.mark.parametrize("flatten", [lambda x: torch.flatten(x, 1)[:, 1:], lambda x: x.nonsense])
def test_broken_networks_give_one_line(flatten, images):
    for call in (
        lambda: faster_layout(net(flatten), SIZE),
        lambda: compress_model(net(flatten), images),
        lambda: latencies(net(flatten), net(flattened), SIZE),
    ):
        with pytest.raises(ModelError, match=r"fails on an input of shape \(1, 3, 8, 8\): .") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_capable_network_runs_in_channels_last_at_every_stage(images, monkeypatch):
    stages, model = {}, net(flattened)
    stage = "before"

    def listen(event):
        nonlocal stage
        stage = getattr(event, "stage", stage)

    original = nn.Conv2d.forward

    def forward(layer, x):
        if x.shape[1:] == SIZE:
            stages.setdefault(stage, set()).add(not x.is_contiguous())
        return original(layer, x)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    result = compress_model(
        model, images, report=listen, measure=False, finetune="upper", epochs=1, only=["body.3"], **OPTIONS
    )
    assert CONTIGUOUS_NOTE not in result.network.notes
    for name in ("calibrate", "factorize", "evaluate"):
        assert stages[name] == {True}, name
    assert layout_of(result.model) is torch.channels_last


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compare": True},
        {"finetune": "upper", "epochs": 1, "only": ["body.3"]},
    ],
)
def test_results_are_those_of_the_same_network_with_flatten(images, options):
    chosen = OPTIONS | {"measure": False} | options
    notes = []
    result = compress_model(net(viewed), images, report=notes.append, **chosen)
    expected = compress_model(net(flattened), images, **chosen)
    assert Note(CONTIGUOUS_NOTE) in notes
    assert CONTIGUOUS_NOTE in result.report["notes"]
    assert [layer.ranks for layer in result.plan.layers] == [layer.ranks for layer in expected.plan.layers]
    assert layout_of(result.model) is torch.contiguous_format
    with torch.no_grad():
        torch.testing.assert_close(result.model(images), expected.model(images), rtol=1e-3, atol=1e-4)
    error, other = (r.report["fidelity"]["output_relative_error"] for r in (result, expected))
    assert error == pytest.approx(other, rel=1e-2)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_derivatives_are_taken_in_the_networks_layout(layout, images, tensor_source):
    model = net(viewed if layout is torch.contiguous_format else flattened).to(memory_format=layout)
    expected = net(flattened)
    found = [
        sensitivities(m, inspect_layers(expected, SIZE), tensor_source(images[:4])) for m in (model, expected)
    ]
    for name, squared in found[0].items():
        torch.testing.assert_close(squared, found[1][name], rtol=1e-3, atol=1e-9)


def test_a_network_with_view_is_timed_saved_loaded_and_benched(images, tmp_path, monkeypatch):
    result = compress_model(net(viewed), images, measure=True, allow_slower=True, **OPTIONS)
    assert result.report["latency"][0]["ms_after"] > 0
    folder = result.save(tmp_path / "out")
    assert (folder / "model.onnx").exists()
    loaded = load(folder, net(viewed, seed=7))
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), result.model(images))
    (one,) = latencies(net(viewed), loaded, SIZE, repeats=1)
    assert one.ms_before > 0

    monkeypatch.setattr("cnncompress.cli.bench._original", lambda *_: net(viewed))
    ran = CliRunner().invoke(main, ["bench", str(folder), "--repeats", "1", "--json", "-q"])
    assert ran.exit_code == 0, ran.output
    assert [line["runtime"] for line in json.loads(ran.stdout)["latency"]] == ["torch", "onnxruntime"]
