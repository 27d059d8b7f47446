"""Training on several processes gives what one process gives; run as a script by each of them."""

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnncompress.distributed import ALONE, World, joined
from cnncompress.image_decoding import UnreadableImageError
from cnncompress.image_loading import LoadedImages
from cnncompress.network import Preprocess
from cnncompress.training import Augmentation, Images, Recipe, Trainer
from cnncompress.training.distill import Distillation, Distiller
from cnncompress.training.losses import Loss, by_labels, by_outputs, judge

SIZES = (2, 4)
BAD = (3, 11)
SGD = Recipe(epochs=2, learning_rate=0.05, batch_size=5, channels_last=False, clip_norm=0.5)
RECIPES = {
    "sgd": SGD,
    "accumulated": Recipe(epochs=2, learning_rate=0.05, batch_size=5, accumulate=2, channels_last=False),
    "adamw": Recipe(
        epochs=2, learning_rate=0.01, batch_size=5, optimizer="adamw", channels_last=False,
        augmentation=Augmentation(shift=2, flip=True),
    ),
}  # fmt: skip


def source(*, bad: tuple[int, ...] = ()) -> Any:
    drawn = torch.randint(256, (13, 3, 6, 6), generator=torch.Generator().manual_seed(1))

    def load(place: int) -> Tensor:
        if place in bad:
            raise UnreadableImageError("no image")
        return drawn[place].to(torch.uint8)

    preprocess = Preprocess(resize=None, crop=(6, 6), mean=(0.5,) * 3, std=(0.3,) * 3)
    return LoadedImages(
        load, preprocess=preprocess, keys=[str(place) for place in range(13)],
        labels=[place % 3 for place in range(13)], hash="0" * 64, description="drawn", max_bad=0.2,
    )  # fmt: skip


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=None, affine=False), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4, eps=0.01), nn.Linear(4, 3),
    ).double()  # fmt: skip


def trainer(
    model: nn.Module, recipe: Recipe, world: World, loss: Loss | None = None, **given: Any
) -> Trainer:
    images = images_of(source(**given))
    return Trainer(model, list(model.parameters()), images, loss or by_labels(), recipe, world=world)


def images_of(found: Any) -> Images:
    like = torch.zeros((), dtype=torch.float64)
    return Images(found, range(13), like=like, layout=torch.contiguous_format, classes=3)


def trained(world: World, recipe: Recipe, **given: Any) -> dict[str, Any]:
    model = network().train()
    running = trainer(model, recipe, world, **given)
    counted: list[int] = []
    losses = [running.run_epoch(counted.append) for _ in range(2)]
    return {"losses": losses, "counted": counted, **model.state_dict()}


def with_unreadable(world: World) -> dict[str, Any]:
    found = source(bad=BAD)
    model = network().train()
    running = Trainer(model, list(model.parameters()), images_of(found), by_labels(), SGD, world=world)
    losses = [running.run_epoch() for _ in range(2)]
    verdict = judge(model, images_of(found), by_labels(), 4, world)
    bad = [image.key for image in found.bad]
    return {
        "losses": losses,
        "bad": bad,
        "loss": verdict.loss,
        "accuracy": verdict.accuracy,
        **model.state_dict(),
    }


def distilled(world: World) -> dict[str, Any]:
    """Of the layers' losses most parameters get no gradient, and the last layer none at all."""
    original, model = network(1).eval(), network().eval()
    with Distiller(original, model, ["0", "3"], Distillation(kind="layers")) as distiller:
        running = trainer(model, SGD, world, distiller.loss)
        losses = [running.run_epoch()]
    return {"losses": losses, **model.state_dict()}


def judged(world: World) -> dict[str, Any]:
    verdicts = [
        judge(network(), images_of(source()), loss, 2, world)
        for loss in (by_labels(), by_outputs(network(1).eval(), 2.0))
    ]
    return {"exact": [(verdict.loss, verdict.accuracy) for verdict in verdicts]}


def infinite(world: World) -> dict[str, Any]:
    """The image that spoils the loss is seen by one process alone."""
    model = network().train()

    def loss(output: Tensor, batch: Any) -> Tensor:
        first = source().batches(1)
        spoiled = next(first).images.double()
        hit = (batch.images == spoiled).flatten(1).all(1)
        return by_labels()(output, batch) + torch.where(hit, math.inf, 0.0).sum()

    before = copy.deepcopy(dict(model.named_parameters()))
    running = trainer(model, Recipe(epochs=1, batch_size=13, channels_last=False), world, loss)
    nan = math.isnan(running.run_epoch())
    same = all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    return {"nan": nan, "same": same, "epoch": running.epoch}


def in_bfloat16(world: World) -> dict[str, Any]:
    model = network().float().train()
    like = torch.zeros(())
    images = Images(source(), range(13), like=like, layout=torch.channels_last)
    chosen = Recipe(epochs=1, learning_rate=0.01, batch_size=13, precision="bfloat16")
    running = Trainer(model, list(model.parameters()), images, by_labels(), chosen, world=world)
    return {"loss": running.run_epoch(), **model.state_dict()}


def resumed(world: World, state: dict[str, Any]) -> dict[str, Any]:
    model = network().train()
    model.load_state_dict(state["model"])
    running = trainer(model, RECIPES["adamw"], world)
    running.take_up(state["trainer"])
    losses = [running.run_epoch() for _ in range(2)]
    return {"losses": losses, **model.state_dict()}


def interrupted() -> dict[str, Any]:
    """State of one process after two of the three steps of the first epoch."""
    model = network().train()
    running = trainer(model, RECIPES["adamw"], ALONE)
    kept: list[dict[str, Any]] = []

    def stepped() -> None:
        if running.step == 2:
            kept.append(copy.deepcopy({"model": model.state_dict(), "trainer": running.state()}))

    running.run_epoch(stepped=stepped)
    return kept[0]


CASES: dict[str, Callable[[World], dict[str, Any]]] = {
    **{name: lambda world, recipe=recipe: trained(world, recipe) for name, recipe in RECIPES.items()},
    "unreadable": with_unreadable,
    "distilled": distilled,
    "judged": judged,
    "infinite": infinite,
    "bfloat16": in_bfloat16,
}


def digest(found: dict[str, Any]) -> str:
    values = [value for case in found.values() for value in case.values()]
    return repr([value.numpy().tobytes() if isinstance(value, Tensor) else value for value in values])


def run_cases(state: Path, out: Path) -> None:
    torch.set_num_threads(1)
    with joined() as world:
        found = {name: case(world) for name, case in CASES.items()}
        found["resumed"] = resumed(world, torch.load(state, weights_only=True))
        found["alike"] = {"alike": len(set(world.gather(digest(found)))) == 1}
        if world.is_first:
            torch.save(found, out)


@pytest.fixture(scope="module", params=SIZES)
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("processes")
    torch.save(interrupted(), folder / "state.pt")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(request.param),
        __file__, str(folder / "state.pt"), str(folder / "found.pt"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(  # noqa: S603  # our own command
        command, env=environment, timeout=300, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = torch.load(folder / "found.pt", weights_only=True)
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    found = {name: case(ALONE) for name, case in CASES.items()}
    found["resumed"] = resumed(ALONE, interrupted())
    return found


@pytest.mark.parametrize("case", ["sgd", "accumulated", "adamw", "unreadable", "distilled", "resumed"])
def test_weights_are_those_of_one_process(alone: Any, together: Any, case: str) -> None:
    one, several = alone[case], together[case]
    assert one.keys() == several.keys()
    for key, value in one.items():
        if key != "bad":
            torch.testing.assert_close(several[key], value, rtol=0, atol=1e-9)
    assert not torch.equal(one["0.weight"], network()[0].weight)


def test_norms_in_bfloat16_are_shared_too(alone: Any, together: Any) -> None:
    one, several = alone["bfloat16"], together["bfloat16"]
    for key, value in one.items():
        torch.testing.assert_close(several[key], value, rtol=0.02, atol=0.02)


def test_all_processes_have_the_same(together: Any) -> None:
    assert together["alike"]["alike"]


def test_a_verdict_is_the_same_to_the_bit(alone: Any, together: Any) -> None:
    assert together["judged"]["exact"] == alone["judged"]["exact"]


def test_an_infinite_loss_of_one_process_ends_all(alone: Any, together: Any) -> None:
    assert together["infinite"] == alone["infinite"] == {"nan": True, "same": True, "epoch": 0}


def test_unreadable_images_are_known_to_all(alone: Any, together: Any) -> None:
    assert together["unreadable"]["bad"] == alone["unreadable"]["bad"] == [str(place) for place in BAD]


def test_a_resumed_epoch_is_as_an_uninterrupted_one(alone: Any) -> None:
    assert all(torch.equal(alone["resumed"][key], alone["adamw"][key]) for key in network().state_dict())
    assert alone["resumed"]["losses"] == alone["adamw"]["losses"]


if __name__ == "__main__":
    run_cases(Path(sys.argv[1]), Path(sys.argv[2]))
