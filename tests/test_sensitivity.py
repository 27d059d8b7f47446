"""Derivatives by the weights against the network's most probable mistakes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnncompress.errors import DataError, ModelError, NumericsError, OptionError
from cnncompress.events import StageAdvanced, StageDone, StageStarted
from cnncompress.inspect import inspect_layers
from cnncompress.sensitivity import sensitivities

IMAGES = torch.randn(7, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def network(classes=6):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, classes),
    ).eval()


def layers_of(model):
    return inspect_layers(model, (3, 9, 9))


def by_hand(model, images, rights, wrong_labels):
    """Mean squares of the gradients of plain cross-entropies, one image and one label at a time."""
    model = copy.deepcopy(model)
    weights = {name: model.get_submodule(name).weight for name in ("0", "3", "8")}
    squares = {name: [] for name in weights}
    for image, right in zip(images, rights, strict=True):
        others = [int(i) for i in model(image[None])[0].argsort(descending=True) if int(i) != right]
        for wrong in others[:wrong_labels]:
            model.zero_grad()
            functional.cross_entropy(model(image[None]), torch.tensor([wrong])).backward()
            for name, weight in weights.items():
                squares[name].append(weight.grad.double() ** 2)
    return {name: torch.stack(found).mean(0) for name, found in squares.items()}


@pytest.mark.parametrize("labelled", [False, True])
def test_equals_cross_entropies_against_wrong_labels(tensor_source, labelled):
    model = network()
    with torch.no_grad():
        rights = model(IMAGES).argmin(1) if labelled else model(IMAGES).argmax(1)
    source = tensor_source(IMAGES, rights if labelled else None)
    found = sensitivities(model, layers_of(model), source, wrong_labels=3)
    expected = by_hand(model, IMAGES, rights.tolist(), 3)
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        "0": (4, 3, 3, 3),
        "3": (6, 2, 3, 3),
        "8": (6, 24, 1, 1),
    }
    for name, one in found.items():
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, expected[name].reshape(one.shape), rtol=1e-4, atol=1e-12)


def test_labels_decide_what_is_wrong(tensor_source):
    model = network(classes=2)
    with torch.no_grad():
        predicted = model(IMAGES).argmax(1)
    layers = layers_of(model)
    agreeing = sensitivities(model, layers, tensor_source(IMAGES, predicted))
    contrary = sensitivities(model, layers, tensor_source(IMAGES, 1 - predicted))
    none = sensitivities(model, layers, tensor_source(IMAGES))
    torch.testing.assert_close(agreeing["0"], none["0"], rtol=0, atol=0)
    # to mistake the image for what the network takes it for anyway costs less
    assert contrary["0"].sum() < agreeing["0"].sum()


def test_only_the_layers_asked_for(tensor_source):
    model = network()
    layers = layers_of(model)
    one = sensitivities(model, layers[1:2], tensor_source(IMAGES))
    torch.testing.assert_close(one, {"3": sensitivities(model, layers, tensor_source(IMAGES))["3"]})
    assert sensitivities(model, (), tensor_source(IMAGES)) == {}


def test_wrong_labels_are_at_most_all_others(tensor_source):
    model = network(classes=4)
    layers = layers_of(model)
    three = sensitivities(model, layers, tensor_source(IMAGES), wrong_labels=3)
    many = sensitivities(model, layers, tensor_source(IMAGES), wrong_labels=50)
    torch.testing.assert_close(many, three, rtol=0, atol=0)


def test_images_are_drawn_evenly_whatever_cannot_be_read(tensor_source):
    model = network()
    layers = layers_of(model)
    chosen = sensitivities(model, layers, tensor_source(IMAGES), images=3)
    alone = sensitivities(model, layers, tensor_source(IMAGES[[0, 2, 4]]))
    torch.testing.assert_close(chosen, alone, rtol=0, atol=0)

    class Holey(tensor_source):
        def batches(self, batch_size):
            for batch in super().batches(1):
                if int(batch.indices[0]) not in {0, 2}:
                    yield batch

    chosen = sensitivities(model, layers, Holey(IMAGES), images=3)
    alone = sensitivities(model, layers, tensor_source(IMAGES[[1, 3, 4]]))
    torch.testing.assert_close(chosen, alone, rtol=0, atol=0)


def test_the_same_twice_and_nothing_of_the_model_or_the_images_changes(tensor_source):
    model = nn.Sequential(nn.ReLU(inplace=True), *network())
    model.train()
    model[2].eval()
    for parameter in model[4].parameters():
        parameter.requires_grad_(False)
    model[1].weight.grad = torch.ones_like(model[1].weight)
    layers, images = layers_of(model), IMAGES.contiguous(memory_format=torch.channels_last)
    state, parameters = copy.deepcopy(model.state_dict()), dict(model.named_parameters())
    modes = [module.training for module in model.modules()]
    before = images.clone()
    with torch.inference_mode():
        first = sensitivities(model, layers, tensor_source(images))
    second = sensitivities(model, layers, tensor_source(images))

    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not any(one.requires_grad for one in first.values())
    torch.testing.assert_close(images, before, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    assert [module.training for module in model.modules()] == modes
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name]
        assert parameter.requires_grad == (not name.startswith("4."))
        assert (parameter.grad is None) == (name != "1.weight")
    assert (model[1].weight.grad == 1).all()


def test_a_weight_of_two_layers_has_the_derivatives_of_both(tensor_source):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[1].weight = model[0].weight
    layers = layers_of(model)
    found = sensitivities(model, layers[1:], tensor_source(IMAGES[:1]), wrong_labels=1)["1"]
    scores = model(IMAGES[:1])
    wrong = scores[0].argsort(descending=True)[1]
    expected = torch.autograd.grad(functional.cross_entropy(scores, wrong[None]), model[0].weight)[0]
    torch.testing.assert_close(found, expected.double() ** 2, rtol=1e-4, atol=1e-12)


def test_progress_is_reported_by_image(tensor_source):
    events, model = [], network()
    sensitivities(model, layers_of(model), tensor_source(IMAGES), images=4, report=events.append)
    assert [type(event) for event in events] == [StageStarted, *[StageAdvanced] * 4, StageDone]
    assert events[0].total == 4


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3)), r"shape \(1, 4, 7, 7\)"),
        (nn.Sequential(nn.Conv2d(3, 1, 9), nn.Flatten()), r"shape \(1, 1\)"),
    ],
)
def test_a_network_without_class_scores_is_refused(tensor_source, model, found):
    with pytest.raises(ModelError, match=found + r".*class scores.*data metric"):
        sensitivities(model, layers_of(model), tensor_source(IMAGES))


def test_a_network_with_several_outputs_is_refused(tensor_source):
    class Pair(nn.Sequential):
        def forward(self, images):
            return super().forward(images), images

    model = Pair(nn.Conv2d(3, 4, 3))
    with pytest.raises(ModelError, match="tuple"):
        sensitivities(model, layers_of(model), tensor_source(IMAGES))


def test_a_network_that_cannot_be_differentiated_is_refused(tensor_source):
    class Frozen(nn.Sequential):
        def forward(self, images):
            return super().forward(images).detach()

    model = Frozen(*network())
    with pytest.raises(ModelError, match=r"can't be differentiated.*data metric"):
        sensitivities(model, layers_of(model), tensor_source(IMAGES))


def test_nan_names_the_layer_to_blame(tensor_source):
    model = network()
    layers = layers_of(model)
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericsError, match=r"^3: .*NaN"):
        sensitivities(model, layers, tensor_source(IMAGES))
    with pytest.raises(NumericsError, match=r"^0: .*NaN"):
        sensitivities(network(), layers, tensor_source(IMAGES * float("inf")))


def test_mistakes_are_named(tensor_source):
    model = network()
    layers = layers_of(model)
    with pytest.raises(OptionError, match="images must be at least 1, got 0"):
        sensitivities(model, layers, tensor_source(IMAGES), images=0)
    with pytest.raises(OptionError, match="wrong_labels must be at least 1, got -1"):
        sensitivities(model, layers, tensor_source(IMAGES), wrong_labels=-1)
    with pytest.raises(DataError, match=r"label 9.*classes 0 to 5"):
        sensitivities(model, layers, tensor_source(IMAGES, torch.full((7,), 9)))
    with pytest.raises(DataError, match="no image"):
        sensitivities(model, layers, tensor_source(IMAGES[:0]))
