"""Only what lies above the compressed layers is trained, and never for the worse."""

import copy
import json

import pytest
import torch
from torch import nn

from cnncompress import compress_model
from cnncompress.errors import DataError, ModelError, NumericsError, OptionError
from cnncompress.events import EpochDone, StageAdvanced, StageDone, StageStarted
from cnncompress.finetuning.finetune import finetune_layers, layers_above
from cnncompress.finetuning.run import Run
from cnncompress.folding import copy_sharing_weights
from cnncompress.inspect import inspect_layers
from cnncompress.training import Images, Recipe
from cnncompress.training.distill import Distillation
from cnncompress.training.losses import Verdict


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


@pytest.fixture
def labelled(net, images):
    """Labels that the network can tell, because its images and its last layer are made for them."""
    labels = torch.arange(60) % 4
    for image, label in zip(images, labels, strict=True):
        image[:2] += torch.tensor([label % 2, label // 2])[:, None, None] * 1.5
    with torch.no_grad():
        features = net[:-1](images)
        design = torch.cat([features, torch.ones(60, 1)], dim=1)
        wanted = design.T @ nn.functional.one_hot(labels, 4).float()
        solved = torch.linalg.solve(design.T @ design + 0.01 * torch.eye(9), wanted)
        net[6].weight.copy_(solved[:-1].T)
        net[6].bias.copy_(solved[-1])
    assert (net(images).argmax(1) == labels).float().mean() > 0.9
    return labels


def tune(net, damaged, source, **recipe):
    layers = inspect_layers(net, (3, 10, 10))
    return finetune_layers(
        net,
        damaged,
        chosen=layers_above(["0"], layers),
        source=source,
        recipe=Recipe(**({"learning_rate": 0.05, "epochs": 6, "batch_size": 8} | recipe)),
    )


def error(net, model, images):
    with torch.no_grad():
        return float((net(images) - model(images)).square().mean())


@pytest.mark.parametrize("by_labels", [False, True])
def test_the_upper_layers_alone_learn(net, images, labelled, damaged, tensor_source, by_labels):
    labels = labelled if by_labels else None
    before = {key: value.clone() for key, value in damaged.state_dict().items()}
    original = {key: value.clone() for key, value in net.state_dict().items()}
    model, done = tune(net, damaged, tensor_source(images, labels), learning_rate=0.003)
    assert done.layers == ("2", "6")
    assert done.objective == ("labels" if by_labels else "original outputs")
    assert done.history[done.kept] == min(done.history) < done.history[0]
    if by_labels:
        assert done.accuracies[done.kept] > done.accuracies[0]
    after = model.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {"2.weight", "2.bias", "6.weight", "6.bias"}
    assert all(torch.equal(value, original[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in damaged.state_dict().items())
    assert all(p.requires_grad for p in (*model.parameters(), *net.parameters()))
    assert all(p.grad is None for p in (*model.parameters(), *net.parameters(), *damaged.parameters()))
    assert not model.training
    if not by_labels:
        assert error(net, model, images) < 0.8 * error(net, damaged, images)


def test_deterministic(net, damaged, images, tensor_source):
    one, two = (tune(net, damaged, tensor_source(images))[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = tune(net, damaged, tensor_source(images), seed=1)[0].state_dict()
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_stops_once_the_drop_is_recovered(net, images, labelled, damaged, tensor_source):
    model, done = tune(net, damaged, tensor_source(images, labelled), epochs=50, learning_rate=0.003)
    assert 0 < done.epochs < 50
    assert "recovered" in done.note
    assert done.kept == done.epochs
    assert done.history[done.kept] <= done.target < done.history[0]
    assert done.accuracies[done.kept] >= done.target_accuracy
    assert error(damaged, model, images) > 0


@pytest.mark.parametrize("by_labels", [False, True])
def test_nothing_is_trained_where_nothing_is_lost(net, images, labelled, tensor_source, by_labels):
    source = tensor_source(images, labelled if by_labels else None)
    model, done = tune(net, copy_sharing_weights(net), source, epochs=50)
    assert done.epochs == done.kept == 0
    assert "nothing is lost at the start" in done.note
    assert error(net, model, images) == 0


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
        finetune_layers(
            net,
            net,
            chosen=("2",),
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


def test_a_lower_loss_that_is_less_often_right_is_not_kept(net, damaged, images, tensor_source, monkeypatch):
    # original, start, three epochs: the second has the lowest loss, but is less often right than the start
    found = iter([Verdict(0.1, 90), Verdict(1.0, 80), Verdict(0.9, 80), Verdict(0.5, 75), Verdict(0.8, 85)])
    monkeypatch.setattr("cnncompress.finetuning.run.judge", lambda *given: next(found))
    labels = net(images).argmax(1)
    _, done = tune(net, damaged, tensor_source(images, labels), epochs=3)
    assert done.accuracies == (80, 80, 75, 85)
    assert done.kept == 3


def test_a_lower_loss_alone_does_not_recover_what_is_less_often_right(
    net, damaged, images, tensor_source, monkeypatch
):
    found = iter([Verdict(0.9, 70), Verdict(1.0, 80), Verdict(0.5, 75), Verdict(0.6, 78)])
    monkeypatch.setattr("cnncompress.finetuning.run.judge", lambda *given: next(found))
    model, done = tune(net, damaged, tensor_source(images, net(images).argmax(1)), epochs=2)
    assert (done.kept, done.epochs) == (0, 2)
    assert all(torch.equal(value, damaged.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("label", [4, -1])
@pytest.mark.parametrize("position", range(36, 44))  # fitted ones and judging ones
def test_a_label_outside_the_classes_is_named(net, images, labelled, damaged, tensor_source, label, position):
    labels = labelled.clone()
    labels[position] = label
    with pytest.raises(DataError, match=rf"^{position}: its label is {label}, .* 4 classes, 0 to 3"):
        tune(net, damaged, tensor_source(images, labels), epochs=1)


def test_a_weight_that_a_frozen_layer_shares_is_refused(images, tensor_source):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    net[4].weight = net[2].weight
    with pytest.raises(ModelError, match=r"^4\.weight .* same weight as 2\.weight .*--finetune"):
        finetune_layers(net, net, chosen=("4",), source=tensor_source(images), recipe=Recipe())


def test_weights_shared_among_the_trained_stay_shared(images, tensor_source):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    net[4].weight = net[2].weight
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].weight *= 1.3
    recipe = Recipe(epochs=2, learning_rate=0.01)
    model, done = finetune_layers(net, other, chosen=("2", "4"), source=tensor_source(images), recipe=recipe)
    assert done.kept > 0
    assert model[4].weight is model[2].weight
    assert not torch.equal(model[4].weight, other[4].weight)


def test_an_original_in_train_mode_keeps_its_statistics(images, tensor_source):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).train()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].weight *= 1.3
    before = {key: value.clone() for key, value in net.state_dict().items()}
    _, done = tune(net, other, tensor_source(images), epochs=1, learning_rate=0.01)
    assert done.epochs == 1
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("which", ["original", "compressed"])
def test_outputs_that_are_nan_already_are_told_so(net, damaged, images, tensor_source, which):
    broken = copy.deepcopy(net if which == "original" else damaged)
    with torch.no_grad():
        broken[6].bias[0] = torch.nan
    pair = (broken, damaged) if which == "original" else (net, broken)
    with pytest.raises(NumericsError, match=f"the {which} network's outputs are NaN or infinite already"):
        tune(*pair, tensor_source(images))


def test_layers_above_needs_names_of_layers(net):
    layers = inspect_layers(net, (3, 10, 10))
    with pytest.raises(ModelError, match="no layer was replaced"):
        layers_above([], layers)
    with pytest.raises(OptionError, match="unknown layer '1'; known: 0, 2, 6"):
        layers_above(["1"], layers)


def test_images_are_the_chosen_ones(images, tensor_source):
    source = tensor_source(images, torch.arange(60))
    found = Images(source, [3, 5, 40], like=images)
    for batch in found.batches(2):
        assert torch.equal(batch.images, images[batch.labels])
    assert [int(label) for batch in found.batches(2) for label in batch.labels] == [3, 5, 40]


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
    with pytest.raises(OptionError, match="finetune is upper, all"):
        compress_model(net, images, finetune="lower")
    with pytest.raises(OptionError, match="learning_rate"):
        compress_model(net, images, finetune="upper", learning_rate=-1)
    with pytest.raises(ModelError, match="no layer is left above"):
        compress_model(net, images, finetune="upper", include_linear=True, speedup=1.2, measure=False)
    events = []
    with pytest.raises(OptionError, match="let all layers be trained"):
        compress_model(
            net, images, speedup=1.5, align=1, finetune="upper", distill="layers", report=events.append
        )
    assert not any(isinstance(event, StageStarted) for event in events)


def test_all_layers_learn_where_no_layer_is_left_above(net, images):
    options = {"speedup": 1.5, "align": 1, "measure": False, "only": ("2",), "learning_rate": 0.05}
    upper = compress_model(net, images, **options, finetune="upper")
    everything = compress_model(net, images, **options, finetune="all")
    assert everything.report["finetune"]["layers"] == ("0", "2", "6")
    assert not torch.equal(everything.model[0].weight, net[0].weight)
    assert torch.equal(upper.model[0].weight, net[0].weight)
    assert not torch.equal(everything.model[2][0].weight, upper.model[2][0].weight)
    history = everything.report["finetune"]["history"]
    assert min(history) < history[0]


def verdicts(monkeypatch, *found):
    """Judgements of the original, the start and each epoch, whatever the networks are."""
    given = iter([Verdict(*one) for one in found])
    monkeypatch.setattr("cnncompress.finetuning.run.judge", lambda *args: next(given))


def labels_of(net, images):
    return net(images).argmax(1)


def test_of_equal_accuracies_the_lower_loss_is_kept(net, damaged, images, tensor_source, monkeypatch):
    verdicts(monkeypatch, (0.1, 90), (1.0, 80), (0.9, 85), (0.7, 85), (0.8, 85), (0.2, 84))
    _, done = tune(net, damaged, tensor_source(images, labels_of(net, images)), epochs=4)
    assert (done.kept, done.epochs) == (2, 4)


def test_a_rising_loss_ends_it_and_names_the_remedy(net, damaged, images, tensor_source, monkeypatch):
    verdicts(monkeypatch, (0.1, 90), (1.0, 80), (9.0, 60), (12.0, 85), (13.0, 40))
    _, done = tune(net, damaged, tensor_source(images, labels_of(net, images)), epochs=9)
    assert (done.kept, done.epochs) == (2, 2)
    assert "more than 10 times" in done.note
    assert "--lr, it was 0.05" in done.note


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (2, 5), (None, 6)])
def test_patience(net, damaged, images, tensor_source, monkeypatch, patience, epochs):
    losses = (0.1, 1.0, 0.9, 0.95, 0.8, 0.85, 0.85, 0.7)  # the second epoch is worse than the first
    verdicts(monkeypatch, *((loss, None) for loss in losses))
    _, done = tune(net, damaged, tensor_source(images), epochs=6, patience=patience)
    assert done.epochs == epochs
    assert done.history[done.kept] == min(done.history)
    assert ("brought nothing better" in done.note) == (patience is not None)


def test_labels_train_without_the_original(images, labelled, damaged, tensor_source):
    options = {"chosen": ("2", "6"), "recipe": Recipe(epochs=3, learning_rate=0.003, batch_size=8)}
    model, done = finetune_layers(None, damaged, source=tensor_source(images, labelled), **options)
    assert (done.target, done.target_accuracy) == (None, None)
    assert done.epochs == 3
    assert done.accuracies[done.kept] == max(done.accuracies)
    assert not model.training
    with pytest.raises(ModelError, match="without labels the network learns from the original"):
        finetune_layers(None, damaged, source=tensor_source(images), **options)
    with pytest.raises(ModelError, match="distillation learns from the original"):
        finetune_layers(
            None, damaged, source=tensor_source(images, labelled), distill=Distillation(), **options
        )


@pytest.fixture
def pair(net):
    """A network and one whose first layer, made of a chain, is off."""
    other = copy.deepcopy(net)
    torch.manual_seed(2)
    with torch.no_grad():
        other[0].weight += 0.2 * torch.randn_like(other[0].weight)
    other[0] = nn.Sequential(other[0])
    return net, other


@pytest.mark.parametrize("kind", ["logits", "features", "layers"])
def test_the_original_teaches(pair, images, tensor_source, kind):
    net, other = pair
    options = {"chosen": ("0", "2", "6"), "replaced": ("0",), "distill": Distillation(kind=kind)}
    recipe = Recipe(epochs=4, learning_rate=0.1, batch_size=8)
    model, done = finetune_layers(net, other, source=tensor_source(images), recipe=recipe, **options)
    assert done.objective == f"distillation: {kind}"
    assert done.distill == options["distill"]
    assert done.history[done.kept] == min(done.history) < done.history[0]
    assert error(net, model, images) < error(net, other, images)
    assert done.layers == (("0",) if kind == "layers" else ("0", "2", "6"))
    assert torch.equal(model[2].weight, other[2].weight) == (kind == "layers")
    for module in (*model.modules(), *net.modules(), *other.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_labels_judge_what_the_original_teaches(net, images, labelled, damaged, tensor_source):
    _, done = finetune_layers(
        net,
        damaged,
        chosen=("2", "6"),
        source=tensor_source(images, labelled),
        recipe=Recipe(epochs=2, learning_rate=0.003, batch_size=8),
        distill=Distillation(temperature=2.0),
        replaced=("0",),
    )
    assert len(done.accuracies) == len(done.history) == done.epochs + 1
    assert done.target_accuracy is not None


def test_layers_that_must_stay_cannot_be_reconstructed(pair, images, tensor_source):
    with pytest.raises(OptionError, match=r"^0: .*--layers all"):
        finetune_layers(
            *pair,
            chosen=("2", "6"),
            source=tensor_source(images),
            recipe=Recipe(),
            distill=Distillation(kind="layers"),
            replaced=("0",),
        )


def test_the_replaced_layers_decay_only_where_asked(pair, images, tensor_source):
    sizes = []
    for decays in (False, True):
        recipe = Recipe(
            epochs=1, learning_rate=0.01, batch_size=8, weight_decay=5.0, momentum=0, decay_factors=decays
        )
        options = {"chosen": ("0", "6"), "source": tensor_source(images), "recipe": recipe}
        captured = {}

        def look(self, whole=Run.take_best, captured=captured):  # before the best is put back
            captured.update({key: value.clone() for key, value in self._task.trained.items()})
            whole(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "take_best", look)
            finetune_layers(*pair, replaced=("0",), **options)
        sizes.append([float(captured[key].detach().norm()) for key in ("0.0.weight", "6.weight")])
    (free, other), (decayed, same) = sizes
    assert decayed < 0.9 * free
    assert same < 1.1 * other


def test_each_epoch_is_told(pair, images, tensor_source):
    events = []
    _, done = finetune_layers(
        *pair,
        chosen=("0", "6"),
        source=tensor_source(images),
        recipe=Recipe(epochs=2, learning_rate=0.01, batch_size=8),
        report=events.append,
    )
    told = [event for event in events if isinstance(event, EpochDone)]
    assert [event.epoch for event in told] == [1, 2]
    assert tuple(event.test_loss for event in told) == done.history[1:]
    assert tuple(event.loss for event in told) == done.losses
    assert len(done.seconds) == 2
    plain = json.loads(json.dumps(done.to_json()))
    assert plain["recipe"]["epochs"] == 2
    assert plain["processes"] == 1


def test_it_says_that_the_start_is_kept(pair, images, tensor_source, monkeypatch):
    net, other = pair
    options = {"chosen": ("0", "6"), "source": tensor_source(images)}
    _, same = finetune_layers(net, net, recipe=Recipe(), **options)
    assert same.note.endswith("so nothing was trained")
    verdicts(monkeypatch, (0.1, None), (1.0, None), (1.5, None))
    _, worse = finetune_layers(net, other, recipe=Recipe(epochs=1), **options)
    assert worse.note.endswith("nothing was better than the start, which is kept")
