"""One engine trains: recipes, schedules, augmentation, order, precision, going on after an interruption."""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnncompress.distributed import ALONE
from cnncompress.errors import DataError, ModelError, NumericsError, OptionError, OutputError
from cnncompress.events import EpochDone, StageAdvanced, StageStarted
from cnncompress.image_files import paths_source
from cnncompress.image_tensors import TensorSource
from cnncompress.network import Network, Preprocess
from cnncompress.training import Augmentation, Images, Recipe, Trainer
from cnncompress.training.costs import count_macs
from cnncompress.training.feed import Feed
from cnncompress.training.gradients import AUXILIARY
from cnncompress.training.losses import by_labels, judge
from cnncompress.training.optimizer import build_optimizer
from cnncompress.training.reading import read_groups
from cnncompress.training.recipes import RECIPES, recipe
from cnncompress.training.schedule import learning_rate
from cnncompress.training.state import read_state, write_state
from cnncompress.training.whole import stored, train_network

STEPS = 200


def rates(chosen):
    return [learning_rate(chosen, (step + 0.5) / STEPS) for step in range(STEPS)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def coloured():
    """Images whose colour tells their class."""
    drawn = torch.randn(36, 3, 8, 8, generator=generator(1))
    labels = torch.arange(36) % 3
    drawn[torch.arange(36), labels] += 1.5
    return drawn, labels


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2),
        nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def network(net, side=8):
    plain = Preprocess(resize=None, crop=(side, side), mean=(0.0,) * 3, std=(1.0,) * 3)
    return Network(name="net", model=net, preprocess=plain)


def trainer(net, source, chosen, **images):
    found = Images(source, range(len(source)), like=net[0].weight, layout=torch.contiguous_format, **images)
    return Trainer(net.train(), list(net.parameters()), found, by_labels(chosen.label_smoothing), chosen)


def equal(one, two):
    return all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


# recipes and schedules


def test_recipes_of_the_papers():
    sic = recipe("sic")
    assert (sic.epochs, sic.batch_size) == (100, 256)
    for epoch, rate in ((0, 0.1), (29, 0.1), (30, 0.01), (60, 0.001), (99, 0.0001)):
        assert learning_rate(sic, (epoch + 0.5) / 100) == pytest.approx(rate)
    finetune = recipe("finetune")
    assert (finetune.epochs, finetune.batch_size, finetune.learning_rate) == (5, 128, 1e-5)
    assert recipe("nin").augmentation == Augmentation(shift=4, flip=True)
    assert recipe("nin", epochs=3, seed=None) == Recipe.from_json({**recipe("nin").to_json(), "epochs": 3})
    for name, named in RECIPES.items():
        assert Recipe.from_json(named.recipe.to_json()) == named.recipe == recipe(name)


def test_the_warm_up_rises_and_the_cosine_falls_to_nothing():
    found = rates(Recipe(schedule="cosine", warmup=0.25, learning_rate=0.5))
    rising, falling = found[: STEPS // 4], found[STEPS // 4 :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert 0 < min(rising) < 0.02
    assert max(found) == pytest.approx(0.5, rel=0.02)
    assert 0 < falling[-1] < 1e-3


def test_a_constant_rate_stays_and_a_step_rate_drops():
    assert set(rates(Recipe(learning_rate=0.5))) == {0.5}
    assert rates(Recipe(schedule="step", drops=(0.5,), drop_factor=0.2, learning_rate=0.5)) == pytest.approx(
        [0.5] * (STEPS // 2) + [0.1] * (STEPS // 2)
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0), ("batch_size", 0), ("accumulate", 0), ("patience", 0),
        ("learning_rate", 0.0), ("learning_rate", math.nan),
        ("momentum", 1.0), ("warmup", -0.1), ("label_smoothing", 1.0), ("weight_decay", -1.0),
        ("clip_norm", 0.0), ("seed", -1),
        ("drops", (0.6, 0.3)), ("optimizer", "adam"), ("schedule", "linear"), ("precision", "half"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(field, value):
    with pytest.raises(OptionError, match=field):
        Recipe(**{field: value})


def test_an_unknown_recipe_and_a_negative_shift_are_refused():
    with pytest.raises(OptionError, match="unknown recipe 'sick'; did you mean sic"):
        recipe("sick")
    with pytest.raises(OptionError, match="-1 pixels"):
        Augmentation(shift=-1)


# the optimizer


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("vectors", [False, True])
def test_biases_and_norms_decay_only_if_asked(net, optimizer, vectors):
    chosen = Recipe(optimizer=optimizer, decay_vectors=vectors, weight_decay=0.1, learning_rate=0.1)
    before = copy.deepcopy(net)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(list(net.parameters()), chosen).step()
    for now, then in zip(net.parameters(), before.parameters(), strict=True):
        shrinks = now.ndim > 1 or vectors
        torch.testing.assert_close(now, then * (0.99 if shrinks else 1.0))


@pytest.mark.parametrize("factors", [False, True])
def test_factors_decay_only_if_asked(net, factors):
    chosen = Recipe(decay_factors=factors, weight_decay=0.1, learning_rate=0.1)
    before = copy.deepcopy(net)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(list(net.parameters()), chosen, [net[0].weight]).step()
    torch.testing.assert_close(net[0].weight, before[0].weight * (0.99 if factors else 1.0))
    torch.testing.assert_close(net[4].weight, before[4].weight * 0.99)


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_a_batch_in_parts_trains_as_in_one(net, coloured, tensor_source, parts):
    nets = [copy.deepcopy(net).double() for _ in range(2)]
    sizes: list[int] = []
    nets[1].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for model, accumulate in zip(nets, (1, parts), strict=True):
        chosen = Recipe(epochs=1, learning_rate=0.1, batch_size=7, accumulate=accumulate)
        running = trainer(model, tensor_source(*coloured), chosen)
        model.eval()  # the parts of a batch are normalised and dropped out for themselves
        running.run_epoch()
    assert max(sizes) <= 4
    assert sum(sizes) == 36
    for one, two in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_gradients_are_clipped(net, coloured, tensor_source):
    before = copy.deepcopy(net)
    chosen = Recipe(learning_rate=1.0, momentum=0, weight_decay=0, batch_size=36, epochs=1, clip_norm=0.01)
    trainer(net, tensor_source(*coloured), chosen).run_epoch()
    moved = [now - then for now, then in zip(net.parameters(), before.parameters(), strict=True)]
    assert float(torch.cat([part.detach().flatten() for part in moved]).norm()) == pytest.approx(
        0.01, rel=1e-3
    )


# augmentation


def varied(images: Tensor) -> Tensor:
    augmentation = Augmentation(shift=1, flip=True)
    drawn = augmentation.draw(len(images), (4, 4), (4, 4), generator())
    half = [place for place in range(len(images)) if place % 2]
    found = augmentation.vary(images, (4, 4), drawn)
    assert torch.equal(augmentation.vary(images[half], (4, 4), drawn.of(half)), found[half])
    return found


def test_every_variant_is_a_shift_or_a_mirror_of_its_image():
    images = torch.arange(1.0, 1 + 6 * 3 * 16).reshape(6, 3, 4, 4)
    found = varied(images)
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    chosen = set()
    for image, source in zip(found, padded, strict=True):
        variants = {
            (top, left, flip): source[:, top : top + 4, left : left + 4].flip(-1 if flip else ())
            for top in range(3)
            for left in range(3)
            for flip in (False, True)
        }
        fitting = [key for key, variant in variants.items() if torch.equal(image, variant)]
        assert len(fitting) == 1
        chosen |= set(fitting)
    assert len(chosen) > 3  # each image draws for itself
    assert torch.equal(found, varied(images))
    assert torch.equal(
        Augmentation().vary(images, (4, 4), Augmentation().draw(6, (4, 4), (4, 4), generator())), images
    )


def test_larger_images_are_cut_at_random_in_training_and_in_the_centre_otherwise(tensor_source):
    images = torch.randn(8, 3, 10, 10)
    found = Images(tensor_source(images), range(8), like=images, size=(6, 6))
    (plain,) = found.batches(8)
    assert torch.equal(plain.images, images[:, :, 2:8, 2:8])
    (step,) = Feed(found, Recipe(batch_size=8, augmentation=Augmentation(crop_resized=True)), 0, ALONE)
    (part,) = step.parts
    cut = part.batch
    assert cut.images.shape == (8, 3, 6, 6)
    assert not torch.equal(cut.images.sort(0).values, plain.images.sort(0).values)


def test_images_to_be_cut_are_stored_whole():
    assert stored(Preprocess(), Augmentation(crop_resized=True)).crop == (256, 256)
    assert stored(Preprocess(), Augmentation(shift=4)).crop == (224, 224)
    assert stored(Preprocess(resize=None), Augmentation(crop_resized=True)).crop == (224, 224)


# order


@pytest.mark.parametrize("cache_bytes", [0, 500, 10**6])
def test_the_order_is_random_whatever_the_memory(tmp_path, cache_bytes):
    paths = [tmp_path / f"{position:02}.png" for position in range(30)]
    for position, path in enumerate(paths):
        Image.new("RGB", (6, 6), (8 * position,) * 3).save(path)
    paths[4].write_bytes(b"no image")
    plain = Preprocess(resize=None, crop=(6, 6), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    source = paths_source(
        paths, [i // 10 for i in range(30)], plain, tmp_path, max_bad=0.1, cache_bytes=cache_bytes
    )
    found = Images(source, range(30), like=torch.zeros(()))

    def epoch(seed):
        steps = Feed(found, Recipe(batch_size=4, seed=seed), 0, ALONE)
        batches = [part.batch for step in steps for part in step.parts]
        assert sorted(len(batch.images) for batch in batches) == [2, 3, *[4] * 6]  # the bad one leaves a gap
        for batch in batches:
            assert torch.equal(batch.labels, (batch.images[:, 0, 0, 0] / 80 + 1e-3).long())
        return torch.cat([batch.images[:, 0, 0, 0] for batch in batches]).div(8).round().int().tolist()

    first, second = epoch(0), epoch(1)
    assert sorted(first) == sorted(second) == [position for position in range(30) if position != 4]
    assert first != second
    assert first != sorted(first)
    assert epoch(0) == first


@pytest.mark.parametrize("seed", range(5))
def test_each_group_gets_its_own_readable_images(seed):
    drawn = np.random.default_rng(seed)
    images = torch.arange(40.0)[:, None, None, None].repeat(1, 3, 2, 2)
    bad = drawn.choice(40, 12, replace=False).tolist()
    images[bad] = torch.nan
    source = TensorSource(images, list(range(40)), description="drawn", max_bad=0.5)
    order = drawn.permutation(40)[: drawn.integers(1, 40)]
    bounds = sorted(drawn.integers(0, len(order) + 1, 6).tolist())
    groups = [part.tolist() for part in np.split(order, bounds)]
    found = list(read_groups(source, groups))
    for group, read in zip(groups, found, strict=True):
        good = [slot for slot, position in enumerate(group) if position not in bad]
        assert (read.slots if read else []) == good
        for values in (read.batch.images[:, 0, 0, 0], read.batch.indices, read.batch.labels) if read else ():
            assert values.tolist() == [group[slot] for slot in good]


def test_tensors_are_read_in_any_order_too():
    from cnncompress.data import open_source

    images = torch.randn(5, 3, 4, 4)
    images[2, 0, 0, 0] = torch.nan
    source = open_source(images, preprocess=None, max_bad=0.5)
    batches = list(source.batches(2, [4, 2, 0]))
    assert torch.cat([batch.indices for batch in batches]).tolist() == [4, 0]
    assert torch.equal(torch.cat([batch.images for batch in batches]), images[[4, 0]])


# the loop


def test_the_loss_falls_and_the_classes_are_told_apart(net, coloured, tensor_source):
    running = trainer(net, tensor_source(*coloured), Recipe(epochs=30, learning_rate=0.02, batch_size=6))
    losses = [running.run_epoch() for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    images = Images(tensor_source(*coloured), range(36), like=net[0].weight)
    assert judge(net, images, by_labels(), 10).accuracy > 90
    assert net.training  # judging restores the mode


def test_bfloat16_leaves_weights_and_loss_alone(net, coloured, tensor_source):
    seen = []
    net[4].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    running = trainer(net, tensor_source(*coloured), Recipe(epochs=1, precision="bfloat16"))
    assert math.isfinite(running.run_epoch())
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in net.parameters()} == {torch.float32}
    seen.clear()
    judge(net, Images(tensor_source(*coloured), range(36), like=net[0].weight), by_labels(), 36)
    assert set(seen) == {torch.float32}


def test_a_trainer_that_takes_up_another_goes_on_as_it_would_have(net, coloured, tensor_source):
    chosen = Recipe(
        epochs=4, learning_rate=0.1, batch_size=8, schedule="cosine", warmup=0.2,
        augmentation=Augmentation(shift=1, flip=True),
    )  # fmt: skip
    other = copy.deepcopy(net)
    whole = trainer(net, tensor_source(*coloured), chosen)
    begin = trainer(other, tensor_source(*coloured), chosen)
    torch.manual_seed(5)
    for _ in range(4):
        whole.run_epoch()
    for _ in range(2):
        begin.run_epoch()
    torch.manual_seed(6)  # dropout doesn't depend on the caller's generator, nor does it change it
    undisturbed = torch.get_rng_state()
    fresh = copy.deepcopy(other)
    ending = trainer(fresh, tensor_source(*coloured), chosen)
    ending.take_up(copy.deepcopy(begin.state()))
    for _ in range(2):
        ending.run_epoch()
    assert ending.epoch == 4
    assert equal(fresh, net)
    assert not equal(fresh, other)
    assert torch.equal(torch.get_rng_state(), undisturbed)


def test_an_epoch_is_taken_up_after_any_step(net, coloured, tensor_source):
    """Augmentation, dropout, momentum and the mean loss go on as they would have."""
    chosen = Recipe(
        epochs=2, learning_rate=0.1, batch_size=8, schedule="cosine",
        augmentation=Augmentation(shift=1, flip=True),
    )  # fmt: skip
    start, kept = copy.deepcopy(net), []
    whole = trainer(net, tensor_source(*coloured), chosen)
    losses = [
        whole.run_epoch(stepped=lambda: kept.append(copy.deepcopy((net.state_dict(), whole.state()))))
        for _ in range(2)
    ]
    assert [(state["epoch"], state["step"]) for _, state in kept] == [
        (epoch, step) for epoch in range(2) for step in range(1, 6)
    ]
    for weights, state in kept:
        fresh = copy.deepcopy(start)
        fresh.load_state_dict(weights)
        ending = trainer(fresh, tensor_source(*coloured), chosen)
        ending.take_up(state)
        assert ending.state()["step"] == state["step"]
        assert [ending.run_epoch() for _ in range(2 - ending.epoch)] == losses[state["epoch"] :]
        assert equal(fresh, net)


def test_a_gradient_that_is_not_finite_ends_the_epoch_with_the_weights_before(net, coloured, tensor_source):
    running = trainer(net, tensor_source(*coloured), Recipe(epochs=1, batch_size=36))
    net[4].weight.register_hook(lambda gradient: gradient * math.inf)
    before = copy.deepcopy(dict(net.named_parameters()))
    assert math.isnan(running.run_epoch())
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters())


def test_a_loss_that_is_not_finite_ends_the_epoch_with_the_weights_before(net, coloured, tensor_source):
    images, labels = coloured
    images[7] = torch.inf
    running = trainer(net, tensor_source(images, labels), Recipe(epochs=1, batch_size=36))
    before = copy.deepcopy(dict(net.named_parameters()))
    assert math.isnan(running.run_epoch())
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters())
    assert running.epoch == 0


# a whole network


def run(net, coloured, tensor_source, chosen, **options):
    images, labels = coloured
    source, test = tensor_source(images, labels), tensor_source(images[::2], labels[::2])
    return train_network(network(net), source, test, chosen, **options)


CHOSEN = Recipe(epochs=3, learning_rate=0.1, batch_size=6, augmentation=Augmentation(flip=True))


def test_a_network_is_trained_on_a_copy(net, coloured, tensor_source):
    before, events = copy.deepcopy(net), []
    trained = run(net, coloured, tensor_source, CHOSEN, report=events.append)
    assert equal(net, before)
    assert not equal(trained.network.model, before)
    assert not trained.network.model.training
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [1, 2, 3]
    assert StageStarted("train", 108) in events
    assert sum(event.steps for event in events if isinstance(event, StageAdvanced)) == 108
    assert equal(run(net, coloured, tensor_source, CHOSEN).network.model, trained.network.model)


def test_the_summary_tells_what_was_done(net, coloured, tensor_source):
    trained = run(net, coloured, tensor_source, CHOSEN)
    summary = trained.summary
    assert summary["accuracy"] == trained.history[-1].accuracy
    assert [entry["epoch"] for entry in summary["history"]] == [1, 2, 3]
    assert summary["macs"] == 3 * 6 * 9 * 64 + 6 * 6 * 9 * 36 + 18 == count_macs(net, (3, 8, 8))
    assert summary["params"] == sum(parameter.numel() for parameter in net.parameters())
    assert summary["data"]["training"]["hash"] == "0" * 64
    assert Recipe.from_json(summary["recipe"]) == CHOSEN


def test_macs_of_transposed_convolutions_count():
    assert count_macs(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (4, 5, 5)) == 4 * 3 * 4 * 25


def test_labels_and_outputs_that_do_not_fit(net, coloured, tensor_source):
    images, labels = coloured
    labels[11] = 3
    with pytest.raises(DataError, match=r"^11: its label is 3, but the network has 3 classes, 0 to 2"):
        run(net, (images, labels), tensor_source, CHOSEN)
    with pytest.raises(ModelError, match=r"outputs of shape \(1, 6, 8, 8\)"):
        run(net[:1], coloured, tensor_source, CHOSEN)


def test_frozen_weights_stay_and_are_not_all(net, coloured, tensor_source):
    net[0].requires_grad_(False)
    trained = run(net, coloured, tensor_source, CHOSEN).network.model
    assert torch.equal(trained[0].weight, net[0].weight)
    assert not torch.equal(trained[4].weight, net[4].weight)
    with pytest.raises(ModelError, match=r"^net: no weight of it can be trained"):
        run(net.requires_grad_(False), coloured, tensor_source, CHOSEN)


def test_a_single_image_left_over_does_not_stop_batchnorm(coloured, tensor_source):
    images, labels = coloured
    net = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    trained = run(net, (images[:13], labels[:13]), tensor_source, CHOSEN)
    assert all(math.isfinite(epoch.loss) for epoch in trained.history)


def test_a_loss_out_of_hand_is_an_error(net, coloured, tensor_source):
    images, labels = coloured
    images[7] = torch.inf
    with pytest.raises(NumericsError, match="in epoch 1; lower the learning rate"):
        run(net, (images, labels), tensor_source, CHOSEN)


# state on disk


def test_a_state_of_other_settings_is_refused(tmp_path, net, coloured, tensor_source):
    file = tmp_path / "training.pt"
    running = trainer(net, tensor_source(*coloured), CHOSEN)
    settings = {"recipe": CHOSEN.to_json(), "hash": "a"}
    write_state(file, net, running, settings, [])
    assert read_state(file, net, running, settings) == []
    assert [path.name for path in tmp_path.iterdir()] == ["training.pt"]
    other = {"recipe": recipe("short").to_json(), "hash": "a"}
    with pytest.raises(OptionError, match=r"recipe\.augmentation\.shift was 0, now 2; .*without --resume"):
        read_state(file, net, running, other)


@pytest.mark.parametrize("damage", ["none", "empty", "cut", "foreign"])
def test_a_state_that_is_no_state(tmp_path, net, coloured, tensor_source, damage):
    file = tmp_path / "training.pt"
    running = trainer(net, tensor_source(*coloured), CHOSEN)
    write_state(file, net, running, {}, [])
    content = {"none": None, "empty": b"", "cut": file.read_bytes()[:5000], "foreign": b"hello" * 99}[damage]
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(OutputError, match=r"without --resume|leave out --resume"):
        read_state(file, net, running, {})


def test_a_state_that_cannot_be_written(tmp_path, net, coloured, tensor_source):
    running = trainer(net, tensor_source(*coloured), CHOSEN)
    with pytest.raises(OutputError, match="can't be written"):
        write_state(tmp_path / "absent" / "training.pt", net, running, {}, [])


class WithAuxiliary(nn.Module):
    """Gives a second score while it trains, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, None]:
        pixels = images.mean((2, 3))
        return (self.first(pixels), self.second(pixels), None) if self.training else self.first(pixels)


def test_auxiliary_outputs_are_trained_at_a_share_of_the_loss(tensor_source):
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 4, 4), torch.arange(8) % 2
    model = WithAuxiliary().train()
    source = Images(tensor_source(images, labels), range(8), like=images, layout=torch.contiguous_format)
    recipe = Recipe(epochs=1, learning_rate=1.0, batch_size=8, momentum=0.0, weight_decay=0.0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    nn.functional.cross_entropy(model.second(images.mean((2, 3))), labels).backward()
    expected = before["second.weight"] - AUXILIARY * model.second.weight.grad
    model.zero_grad()
    Trainer(model, list(model.parameters()), source, by_labels(), recipe).run_epoch()
    torch.testing.assert_close(model.second.weight.detach(), expected)
    assert not torch.equal(model.first.weight, before["first.weight"])
