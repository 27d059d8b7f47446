"""The register of the papers' networks, and where their names are taken."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as nnf
from torch.utils.flop_counter import FlopCounterMode

from cnncompress.cli import main
from cnncompress.errors import ModelError, OptionError
from cnncompress.layers import TopologicalConv2d
from cnncompress.model_list import listed_models
from cnncompress.models import available_models, load_network, rebuild
from cnncompress.zoo import registry
from cnncompress.zoo.costs import Cost, layer_costs, network_cost, total

NAME = "nin-root-8"


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    registry.names()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


# The register


@pytest.mark.usefixtures("register")
def test_a_builder_is_registered_by_a_decorator_and_stays_as_it_is() -> None:
    def tiny(classes: int) -> nn.Module:
        return nn.Linear(4, classes)

    describe = registry.network("tiny", input_size=(3, 8, 8), classes=5, reference="a test")
    assert describe(tiny) is tiny
    assert "tiny" in registry.names()
    assert registry.build("tiny").out_features == 5
    assert registry.build("tiny", 2).out_features == 2
    entry = registry.entry("tiny")
    assert (entry.input_size, entry.classes, entry.reference) == ((3, 8, 8), 5, "a test")
    with pytest.raises(OptionError, match="'tiny' is registered already"):
        describe(tiny)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nin-root-9", r"unknown network 'nin-root-9'; did you mean .*nin-root-"), ("Ω", "known: ")],
)
def test_unknown_names_get_suggestions(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        registry.entry(name)
    with pytest.raises(ModelError, match=message):
        registry.build(name)


def test_classes_must_be_positive_and_have_a_classifier_to_go_to() -> None:
    with pytest.raises(OptionError, match="nin-root-8: 0 classes were asked for, but it needs at least 1"):
        registry.build(NAME, 0)
    with pytest.raises(OptionError, match=r"mattnet-conv2: 10 classes .* ends in a feature map"):
        registry.build("mattnet-conv2", 10)


def test_small_inputs_are_prepared_as_for_cifar_and_large_ones_as_for_imagenet() -> None:
    small, large = (registry.entry(name).preprocess for name in (NAME, "spp-10"))
    assert (small.resize, small.crop, small.mean) == (32, (32, 32), registry.CIFAR_MEAN)
    assert (large.resize, large.crop) == (256, (224, 224))


def test_every_entry_has_a_reference_and_a_size_that_its_preprocessing_makes() -> None:
    for name in registry.names():
        entry = registry.entry(name)
        assert entry.reference
        assert entry.input_size == (len(entry.preprocess.mean), *entry.preprocess.crop)


# Costs


class Everything(nn.Module):
    """A layer of each kind that is counted, one of them run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.grid = TopologicalConv2d((2, 4), (1, 2), 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2)
        self.rows = nn.Linear(13, 5)
        self.unused = nn.Linear(5, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = nnf.relu(self.grouped(self.grouped(self.conv(images))))
        return self.rows(self.up(self.grid(features)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_costs_agree_with_torchs_flop_counter(device: str) -> None:
    model = Everything().to(device).eval()
    costs = layer_costs(model, (3, 11, 12))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 11, 12, device=device))
    assert total(costs.values()).macs == counter.get_total_flops() / 2
    assert "unused" not in costs
    assert costs["rows"].params == 13 * 5 + 5
    assert costs["grouped"].params == 8 * 2 * 9 + 8


@pytest.mark.parametrize("name", [NAME, "resnet50-root-16", "googlenet-root-4"])
def test_costs_of_networks_agree_with_torchs_flop_counter(name: str) -> None:
    with torch.device("meta"):
        model = registry.build(name).eval()
        images = torch.zeros(1, *registry.entry(name).input_size)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert network_cost(name).macs == counter.get_total_flops() / 2


def test_counting_leaves_the_network_as_it_was() -> None:
    model = registry.build(NAME).train()
    model.features.norm1a.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layer_costs(model, (3, 32, 32))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (model.training, model.features.norm1a.training) == (True, False)
    assert not any(module._forward_hooks for module in model.modules())
    assert total([]) == Cost(0, 0)


# Names elsewhere


def test_networks_load_with_random_weights_and_say_so() -> None:
    network = load_network(NAME)
    assert network.source == {"kind": "paper", "name": NAME, "num_classes": None}
    assert network.input_size == (3, 32, 32)
    assert network.features == "features"
    assert network.weights == "random (seed 0)"
    random, remedy = network.notes
    assert "random" in random
    assert "no trained weights of nin-root-8" in remedy
    assert "--checkpoint" in remedy
    assert not network.model.training
    assert network.model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert rebuild(network.source).state_dict().keys() == network.model.state_dict().keys()


def test_the_seed_and_the_classes_are_the_callers() -> None:
    first, same, other = (load_network(NAME, num_classes=3, seed=seed).model for seed in (1, 1, 2))
    assert first(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert torch.equal(first.conv3c.weight, same.conv3c.weight)
    assert not torch.equal(first.conv3c.weight, other.conv3c.weight)


def test_a_checkpoint_comes_back_with_its_class_count(tmp_path: Path) -> None:
    model = registry.build(NAME, 4)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    network = load_network(NAME, checkpoint=tmp_path / "a.safetensors")
    assert network.source["num_classes"] == 4
    assert torch.equal(network.model.conv3c.weight, model.conv3c.weight)
    assert not network.notes


def test_other_weights_are_refused_with_the_way_out() -> None:
    with pytest.raises(
        ModelError, match=r"unknown weights of nin-root-8 'IMAGENET1K_V1'; .*--checkpoint FILE"
    ):
        load_network(NAME, weights="IMAGENET1K_V1")


def test_near_misses_are_answered_with_the_papers_networks() -> None:
    assert set(registry.names()) <= set(available_models())
    with pytest.raises(ModelError, match=r"did you mean .*nin-root-8"):
        load_network("nin-root8")


def test_models_are_listed_with_their_costs() -> None:
    lines = run("models", "nin*").stdout.splitlines()
    assert len(lines) == 1 + 13
    (line,) = (line for line in lines if line.startswith("nin-root-8 "))
    assert line.split()[:6] == [NAME, "3x32x32", "103", "M", "315", "k"]
    assert line.endswith("Ioannou et al., Deep Roots, table 2")
    listed = json.loads(run("models", "nin-root-8", "--json").stdout)
    assert listed[NAME]["macs"] == network_cost(NAME).macs
    assert listed[NAME]["input_size"] == [3, 32, 32]


def test_torchvisions_and_the_demos_networks_are_listed_with_known_costs() -> None:
    (vgg,) = listed_models("vgg16")
    assert (vgg.macs, vgg.params, vgg.reference) == (15_470_000_000, 138_357_544, "torchvision")
    (demo,) = listed_models("vgg16-elpv")
    assert demo.macs == 15_346_630_656 + 2 * 1024


def test_inspect_takes_a_name() -> None:
    result = run("inspect", NAME, "--no-methods")
    assert result.exit_code == 0
    assert "nin-root-8 at 3x32x32: 103 M MACs an image; " in result.stdout
