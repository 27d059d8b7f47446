"""A name, weights and a checkpoint become a network; every mistake becomes one line."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from cnncompress import backbones, timm_models, torchvision_models
from cnncompress.checkpoints import described_checkpoint, read_state_dict, strip_prefixes
from cnncompress.errors import CompressError, ModelError, NumericsError, OptionError
from cnncompress.models import available_models, load_network, override, rebuild
from cnncompress.network import IMAGENET_MEAN, Preprocess

SMALL = "squeezenet1_1"  # torchvision's quickest to build


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(1)
    return torchvision_models.build(SMALL, 5)


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module of factories."""
    (tmp_path / "their_nets.py").write_text(
        "from torch import nn\n"
        "class Grey(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())\n"
        "        self.head = nn.Linear(4, 2)\n"
        "def wrong(): return {}\n"
        "def failing(): raise ValueError('no luck\\nsecond line')\n"
        "def with_argument(depth): return Grey()\n"
        "number = 3\n"
        "def prepared():\n"
        "    from cnncompress import Network, Preprocess\n"
        "    plain = Preprocess(resize=None, crop=(32, 32))\n"
        "    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 2))\n"
        "    return Network(name='theirs', model=model, preprocess=plain, categories=('cat', 'dog'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_nets", raising=False)
    return "their_nets"


def save(state: Any, file: Path) -> Path:
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save(state, file)
    return file


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=0)


# Checkpoints


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_checkpoint_comes_back_with_its_class_count(small: nn.Module, tmp_path: Path, suffix: str) -> None:
    network = load_network(SMALL, checkpoint=save(small.state_dict(), tmp_path / f"best{suffix}"))
    assert_same_weights(network.model, small)
    assert not network.model.training
    assert network.model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert network.source == {"kind": "torchvision", "name": SMALL, "num_classes": 5}
    assert re.fullmatch(rf"checkpoint best\{suffix} \(sha256 [0-9a-f]{{12}}\)", network.weights)
    assert network.features == "features"


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        prefixed("module."),
        prefixed("model."),
        prefixed("_orig_mod."),
        prefixed("_orig_mod.module."),
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": prefixed("module.")(state)},
    ],
)
def test_wrappers_are_taken_off(wrap: Any, small: nn.Module, tmp_path: Path) -> None:
    network = load_network(SMALL, checkpoint=save(wrap(small.state_dict()), tmp_path / "a.pth"))
    assert_same_weights(network.model, small)


def test_a_prefix_the_network_itself_has_stays() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)

    assert strip_prefixes(Wrapped().state_dict(), Wrapped()).keys() == {"model.weight", "model.bias"}


def test_half_precision_becomes_single(small: nn.Module, tmp_path: Path) -> None:
    state = {key: value.half() for key, value in small.state_dict().items()}
    model = load_network(SMALL, checkpoint=save(state, tmp_path / "a.pth")).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_missing_and_unexpected_names_are_listed_in_one_line(small: nn.Module, tmp_path: Path) -> None:
    state = dict(small.state_dict())
    state["features.0.extra"] = state.pop("features.0.bias")
    with pytest.raises(
        ModelError, match=r"1 missing \(features\.0\.bias\); 1 unexpected \(features\.0\.extra\)"
    ) as e:
        load_network(SMALL, checkpoint=save(state, tmp_path / "a.pth"))
    assert "\n" not in str(e.value)


def test_a_checkpoint_of_another_network_is_refused(small: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"doesn't fit this network: .*missing.*unexpected"):
        load_network("mobilenet_v2", checkpoint=save(small.state_dict(), tmp_path / "a.pth"))
    state = {**small.state_dict(), "features.0.bias": torch.zeros(3)}
    with pytest.raises(ModelError, match=r"another shape \(features\.0\.bias \(3,\), expected \(64,\)\)"):
        load_network(SMALL, checkpoint=save(state, tmp_path / "b.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nn.Linear(2, 2), r"save model\.state_dict\(\)"),
        ([torch.zeros(2)], "expected a state dict, found list"),
        ({}, "expected a state dict"),
        ({"epoch": 3}, "'epoch' is int"),
    ],
)
def test_files_without_a_state_dict_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read_state_dict(save(content, tmp_path / "a.pth"))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_absent_and_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{name}: no such file"):
        read_state_dict(tmp_path / name)
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(ModelError, match=f"checkpoint .*{name}") as caught:
        read_state_dict(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, small: nn.Module, tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in small.state_dict().items()}
    state["features.3.squeeze.weight"][0, 0] = value
    with pytest.raises(
        NumericsError, match=r"1 of 1024 values of features\.3\.squeeze\.weight are NaN or inf"
    ):
        load_network(SMALL, checkpoint=save(state, tmp_path / "a.pth"))


# Names


def test_random_weights_say_so_and_repeat() -> None:
    state = torch.random.get_rng_state()
    first, second = (load_network(SMALL, weights="none", num_classes=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same_weights(first.model, second.model)
    assert first.model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert any("random" in note for note in first.notes)
    assert not first.categories


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg61", "did you mean .*vgg16"),
        ("vgg16-elvp", "did you mean vgg16-elpv"),
        ("Ω", "unknown model 'Ω'; known: "),
    ],
)
def test_unknown_names_get_suggestions(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_network(name)


def test_all_listed_names_are_known() -> None:
    assert {"vgg16", "alexnet", "resnet50", "vgg16-elpv", "alexnet-elpv"} <= set(available_models())
    assert "fasterrcnn_resnet50_fpn" not in available_models()


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 3},
        {"num_classes": 0, "weights": "none"},
        {"checkpoint": Path("a.pth"), "weights": "none"},
        {"input_size": 0, "weights": "none"},
        {"mean": (0.5,), "weights": "none"},
        {"std": (0.5, 0.5, 0.0), "weights": "none"},
    ],
)
def test_options_out_of_range_or_against_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        load_network(SMALL, **options)


def test_the_input_size_keeps_its_proportion_to_the_size_before_the_crop() -> None:
    network = load_network(SMALL, weights="none", input_size=112, mean=(0.5, 0.5, 0.5))
    assert network.input_size == (3, 112, 112)
    assert network.preprocess.resize == 128
    assert network.preprocess.mean == (0.5, 0.5, 0.5)
    assert network.preprocess.std == Preprocess().std
    assert override(Preprocess(resize=None), input_size=32).resize is None


# torchvision without its server


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No server answers; the backbone comes from a stand-in; TORCH_HOME is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision_models, "is_reachable", lambda url: False)
    monkeypatch.setattr(timm_models, "is_reachable", lambda url: False)
    monkeypatch.setattr(
        torchvision_models,
        "backbone_weights",
        lambda name, report: backbones.build_backbone(name).state_dict(),
    )
    return tmp_path


def test_vgg16_falls_back_to_its_convolutions_and_says_so(offline: Path) -> None:
    network = load_network("vgg16", input_size=64)
    assert network.model(torch.zeros(1, 3, 64, 64)).shape == (1, 512, 2, 2)
    assert network.features == "features"
    assert network.source == {"kind": "torchvision", "name": "vgg16", "head": "none"}
    (note,) = network.notes
    assert "without the classifier" in note
    assert "vgg16-397923af.pth can't be reached" in note
    assert rebuild(network.source).state_dict().keys() == network.model.state_dict().keys()


@pytest.mark.parametrize(("name", "weights"), [("resnet18", "default"), ("vgg16", "IMAGENET1K_V1")])
def test_other_weights_name_the_address_and_the_ways_out(name: str, weights: str, offline: Path) -> None:
    with pytest.raises(
        ModelError, match=rf"pytorch\.org/models/{name}-.*TORCH_HOME.*--checkpoint.*--weights none"
    ):
        load_network(name, weights=weights)


def test_weights_in_torch_hubs_cache_need_no_server(offline: Path) -> None:
    model = torchvision_models.build(SMALL, None)
    folder = offline / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    file = save(model.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    network = load_network(SMALL)
    assert_same_weights(network.model, model)
    assert len(network.categories) == 1000
    assert network.preprocess == Preprocess(mean=IMAGENET_MEAN)
    assert "SqueezeNet1_1_Weights.IMAGENET1K_V1" in network.weights
    file.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="delete it to download it again"):
        load_network(SMALL)


def test_weights_are_downloaded_into_torch_hubs_cache(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torchvision_models.build(SMALL, None)

    def download(url: str, target: Path, *, sha256: str, report: object) -> Path:
        assert url == "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
        assert sha256 == "b8a52dc0"
        target.parent.mkdir(parents=True)
        return save(model.state_dict(), target)

    monkeypatch.setattr(torchvision_models, "is_reachable", lambda url: True)
    monkeypatch.setattr(torchvision_models, "download", download)
    assert_same_weights(load_network(SMALL).model, model)
    assert [file.name for file in (offline / "hub" / "checkpoints").iterdir()] == [
        "squeezenet1_1-b8a52dc0.pth"
    ]


def test_unknown_weights_name_the_known_ones() -> None:
    with pytest.raises(ModelError, match="IMAGENET1K_V1"):
        load_network("resnet18", weights="IMAGENET1K_V9")


# Factories


def test_a_factory_is_called_and_its_channels_are_seen(factories: str, tmp_path: Path) -> None:
    network = load_network(f"{factories}:Grey")
    assert not network.model.training
    assert network.input_size == (1, 224, 224)
    assert network.features == "features"
    assert network.source == {"kind": "factory", "factory": f"{factories}:Grey"}
    assert any("assumed" in note for note in network.notes)
    file = save(network.model.state_dict(), tmp_path / "grey.safetensors")
    assert_same_weights(load_network(f"{factories}:Grey", checkpoint=file).model, network.model)


def test_a_factory_may_say_how_its_input_is_prepared(factories: str, tmp_path: Path) -> None:
    network = load_network(f"{factories}:prepared")
    assert network.preprocess == Preprocess(resize=None, crop=(32, 32))
    assert network.categories == ("cat", "dog")
    assert not network.notes
    assert network.source == {"kind": "factory", "factory": f"{factories}:prepared"}
    file = save(network.model.state_dict(), tmp_path / "own.safetensors")
    loaded = load_network(f"{factories}:prepared", checkpoint=file)
    assert loaded.weights.startswith("checkpoint own.safetensors (sha256 ")
    assert_same_weights(loaded.model, network.model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", r"wrong\(\) must return a torch\.nn\.Module, got dict"),
        ("failing", r"failing\(\) failed \(ValueError: no luck\)"),
        ("with_argument", r"TypeError: .*depth"),
        ("absent", "can't be imported .AttributeError"),
        ("number", "expected a callable .* found int"),
        ("", "can't be imported"),
    ],
)
def test_factories_that_fail_say_how(name: str, message: str, factories: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_network(f"{factories}:{name}")
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"no_such_module:build: can't be imported .ModuleNotFoundError"):
        load_network("no_such_module:build")


# Recipes


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "torchvision", "name": SMALL, "num_classes": None},
        {"kind": "torchvision", "name": "inception_v3", "num_classes": 7},
        {"kind": "torchvision", "name": "googlenet", "num_classes": 7},
        {"kind": "zoo", "name": "alexnet-elpv", "num_classes": None},
    ],
)
def test_a_recipe_gives_the_same_architecture(source: dict[str, Any]) -> None:
    loaded = load_network(source["name"], weights="none", num_classes=source["num_classes"])
    assert loaded.source == source
    model = rebuild(source)
    assert not model.training
    assert_same_weights(model, loaded.model)


@pytest.mark.parametrize("source", [{"kind": "object"}, {"kind": "factory", "factory": "os:getcwd"}])
def test_recipes_never_run_the_users_code(source: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="pass the model yourself"):
        rebuild(source)


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"kind": "evil", "name": "vgg16"},
        {"kind": "torchvision", "name": 3},
        {"kind": "torchvision", "name": "vgg61"},
        {"kind": "torchvision", "name": "resnet18", "head": "none"},
        {"kind": "torchvision", "name": "vgg16", "num_classes": True},
        {"kind": "zoo", "name": "vgg16"},
    ],
)
def test_recipes_that_are_not_ours_are_refused(source: dict[str, Any]) -> None:
    with pytest.raises(CompressError):
        rebuild(source)


# timm


def test_timm_networks_need_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"pip install 'cnncompress\[timm\]'"):
        load_network("timm:resnet18")


def test_timm_networks(tmp_path: Path, offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", reason="the extra timm isn't installed")
    network = load_network("timm:resnet10t", weights="none", num_classes=3)
    assert network.preprocess.interpolation == "bicubic"
    assert network.features == "layer4"
    assert rebuild(network.source).state_dict().keys() == network.model.state_dict().keys()
    file = save(network.model.state_dict(), tmp_path / "a.safetensors")
    assert_same_weights(load_network("timm:resnet10t", checkpoint=file).model, network.model)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *arguments: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match="did you mean timm:resnet50"):
        load_network("timm:resnet5")
    with pytest.raises(ModelError, match="unknown model 'timm:hf-hub"):
        rebuild({"kind": "timm", "name": "hf-hub:someone/something"})
    with pytest.raises(ModelError, match=r"timm:resnet10t: its weights can't be downloaded.*--weights none"):
        load_network("timm:resnet10t")


def test_checkpoints_of_one_name_are_told_apart_by_their_content(tmp_path: Path) -> None:
    files = [tmp_path / folder / "best.pt" for folder in ("one", "same", "other")]
    for file, content in zip(files, (b"weights", b"weights", b"others"), strict=True):
        file.parent.mkdir()
        file.write_bytes(content)
    one, same, other = map(described_checkpoint, files)
    assert one == same != other
    assert other.startswith("checkpoint best.pt (sha256 ")
