"""What a compressed network learns from the original, without labels or with some."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from cnncompress.errors import ModelError, OptionError
from cnncompress.training import Images, LabelledBatch, Recipe, Trainer
from cnncompress.training.distill import Distillation, Distiller
from cnncompress.training.losses import by_outputs, judge

REPLACED = ("0", "2")


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    ).eval()  # fmt: skip


@pytest.fixture
def original() -> nn.Sequential:
    return network(0)


@pytest.fixture
def compressed(original: nn.Sequential) -> nn.Sequential:
    """Its first layers are two each, as a factorised layer is, and not quite what they were."""
    found = copy.deepcopy(original)
    torch.manual_seed(1)
    for place in (0, 2):
        layer = found[place]
        with torch.no_grad():
            layer.weight += 0.3 * layer.weight.std() * torch.randn_like(layer.weight)
        mixing = nn.Conv2d(6, 6, 1)
        nn.init.dirac_(mixing.weight)
        found[place] = nn.Sequential(layer, mixing)
    return found


@pytest.fixture
def images() -> Tensor:
    return torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def relative(answer: Tensor, wanted: Tensor) -> Tensor:
    """Mean over the images, written out."""
    return torch.stack(
        [
            (one - other).square().sum() / other.square().sum()
            for one, other in zip(answer, wanted, strict=True)
        ]
    ).mean()


def loss_of(
    original: nn.Module,
    compressed: nn.Module,
    how: Distillation,
    batch: LabelledBatch,
    smoothing: float = 0.0,
) -> Tensor:
    with Distiller(original, compressed, REPLACED, how, smoothing) as distiller:
        return distiller.loss(compressed(batch.images), batch)


@pytest.mark.parametrize("kind", ["logits", "features", "layers"])
def test_nothing_is_left_to_learn_from_oneself(original, images, kind) -> None:
    value = loss_of(original, copy.deepcopy(original), Distillation(kind=kind), LabelledBatch(images, None))
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_logits_are_compared_at_a_temperature(original, compressed, images) -> None:
    batch = LabelledBatch(images, torch.arange(40) % 4)
    output, wanted = compressed(images), original(images)
    for temperature in (1.0, 4.0):
        told, asked = (scores / temperature for scores in (output, wanted))
        divergence = (asked.softmax(1) * (asked.log_softmax(1) - told.log_softmax(1))).sum(1).mean()
        alone = loss_of(original, compressed, Distillation(temperature=temperature), batch)
        assert alone.item() == pytest.approx(divergence.item() * temperature**2, rel=1e-4)
        mixed = loss_of(original, compressed, Distillation(temperature=temperature, labels=0.25), batch, 0.1)
        labels = nnf.cross_entropy(output, batch.labels, label_smoothing=0.1)
        assert mixed.item() == pytest.approx((0.75 * alone + 0.25 * labels).item(), rel=1e-4)


def test_features_are_those_before_the_rectifier_though_it_works_in_place(
    original, compressed, images
) -> None:
    batch = LabelledBatch(images, None)
    logits = loss_of(original, compressed, Distillation(), batch)
    found = loss_of(original, compressed, Distillation(kind="features", features=2.0), batch)
    errors = [relative(compressed[:until](images), original[:until](images)) for until in (1, 3)]
    assert found.item() == pytest.approx((logits + sum(errors)).item(), rel=1e-4)


def test_layers_learn_each_for_itself(original, compressed, images) -> None:
    """The gradient of each layer is that of its own error, what reaches it being given."""
    loss_of(original, compressed, Distillation(kind="layers"), LabelledBatch(images, None)).backward()
    plain = copy.deepcopy(compressed)
    reaching = [images, plain[:2](images).detach()]
    answers = [original[:1](images), original[:3](images)]
    for place, given, wanted in zip((0, 2), reaching, answers, strict=True):
        layer = plain[place].zero_grad() or plain[place]
        relative(layer(given), wanted.detach()).backward()
        for one, two in zip(compressed[place].parameters(), layer.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in compressed[6].parameters())
    assert all(parameter.grad is None for parameter in original.parameters())


@pytest.mark.parametrize("kind", ["logits", "features", "layers"])
def test_a_damaged_network_comes_nearer_to_the_original(
    original, compressed, images, tensor_source, kind
) -> None:
    found = Images(tensor_source(images), range(40), like=images, layout=torch.contiguous_format)
    before = judge(compressed, found, by_outputs(original), 40).loss
    chosen = Recipe(epochs=5, learning_rate=0.01, batch_size=8, weight_decay=0.0)
    with Distiller(original, compressed, REPLACED, Distillation(kind=kind)) as distiller:
        running = Trainer(compressed, list(compressed.parameters()), found, distiller.loss, chosen)
        losses = [running.run_epoch() for _ in range(5)]
    assert losses[-1] < 0.8 * losses[0]
    assert judge(compressed, found, by_outputs(original), 40).loss < before


def test_nothing_is_left_on_the_networks(original, compressed, images) -> None:
    how = Distillation(kind="layers")
    with pytest.raises(RuntimeError, match="stop"), Distiller(original, compressed, REPLACED, how):
        raise RuntimeError("stop")
    for net in (original, compressed):
        for module in net.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
    first = images.clone().requires_grad_()
    compressed(first).sum().backward()
    assert first.grad is not None  # no input is cut off any more


def test_a_layer_that_runs_twice_is_compared_twice(images) -> None:
    class Twice(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(self.layer(images).relu_()).mean((2, 3))

    one, two = Twice(0), Twice(1)
    with Distiller(one, two, ["layer"], Distillation(kind="layers")) as distiller:
        found = distiller.loss(two(images), LabelledBatch(images, None))
    first, second = (net.layer(images) for net in (two, one))
    expected = relative(first, second) + relative(two.layer(first.relu()), one.layer(second.relu()))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("classes", [4, 1])
def test_losses_of_parts_add_up_to_that_of_all(images, classes) -> None:
    """Else what several processes find would depend on who has which image."""
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(192, classes)).eval() for _ in range(2)]
    loss = by_outputs(nets[0], 2.0)
    parts = [images[:7], images[7:8], images[8:]]
    whole = loss(nets[1](images), LabelledBatch(images, None))
    found = sum(loss(nets[1](part), LabelledBatch(part, None)) * len(part) for part in parts) / len(images)
    assert found.item() == pytest.approx(whole.item(), rel=1e-5)


def test_an_original_that_begins_in_place_leaves_the_images_alone(images) -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(192, 4))
    before = images.clone()
    by_outputs(net)(torch.zeros(40, 4), LabelledBatch(images, None))
    loss_of_logits = Distiller(net, net, [], Distillation()).loss
    loss_of_logits(torch.zeros(40, 4), LabelledBatch(images, None))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "logit"}, "logits, features or layers, not 'logit'"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"features": math.nan}, "features must be above 0"),
        ({"labels": 1.0}, "below 1, got 1; .*leave out the distillation"),
        ({"kind": "layers", "labels": 0.5}, "labels' share to 0"),
    ],
)
def test_values_out_of_range_are_refused(values, message) -> None:
    with pytest.raises(OptionError, match=message):
        Distillation(**values)


def test_what_does_not_fit_is_named(original, compressed, images) -> None:
    with pytest.raises(OptionError, match="no layer was replaced; take logits"):
        Distiller(original, compressed, [], Distillation(kind="features"))
    with pytest.raises(ModelError, match="use images without labels"):
        loss_of(original, compressed, Distillation(labels=0.5), LabelledBatch(images, None))
    compressed[2] = nn.Sequential(nn.Conv2d(6, 6, 1))
    with pytest.raises(ModelError, match=r"^2: the compressed layer's output has shape \(40, 6, 8, 8\)"):
        loss_of(original, compressed, Distillation(kind="features"), LabelledBatch(images, None))
