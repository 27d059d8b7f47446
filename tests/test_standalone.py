"""model.py does what the network does, in plain torch, whatever the network is made of and called."""

import ast
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torchvision import models as torchvision_models
from torchvision.models.resnet import BasicBlock
from torchvision.ops import StochasticDepth

from cnncompress import output
from cnncompress.decompositions import available, make
from cnncompress.events import Event, Note
from cnncompress.export import ExportError, write_safetensors
from cnncompress.layers import (
    ChannelOrder,
    RootModule2d,
    SICBottleneck2d,
    SICConv2d,
    SpatialBottleneck2d,
    TopologicalConv2d,
    UnraveledConv2d,
)
from cnncompress.network import Network, Preprocess
from cnncompress.output import write_results
from cnncompress.standalone import model_source, write_model_file
from cnncompress.standalone.literals import UnwritableError
from cnncompress.standalone.verification import imported, verify
from cnncompress.zoo.registry import build

ALLOWED = {
    "math",
    "operator",
    "sys",
    "collections",
    "collections.abc",
    "pathlib",
    "torch",
    "safetensors.torch",
}
ALLOWED |= {"torch.nn.functional", "PIL"}
SIZE = (3, 32, 32)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., ModuleType]:
    """Writes a network and imports the file."""

    def write(model: nn.Module, size: tuple[int, ...] = SIZE, **options: Any) -> ModuleType:
        write_safetensors(model, tmp_path / "model.safetensors")
        preprocess = options.pop("preprocess", Preprocess(crop=(size[1], size[2]))).to_json()
        file = tmp_path / "model.py"
        write_model_file(
            model, file, tmp_path / "model.safetensors", input_size=size, preprocess=preprocess, **options
        )
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.py", "model.safetensors"]
        return imported(file)

    return write


def text_of(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def leaves(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [leaf for part in parts for leaf in leaves(part)]


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor | None]:
    torch.manual_seed(1)
    model.train()(images.clone())  # a first step: states of BatchNorm must go the same way
    loss = sum((leaf.float() ** 2).mean() for leaf in leaves(model(images.clone())))
    assert isinstance(loss, Tensor)
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def check_twin(model: nn.Module, module: ModuleType, size: tuple[int, ...] = SIZE, batch: int = 3) -> None:
    """The same state, outputs and gradients, and nothing imported that a stranger lacks."""
    again = module.load()
    assert list(again.state_dict()) == list(model.state_dict())
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert not any(part.training for part in again.modules())
    images = torch.randn(batch, *size)
    with torch.no_grad():
        for ours, theirs in zip(leaves(model(images.clone())), leaves(again(images.clone())), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    expected, found = gradients(model, images), gradients(again, images)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    model.eval()
    tree = ast.parse(text_of(module))
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= ALLOWED


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg": lambda: small_vgg(),  # noqa: PLW0108  # defined below
    "resnet": lambda: torchvision_models.ResNet(BasicBlock, [1, 2, 1, 1], num_classes=4),
    "mobilenet_v2": lambda: torchvision_models.MobileNetV2(num_classes=4, width_mult=0.1),
    "densenet": lambda: torchvision_models.DenseNet(4, (2, 3), 8, num_classes=4, drop_rate=0.2),
    "squeezenet": lambda: torchvision_models.squeezenet1_1(num_classes=4),
    "cifar-nin-root-8": lambda: build("cifar-nin-root-8"),
}
LARGE: dict[str, Callable[[], nn.Module]] = {
    "efficientnet": lambda: torchvision_models.efficientnet_b0(num_classes=4),
    "googlenet": lambda: torchvision_models.googlenet(num_classes=4, init_weights=False),
    "shufflenet": lambda: torchvision_models.shufflenet_v2_x0_5(num_classes=4),
    "regnet": lambda: torchvision_models.regnet_y_400mf(num_classes=4),
    "convnext": lambda: torchvision_models.convnext_tiny(num_classes=4),
}


def small_vgg() -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1)
    )
    with torch.device("meta"):  # for its forward: the linear layers are replaced
        model = torchvision_models.VGG(features, init_weights=False)
    model.features = features
    model.classifier = nn.Sequential(nn.Linear(4 * 7 * 7, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 4))
    return model


@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_networks(name: str, written: Callable[..., ModuleType]) -> None:
    torch.manual_seed(0)
    model = (NETWORKS | LARGE)[name]().eval()
    check_twin(model, written(model))


def test_a_vgg_looks_like_a_vgg(written: Callable[..., ModuleType]) -> None:
    text = text_of(written(NETWORKS["vgg"]().eval()))
    assert "class VGG(Block):" in text
    assert "nn.Conv2d(3, 4, 3, padding=1)," in text
    assert "self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))" in text


@pytest.mark.parametrize("name", available())
def test_decompositions(name: str, written: Callable[..., ModuleType], describe: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    method = make(name)
    channels = 3 if name == "monochromatic" else 8
    layer = nn.Conv2d(channels, 8, 3, padding=1)
    info = describe(layer, (channels, 12, 12))
    settings = method.settings(info, 1)
    chain = method.build(info, settings[len(settings) // 2])
    for part in chain.modules():
        if isinstance(part, ChannelOrder):
            part.order = torch.randperm(len(part.order))
    stem = nn.Identity() if channels == 3 else nn.Conv2d(3, channels, 1)
    features = nn.Sequential(OrderedDict(stem=stem, conv=chain, relu=nn.ReLU(inplace=True)))
    model = nn.Sequential(OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
    check_twin(model.eval(), written(model.eval(), (3, 12, 12)), (3, 12, 12))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "order": lambda: ChannelOrder(12),
    "root": lambda: RootModule2d(12, 8, 3, 2, 1, groups=2, hidden=6, norm=True, activation=True),
    "sic": lambda: SICConv2d(12, 12, norm=True),
    "sic even kernel": lambda: SICConv2d(12, 12, 4),
    "sic topological": lambda: SICConv2d(12, 12, pointwise=TopologicalConv2d((3, 4), (2, 2), 1)),
    "sic bottleneck": lambda: SICBottleneck2d(12, norm=True, residual=True),
    "spatial bottleneck": lambda: SpatialBottleneck2d(12, 12, 3, 1, norm=True),
    "unraveled": lambda: UnraveledConv2d(12, 5, 3, bases=2),
    "topological": lambda: TopologicalConv2d((3, 4), (2, 3), 3, padding=1),
    "topological tiles": lambda: TopologicalConv2d((4, 3), (2, 2), 3, 2, 1, bias=False, tile=(2, 3)),
    "topological reordered": lambda: TopologicalConv2d((4, 6), (2, 3), (3, 2), padding="same", tile=(2, 3)),
    "topological circular": lambda: TopologicalConv2d((6, 2), (3, 1), 3, 1, 1, padding_mode="circular"),
    "stochastic depth": lambda: StochasticDepth(0.5, "batch"),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_torch_lacks(name: str, written: Callable[..., ModuleType]) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    channels = 24 if name == "topological reordered" else 12
    if isinstance(layer, ChannelOrder):
        layer.order = torch.randperm(channels)
    model = nn.Sequential(nn.Conv2d(3, channels, 1), layer).eval()
    check_twin(model, written(model, (3, 10, 9)), (3, 10, 9))


def test_layers_of_timm(written: Callable[..., ModuleType]) -> None:
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(
        layers.Conv2dSame(3, 4, (3, 5), stride=2, dilation=(1, 2), bias=False),
        layers.BatchNormAct2d(4),
        layers.DropPath(0.3),
        layers.Conv2dSame(4, 4, 4, stride=3, groups=2),
    ).eval()
    check_twin(model, written(model, (3, 17, 14)), (3, 17, 14))


class Scores(NamedTuple):
    """Two outputs."""

    scores: Tensor
    features: Tensor


class Odd(nn.Module):
    """Everything at once that a forward method may do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding="same", padding_mode="reflect")
        self.again = nn.ModuleList([nn.Conv2d(6, 6, 1, bias=False) for _ in range(3)])
        self.again[2].weight = self.again[0].weight
        self.twin = self.again[1]
        self.scale = nn.Parameter(torch.randn(6, 1, 1))
        self.register_buffer("shift", torch.randn(1, 6, 1, 1))
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("hidden", torch.tensor([0.5, float("inf")]), persistent=False)
        self.constant = torch.tensor([1.5, -2.0])
        self.dropout = 0.5

    def forward(self, images: Tensor, factor: float = 2.0) -> dict[str, Any]:
        """Many small things."""
        if factor > 1:
            images = images * factor
        x = self.conv(images)
        for layer in self.again:
            x = layer(x)
        x = self.twin(x) * self.scale + self.shift
        x -= self.hidden[0] ** -2
        x = functional.dropout(x, self.dropout, training=self.training)
        batch, size = x.shape[0], x.shape[-1]
        first, _middle, last = x.chunk(3, 1)
        y = torch.stack((first, last), dim=1)[:, 0, ..., 1 : size - 1]
        y = -y.reshape(batch, -1, 1) @ torch.ones(1, 2) + self.constant
        half = x[:, ::2].mean((2, 3))
        return {"score 1": half + self.steps, 'a"b\n': [y.amax(1), Scores(half.exp(), y)]}


def test_a_network_that_does_everything(written: Callable[..., ModuleType]) -> None:
    torch.manual_seed(0)
    model = Odd().eval()
    module = written(model, (3, 8, 9))
    check_twin(model, module, (3, 8, 9))
    again = module.load()
    assert again.again[2].weight is again.again[0].weight
    assert again.twin is again.again[1]
    assert len(list(again.parameters())) == len(list(model.parameters()))
    assert type(again(torch.randn(1, 3, 8, 9))['a"b\n'][1])._fields == ("scores", "features")


class Chain(nn.Module):
    """One layer called several times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Three times the body."""
        x = self.stem(x)
        for _ in range(3):
            x = self.body(x) + x
        return x


def test_a_module_called_several_times(written: Callable[..., ModuleType]) -> None:
    model = Chain().eval()
    check_twin(model, written(model))


NAMES = ["for", "0", "a b", "quote\"s'", "new\nline", "é", "ﬁ", "__private", "x)#", "\\", "class"]
EVIL = '"""\nimport pathlib; pathlib.Path("pwned").touch()\n"""\' + str(1/0) + \''


def test_names_cannot_run_code(
    written: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [*NAMES, EVIL.replace(".", " ")]

    class Hostile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = nn.ModuleDict({name: nn.Conv2d(3, 3, 1) for name in names})
            self.free = nn.Module()
            for name in names:
                self.free.add_module(name, nn.Sequential(OrderedDict({name: nn.Conv2d(3, 3, 1)})))
                self.free.register_parameter(f"own {name}", nn.Parameter(torch.ones(1)))

        def forward(self, x: Tensor) -> Tensor:
            for name in names:
                x = self.held[name](x) * getattr(self.free, f"own {name}")
                x = getattr(self.free._modules[name], name)(x)
            return x.mean((2, 3))

    Hostile.__name__ = EVIL
    categories = (EVIL, "\u202etxt.exe", "\ud800")
    model = Hostile().eval()
    header = [f"-*- coding: utf-7 -*-\n{EVIL}", EVIL]
    module = written(model, (3, 4, 4), categories=categories, header=header)
    check_twin(model, module, (3, 4, 4))
    assert categories == module.CATEGORIES
    assert not (tmp_path / "pwned").exists()


PREPARATIONS = [
    Preprocess(resize=24, crop=(20, 22)),
    Preprocess(resize=None, crop=(20, 31)),
    Preprocess(resize=40, crop=(32, 32), interpolation="bicubic", std=(0.3, 0.2, 0.1)),
    Preprocess(resize=16, crop=(24, 17), interpolation="nearest"),
    Preprocess(resize=20, crop=(16, 16), mean=(0.4,), std=(0.2,)),
]


@pytest.mark.parametrize("preprocess", PREPARATIONS)
def test_images_are_prepared_as_ours(
    preprocess: Preprocess, written: Callable[..., ModuleType], rng: np.random.Generator
) -> None:
    size = (len(preprocess.mean), *preprocess.crop)
    module = written(nn.Sequential(nn.Conv2d(size[0], 2, 3)).eval(), size, preprocess=preprocess)
    assert size == module.INPUT_SIZE
    for width, height in ((50, 37), (37, 50), (24, 24), (25, 101), (9, 12)):
        color = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for mode in ("RGB", "L", "RGBA", "P", "CMYK"):
            image = color.convert(mode)
            prepared = module.preprocess(image)
            assert prepared.dtype == torch.float32
            torch.testing.assert_close(prepared, preprocess(image), rtol=1e-5, atol=1e-5)


def test_the_file_says_what_it_sees(
    written: Callable[..., ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    module = written(model, (3, 12, 12), categories=("cat", "dog", "fox"))
    image = Image.new("RGB", (20, 30), (200, 30, 60))
    image.save(tmp_path / "image.png")
    module.main([str(tmp_path / "image.png")])
    with torch.no_grad():
        best = int(model(Preprocess(crop=(12, 12))(image)[None]).argmax())
    first = capsys.readouterr().out.splitlines()[1]
    assert repr(("cat", "dog", "fox")[best]) in first
    with pytest.raises(SystemExit, match="usage"):
        module.main([])


def test_the_same_network_gives_the_same_text() -> None:
    def text() -> str:
        torch.manual_seed(0)
        return model_source(Odd().eval(), input_size=SIZE, preprocess=Preprocess().to_json())

    assert text() == text()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(6, 2)).to(dtype).eval()
    text = model_source(model, input_size=SIZE, preprocess=Preprocess().to_json())
    assert text.count(f"dtype={dtype}") == 3


class Lists(nn.Module):
    """Treats lists in another way than tensors."""

    def forward(self, x: Any) -> Tensor:
        """Sum of a list, or the tensor."""
        return sum(x[1:], start=x[0]) if isinstance(x, list) else x + 1


class CallsLists(nn.Module):
    """Gives a module a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lists = nn.Conv2d(3, 3, 1), Lists()

    def forward(self, x: Tensor) -> Tensor:
        """A sum."""
        return self.lists([self.conv(x), x])


def test_a_module_that_looks_at_its_arguments_is_traced_where_it_is_called(
    written: Callable[..., ModuleType],
) -> None:
    model = CallsLists().eval()
    check_twin(model, written(model))


class Forked(nn.Module):
    """Depends on its data."""

    def forward(self, x: Tensor) -> Tensor:
        """One of two."""
        return x if float(x.sum()) > 0 else -x


class Counting(nn.Module):
    """Gives another output each time, which no graph shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 3, 1), 0

    def forward(self, x: Tensor) -> Tensor:
        """Grows with each call."""
        self.calls += 1
        return self.conv(x) * self.calls


class Baked(nn.Module):
    """Has the shape of one batch in its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A view of one image while it is traced."""
        if isinstance(x, fx.Proxy):
            return self.conv(x).view(1, 3, *SIZE[1:])
        return self.conv(x)


class Foreign(nn.Module):
    """Calls what plain torch lacks."""

    def forward(self, x: Tensor) -> Tensor:
        """Through a wrapped function."""
        return foreign(x)


class Frozen(nn.Module):
    """Learns nothing in its first layer, which no graph shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Without a gradient."""
        with torch.no_grad():
            x = self.conv(x)
        return x * x


class Chancy(nn.Module):
    """Draws a number that a graph has once and for all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Rarely leaves the layer out while it trains."""
        if self.training and torch.rand(()).item() < 1e-9:
            return x
        return self.conv(x)


class Remembering(nn.Module):
    """Replaces a buffer while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        """Without a trace in the output."""
        y = self.conv(x)
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * y.detach().mean((0, 2, 3))
        return y


def foreign(x: Tensor) -> Tensor:
    return x * 2


fx.wrap("foreign")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Forked(), "can't trace"),
        (Counting(), "differs by"),
        (Baked(), "fails at batch 3"),
        (Foreign(), "foreign, which plain torch lacks"),
        (Frozen(), "in its gradients"),
        (Chancy(), "random numbers in training mode"),
        (Remembering(), "assigns to the buffer 'seen'"),
        (parametrizations.spectral_norm(nn.Conv2d(3, 3, 1)), "can.t trace it"),
        (nn.Conv2d(3, 3, 1).double(), "fails while it is written"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(model: nn.Module, reason: str, tmp_path: Path) -> None:
    write_safetensors(model, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=reason) as caught:
        write_model_file(
            model.eval(),
            tmp_path / "model.py",
            tmp_path / "model.safetensors",
            input_size=SIZE,
            preprocess=Preprocess().to_json(),
        )
    assert str(caught.value).startswith(str(tmp_path / "model.py"))
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("nn.ReLU()", "nn.ReLU6()", "differs by"),
        ("nn.Dropout(p=0.25)", "nn.Dropout(p=0.3)", "in training mode"),
        ("nn.Linear(4, 3)", "nn.Linear(4, 5)", "fails"),
        ("torch.flatten(", "torch.ravel(", "fails"),
        ("nn.AdaptiveAvgPool2d(1)", "nn.AvgPool2d(30)", "64 x 64"),
    ],
)
def test_every_difference_is_found(old: str, new: str, reason: str, tmp_path: Path) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()
            self.pool, self.drop = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.25)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.drop(torch.flatten(self.pool(self.relu(self.conv(x * 9))), 1)))

    torch.manual_seed(0)
    model = Small().eval()
    write_safetensors(model, tmp_path / "model.safetensors")
    text = model_source(model, input_size=SIZE, preprocess=Preprocess().to_json())
    file = tmp_path / "any name.txt"
    file.write_text(text)
    verify(model, file, tmp_path / "model.safetensors", SIZE)
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(UnwritableError, match=reason):
        verify(model, file, tmp_path / "model.safetensors", SIZE)


@pytest.fixture
def network() -> Network:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return Network(name="tiny", model=model, preprocess=Preprocess(resize=None, crop=(8, 6)))


def test_results_hold_the_file_and_may_be_replaced(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "render_html", lambda report: "")
    monkeypatch.setattr(output, "write_onnx", lambda *arguments, **options: None)
    report = {"schema": 1, "environment": {"cnncompress": "9", "torch": "8"}, "created": "2026-11-21"}
    texts = []
    for _ in range(2):
        folder = write_results(
            tmp_path / "out", network.model, {"schema": 1}, report, network, overwrite=True
        )
        texts.append((folder / "model.py").read_text())
    assert texts[0] == texts[1]
    assert "# Network: tiny" in texts[0]
    check_twin(network.model, imported(folder / "model.py"), (3, 8, 6))


def test_results_without_the_file_say_so(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "render_html", lambda report: "")
    monkeypatch.setattr(output, "write_onnx", lambda *arguments, **options: None)
    events: list[Event] = []
    report = {"schema": 1, "notes": ["a"]}
    folder = write_results(tmp_path / "out", Foreign().eval(), {}, report, network, progress=events.append)
    notes = json.loads((folder / "report.json").read_text())["notes"]
    assert [note for note in notes if note.startswith("no model.py: model.py: it calls ")]
    assert any(isinstance(event, Note) and "no model.py" in event.message for event in events)
    assert not (folder / "model.py").exists()


@pytest.mark.parametrize("model", [Odd(), Chain(), nn.Sequential(nn.Conv2d(3, 2, 1)), ChannelOrder(3)])
def test_the_text_has_no_idle_imports_and_no_unknown_names(model: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(model_source(model, input_size=SIZE, preprocess=Preprocess().to_json()), encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own file
    assert found.returncode == 0, found.stdout


def test_dropout_of_maps_is_the_same_whatever_the_memory_format(written: Callable[..., ModuleType]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 4, 1))
    assert "Dropout" in text_of(written(net.to(memory_format=torch.channels_last).eval()))


class TrainsByHalves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        if self.training and images.shape[0] > 4:
            return self.layer(images) / 2
        return self.layer(images)


def test_what_trains_otherwise_for_some_images_is_refused(written: Callable[..., ModuleType]) -> None:
    with pytest.raises(ExportError, match="trace"):
        written(TrainsByHalves().eval())
