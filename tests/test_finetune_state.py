"""A fine-tuning that was interrupted goes on to the same result; several processes come to it too."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from cnncompress.errors import OptionError, OutputError
from cnncompress.events import StageStarted
from cnncompress.finetuning.finetune import Keep, finetune_layers
from cnncompress.finetuning.state import read_job, temporary_of
from cnncompress.training import Recipe
from cnncompress.training.augmentation import Augmentation
from cnncompress.training.distill import Distillation
from cnncompress.training.loop import Trainer

RECIPE = Recipe(
    epochs=3,
    learning_rate=0.01,
    batch_size=8,
    schedule="cosine",
    warmup=0.1,
    augmentation=Augmentation(flip=True, shift=1),
)


@pytest.fixture
def pair():
    """A network, and one whose first layer is off."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].weight += 0.2 * torch.randn_like(other[0].weight)
    other[0] = nn.Sequential(other[0])
    return net, other


@pytest.fixture
def source(tensor_source):
    torch.manual_seed(1)
    return tensor_source(torch.randn(45, 3, 8, 8))


def tune(pair, source, recipe=RECIPE, **options):
    defaults = {"chosen": ("0", "6"), "replaced": ("0",), "distill": Distillation()}
    return finetune_layers(*pair, source=source, recipe=recipe, **(defaults | options))


def interrupted(pair, source, file, after, **options):
    """Run until so many steps are taken."""
    whole, steps = Trainer._step, iter(range(after))

    def step(self, *given):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return whole(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            tune(pair, source, keep=Keep(file=file, seconds=0, **options))


def same(one, two):
    return all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


# 36 images fitted, 5 steps an epoch: within the first epoch, at its end, and in the last one
@pytest.mark.parametrize("after", [2, 5, 12])
def test_interrupted_and_resumed_is_as_uninterrupted(pair, source, tmp_path, after):
    file = tmp_path / "state.pt"
    expected, done = tune(pair, source)
    interrupted(pair, source, file, after)
    model, again = tune(pair, source, keep=Keep(file=file, seconds=0), resume=True)
    assert same(model, expected)
    for name in ("history", "losses", "kept", "epochs", "note", "target"):
        assert getattr(again, name) == getattr(done, name)
    assert again.resumed == (after // 5,)
    assert len(again.seconds) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_run_that_has_ended_does_nothing_more(pair, source, tmp_path, monkeypatch):
    keep = Keep(file=tmp_path / "state.pt", job={"name": "tiny"})
    expected, done = tune(pair, source, keep=keep)
    monkeypatch.delattr(Trainer, "run_epoch")
    events = []
    model, again = tune(pair, source, keep=keep, resume=True, report=events.append)
    assert same(model, expected)
    assert again.note == done.note
    assert StageStarted("finetune", 3, "epochs") in events
    assert read_job(keep.file) == {"name": "tiny"}


def test_the_state_is_kept_now_and_then(pair, source, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "cnncompress.finetuning.finetune.write_state", lambda keep, state: written.append(state)
    )
    clock = iter(range(10_000))
    monkeypatch.setattr("cnncompress.finetuning.finetune.time.monotonic", lambda: next(clock))
    tune(pair, source, keep=Keep(file=tmp_path / "state.pt", seconds=3))
    steps = [(state["trainer"]["epoch"], state["trainer"]["step"]) for state in written]
    assert [step for _, step in steps].count(0) == 3  # after each epoch
    assert 0 < sum(step > 0 for _, step in steps) < 15  # and not after each step
    written.clear()
    tune(pair, source, keep=Keep(file=tmp_path / "state.pt", seconds=1e9))
    assert [state["trainer"]["step"] for state in written] == [0, 0, 0]


def test_other_settings_are_refused(pair, source, tmp_path):
    file = tmp_path / "state.pt"
    interrupted(pair, source, file, 2, settings={"images": {"training": "abc"}, "drops": (0.5,)})
    changed = Keep(file=file, settings={"images": {"training": "abd"}, "drops": (0.5,)})
    with pytest.raises(OptionError, match=r"images\.training was abc, now abd"):
        tune(pair, source, keep=changed, resume=True)
    tune(
        pair,
        source,
        keep=Keep(file=file, settings={"images": {"training": "abc"}, "drops": [0.5]}),
        resume=True,
    )


def test_what_is_no_state_is_refused(pair, source, tmp_path):
    file = tmp_path / "state.pt"
    keep = Keep(file=file, seconds=0)

    class Opens:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    with pytest.raises(OutputError, match="no interrupted fine-tuning to resume"):
        tune(pair, source, keep=keep, resume=True)
    file.write_bytes(pickle.dumps(Opens(), protocol=2))
    with pytest.raises(OutputError, match="can't be read"):
        tune(pair, source, keep=keep, resume=True)
    torch.save({"settings": Opens(), "state": {}, "schema": 1}, file)
    with pytest.raises(OutputError, match="can't be read"):
        tune(pair, source, keep=keep, resume=True)
    assert not (tmp_path / "opened").exists()
    interrupted(pair, source, file, 7)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(OutputError, match="can't be read"):
        tune(pair, source, keep=keep, resume=True)
    interrupted(pair, source, file, 7)
    content = torch.load(file, weights_only=True)
    for change in (
        {"weights": {}},
        {"found": []},
        {"best": {name: value[:1] for name, value in content["state"]["best"].items()}},
        {"kept": 9},
        {"trainer": 3},
    ):
        torch.save(content | {"state": content["state"] | change}, file)
        with pytest.raises(OutputError, match="is damaged"):
            tune(pair, source, keep=keep, resume=True)
    torch.save(content | {"schema": 2}, file)
    with pytest.raises(OutputError, match="schema 2"):
        tune(pair, source, keep=keep, resume=True)


def test_a_full_disk_leaves_the_state_before(pair, source, tmp_path, monkeypatch):
    file = tmp_path / "state.pt"
    expected, _ = tune(pair, source)
    whole, calls = torch.save, iter(range(4))

    def save(content, path):
        if next(calls, None) is None:
            temporary_of(file).write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\nand more")
        whole(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(OutputError, match=r"can't be written \(not all of it found room.*--resume"):
            tune(pair, source, keep=Keep(file=file, seconds=0))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    model, _ = tune(pair, source, keep=Keep(file=file), resume=True)
    assert same(model, expected)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(OutputError, match="no state was kept"):
            tune(pair, source, keep=Keep(file=tmp_path / "other.pt", seconds=0))


SPREAD = """
import copy, sys
from dataclasses import replace
from pathlib import Path
import torch
from torch import nn
from cnncompress.distributed import ALONE, joined
from cnncompress.finetuning.finetune import Keep, finetune_layers
from cnncompress.image_arrays import array_source
from cnncompress.training import Recipe
from cnncompress.training.distill import Distillation
from cnncompress.training.loop import Trainer

folder = Path(sys.argv[1])
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
    nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
).eval().double()
other = copy.deepcopy(net)
with torch.no_grad():
    other[0].weight += 0.2 * torch.randn_like(other[0].weight)
other[0] = nn.Sequential(other[0])
images = torch.randn(33, 3, 8, 8)
labels = net(images.double()).argmax(1)
recipe = Recipe(epochs=2, learning_rate=0.02, batch_size=7)

def tune(world, labels=None, **options):
    source = array_source(images, labels, preprocess=None, limit=None, seed=0, name="images", max_bad=0.0)
    return finetune_layers(
        net, other, chosen=("0", "3", "7"), replaced=("0",), source=source, world=world,
        **({"recipe": recipe} | options),
    )

def close(one, two):
    pairs = zip(one.state_dict().items(), two.state_dict().values())
    for (name, value), expected in pairs:
        assert torch.allclose(value, expected, rtol=0, atol=1e-9), (name, (value - expected).abs().max())

with joined("cpu") as world:
    assert world.size == 2
    cases = {
        "labels": {"labels": labels},
        "features": {"distill": Distillation(kind="features"), "recipe": replace(recipe, accumulate=2)},
        "layers": {"distill": Distillation(kind="layers")},
    }
    for name, options in cases.items():
        alone, done = tune(ALONE, **options)
        both, shared = tune(world, **options)
        close(both, alone)
        assert shared.kept == done.kept and shared.epochs == done.epochs and shared.processes == 2, name
        assert max(abs(a - b) for a, b in zip(shared.history, done.history)) < 1e-9, name
        assert any(not torch.equal(a, b) for a, b in zip(both.parameters(), other.parameters())), name
        every = world.gather([value.numpy() for value in both.state_dict().values()])
        assert all((a == b).all() for a, b in zip(*every)), name

    # what one process has begun two go on with
    expected, _ = tune(ALONE)
    file = folder / "state.pt"
    if world.is_first:
        whole, steps = Trainer._step, iter(range(6))
        def step(self, *given):
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return whole(self, *given)
        Trainer._step = step
        try:
            tune(ALONE, keep=Keep(file=file, seconds=0))
        except KeyboardInterrupt:
            pass
        Trainer._step = whole
    world.wait()
    again, done = tune(world, keep=Keep(file=file, seconds=0), resume=True)
    assert done.resumed == (1,)
    close(again, expected)
    if world.is_first:
        print("all the same")
"""


def test_two_processes_give_the_network_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SPREAD)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(str(script), str(tmp_path)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(  # noqa: S603  # our own command
        command, check=False, capture_output=True, text=True, timeout=120, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "all the same" in run.stdout
