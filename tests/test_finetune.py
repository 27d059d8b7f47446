"""Only what lies above the compressed layers is trained, and never for the worse."""

import copy

import pytest
import torch
from torch import nn

from cnncompress import compress_model
from cnncompress.errors import ModelError, OptionError
from cnncompress.events import StageAdvanced, StageDone, StageStarted
from cnncompress.finetune import finetune_upper, layers_above
from cnncompress.folding import copy_sharing_weights
from cnncompress.inspect import inspect_layers
from cnncompress.training import Images, Recipe


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(60, 3, 10, 10)


@pytest.fixture
def damaged(net):
    """A compressed network: it shares all weights but those of its first layer."""
    found = copy_sharing_weights(net)
    torch.manual_seed(2)
    first = copy.deepcopy(net[0])
    with torch.no_grad():
        first.weight += 0.3 * torch.randn_like(first.weight)
    found[0] = nn.Sequential(first)
    return found


def tune(net, damaged, source, **recipe):
    layers = inspect_layers(net, (3, 10, 10))
    return finetune_upper(
        net,
        damaged,
        upper=layers_above(["0"], layers),
        source=source,
        recipe=Recipe(**({"learning_rate": 0.05, "epochs": 6, "batch_size": 8} | recipe)),
    )


def error(net, model, images):
    with torch.no_grad():
        return float((net(images) - model(images)).square().mean())


@pytest.mark.parametrize("labelled", [False, True])
def test_the_upper_layers_alone_learn(net, damaged, images, tensor_source, labelled):
    labels = net(images).argmax(1) if labelled else None
    before = {key: value.clone() for key, value in damaged.state_dict().items()}
    original = {key: value.clone() for key, value in net.state_dict().items()}
    model, done = tune(net, damaged, tensor_source(images, labels))
    assert done.layers == ("2", "6")
    assert done.objective == ("labels" if labelled else "original outputs")
    assert done.history[done.kept] == min(done.history) < done.history[0]
    after = model.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {"2.weight", "2.bias", "6.weight", "6.bias"}
    assert all(torch.equal(value, original[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in damaged.state_dict().items())
    assert all(p.requires_grad for p in (*model.parameters(), *net.parameters()))
    assert all(p.grad is None for p in (*model.parameters(), *net.parameters(), *damaged.parameters()))
    assert not model.training
    if not labelled:
        assert error(net, model, images) < 0.8 * error(net, damaged, images)


def test_deterministic(net, damaged, images, tensor_source):
    one, two = (tune(net, damaged, tensor_source(images))[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = tune(net, damaged, tensor_source(images), seed=1)[0].state_dict()
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_stops_once_the_drop_is_recovered(net, images, tensor_source):
    # nothing is lost, and labels that the network itself gave: its own loss is the target
    labels = net(images).argmax(1)
    model, done = tune(net, copy_sharing_weights(net), tensor_source(images, labels), epochs=50)
    assert done.epochs < 50
    assert "recovered" in done.note
    assert done.history[done.kept] <= done.target
    assert done.accuracies[done.kept] >= done.target_accuracy == 100
    assert error(net, model, images) > 0


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_a_loss_out_of_hand_keeps_the_start(net, damaged, images, tensor_source, rate):
    model, done = tune(net, damaged, tensor_source(images), learning_rate=rate)
    assert done.kept == 0
    assert "the start, which is kept" in done.note
    assert all(torch.equal(value, damaged.state_dict()[key]) for key, value in model.state_dict().items())


def test_nothing_above_is_an_error(net):
    layers = inspect_layers(net, (3, 10, 10))
    assert layers_above(["0", "2"], layers) == ("6",)
    with pytest.raises(ModelError, match=r"^6: no layer is left above it.*--only"):
        layers_above(["0", "6"], layers)


def test_labels_need_class_scores(images, tensor_source):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(ModelError, match="images without labels"):
        finetune_upper(
            net,
            net,
            upper=("2",),
            source=tensor_source(images, torch.zeros(60, dtype=torch.int64)),
            recipe=Recipe(),
        )


def test_feature_maps_are_trained_on_the_originals(images, tensor_source):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].weight *= 1.3
    model, done = tune(net, other, tensor_source(images), learning_rate=0.01)
    assert done.history[done.kept] < done.history[0]
    assert error(net, model, images) < error(net, other, images)


def test_a_single_score_is_no_distribution(net, damaged, images, tensor_source):
    for model in (net, damaged):
        model.append(nn.Linear(4, 1).requires_grad_())
    damaged[7] = net[7]
    model, done = tune(net, damaged, tensor_source(images), learning_rate=0.01)
    assert done.history[0] > 0
    assert done.history[done.kept] < done.history[0]


@pytest.mark.parametrize("memory", [0, 10**9])
def test_images_are_the_chosen_ones(images, tensor_source, memory):
    source = tensor_source(images, torch.arange(60))
    found = Images(source, [3, 5, 40], like=images, memory=memory)
    batches = list(found.batches(2, torch.Generator().manual_seed(0)))
    assert sorted(int(label) for batch in batches for label in batch.labels) == [3, 5, 40]
    for batch in batches:
        assert torch.equal(batch.images, images[batch.labels])
    assert sum(len(batch.images) for batch in found.batches(2)) == 3
    assert source.passes == (2 if memory else 3)  # one of them for a first image


def test_the_whole_run(net, images):
    options = {"speedup": 1.5, "align": 1, "measure": False, "only": ("2",), "finetune": "upper"}
    result = compress_model(net, images, **options, learning_rate=0.05)
    plain = compress_model(net, images, **(options | {"finetune": ""}))
    assert plain.report["finetune"] is None
    assert result.report["finetune"]["layers"] == ("6",)
    assert not torch.equal(result.model[6].weight, net[6].weight)
    assert torch.equal(plain.model[6].weight, net[6].weight)
    events = []
    compress_model(net, images, **options, train_data=images[:20], report=events.append)
    assert StageStarted("finetune", 5, "epochs") in events
    assert StageAdvanced("finetune") in events
    assert any(isinstance(event, StageDone) and event.stage == "finetune" for event in events)


def test_wrong_options_are_refused_before_the_work(net, images):
    with pytest.raises(OptionError, match="finetune is upper"):
        compress_model(net, images, finetune="all")
    with pytest.raises(OptionError, match="learning_rate"):
        compress_model(net, images, finetune="upper", learning_rate=-1)
    with pytest.raises(ModelError, match="no layer is left above"):
        compress_model(net, images, finetune="upper", include_linear=True, speedup=1.2, measure=False)
