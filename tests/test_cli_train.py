"""``cnncompress train`` from a folder of images to a checkpoint that the other commands read."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from cnncompress import Options, load_network
from cnncompress.api import compress
from cnncompress.cli import main
from cnncompress.data import open_source
from cnncompress.errors import NumericsError, OutputError
from cnncompress.image_decoding import read_image
from cnncompress.training.job import Job, run_job
from cnncompress.training.loop import Trainer
from cnncompress.training.recipes import RECIPES, recipe
from cnncompress.training.state import write_state

NAME = "cifar-sic-half"
CLASSES = ("blue", "green", "red")
EPOCHS = 3


def write_images(folder, count, seed):
    rng = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for position in range(count):
            pixels = rng.integers(0, 120, (32, 32, 3))
            pixels[..., 2 - number] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{position}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "train", 8, 0)
    write_images(folder / "test", 3, 1)
    return folder


def run(*words):
    return CliRunner().invoke(main, list(map(str, words)))


def train(data, out, *more):
    return run("train", NAME, "--data", data, "--epochs", EPOCHS, "--batch-size", 6, "-o", out, *more)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A training that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    result = train(data, out)
    assert result.exit_code == 0, result.output
    return out, result


def test_results_are_a_checkpoint_and_a_summary(data, whole):
    out, result = whole
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "train.json"]
    summary = json.loads((out / "train.json").read_text())
    assert summary["name"] == NAME
    assert summary["categories"] == list(CLASSES)
    assert summary["recipe"]["epochs"] == len(summary["history"]) == EPOCHS
    assert (summary["data"]["training"]["images"], summary["data"]["test"]["images"]) == (24, 9)
    assert summary["accuracy"] == summary["history"][-1]["accuracy"]
    assert torch.__version__.startswith(summary["environment"]["torch"])
    last = result.stdout.splitlines()[-1]
    assert last.startswith(f"{NAME}: {summary['accuracy']:.2f} % of 9 test images right after 3 epochs; ")
    assert last.endswith(f"-> {out}")
    assert "epoch 3 of 3: loss" in result.stderr


def test_the_checkpoint_is_inspected_and_compressed(data, whole):
    file = whole[0] / "model.safetensors"
    macs = json.loads((whole[0] / "train.json").read_text())["macs"]
    inspected = run("inspect", NAME, "--checkpoint", file, "--json")
    assert inspected.exit_code == 0, inspected.output
    layers = json.loads(inspected.stdout)
    assert sum(layer["macs"] for layer in layers) == macs
    assert layers[-1]["out_channels"] == len(CLASSES)
    network = load_network(NAME, checkpoint=file)
    calibration, evaluation = (
        open_source(data / part, preprocess=network.preprocess, need_labels=True)
        for part in ("train", "test")
    )
    options = Options(speedup=1.1, measure=False, allow_slower=True)
    compressed = compress(network, calibration, evaluation, options)
    assert compressed.report["accuracy"]["n"] == 9
    assert compressed.report["macs"]["conv_speedup"] >= 1.1


def test_the_same_twice_and_another_seed_is_another(data, whole, tmp_path):
    again = train(data, tmp_path / "again", "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["recipe"]["seed"] == 0
    file = "model.safetensors"
    assert (tmp_path / "again" / file).read_bytes() == (whole[0] / file).read_bytes()
    assert train(data, tmp_path / "other", "--seed", 1, "--quiet").exit_code == 0
    assert (tmp_path / "other" / file).read_bytes() != (whole[0] / file).read_bytes()


@pytest.mark.parametrize("after", [5, 8, 11])  # of 12 steps: in the second epoch, at its end, in the last
def test_interrupted_and_resumed_is_as_uninterrupted(data, whole, tmp_path, monkeypatch, after):
    out, steps = tmp_path / "out", iter(range(after))
    whole_step = Trainer._step

    def step(self, batch):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return whole_step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        stopped = train(data, out)
    assert stopped.exit_code == 130
    assert "interrupted; --resume goes on" in stopped.stderr
    assert [path.name for path in out.iterdir()] == ["training.pt"]
    refused = train(data, out)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    changed = train(data, out, "--resume", "--lr", 0.05)
    assert changed.exit_code == 2
    assert "recipe.learning_rate was 0.2, now 0.05" in changed.stderr
    resumed = train(data, out, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "train.json"]
    one, two = (load_file(folder / "model.safetensors") for folder in (out, whole[0]))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    histories = [json.loads((folder / "train.json").read_text())["history"] for folder in (out, whole[0])]
    assert [entry["loss"] for entry in histories[0]] == [entry["loss"] for entry in histories[1]]


KILLED = """
import os, signal, sys
from pathlib import Path
from cnncompress.training.job import Job, run_job
from cnncompress.training.loop import Trainer
from cnncompress.training.recipes import recipe

name, data, out, after, keep_seconds = sys.argv[1:]
whole, steps = Trainer._step, iter(range(int(after)))

def step(self, found):
    if next(steps, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, found)

Trainer._step = step
chosen = recipe("short", epochs=3, batch_size=6)
run_job(Job(
    name=name, data=Path(data), output=Path(out), recipe=chosen, keep_seconds=float(keep_seconds)
))
"""


def processes(*words):
    """A command run by two processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *words]
    return subprocess.run(  # noqa: S603  # our own command
        [sys.executable, *map(str, launch)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, capture_output=True, text=True, check=False,
    )  # fmt: skip


def killed(data, out, *, after, keep_seconds=0):
    """A training that was killed after some of its 12 steps, 4 an epoch."""
    words = [NAME, data, out, after, keep_seconds]
    command = [sys.executable, "-c", KILLED, *map(str, words)]
    child = subprocess.run(command, check=False, capture_output=True)  # noqa: S603  # our own command
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert [path.name for path in out.iterdir()] == ["training.pt"]
    return torch.load(out / "training.pt", weights_only=True)["trainer"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize(
    ("after", "keep_seconds", "kept"),
    [(6, 0, (1, 2)), (6, 3600, (1, 0))],  # in the middle of an epoch, and between two
)
def test_killed_and_resumed_is_as_uninterrupted(data, whole, tmp_path, after, keep_seconds, kept):
    out = tmp_path / "out"
    state = killed(data, out, after=after, keep_seconds=keep_seconds)
    assert (state["epoch"], state["step"]) == kept
    resumed = train(data, out, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (out / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()
    histories = [json.loads((folder / "train.json").read_text())["history"] for folder in (out, whole[0])]
    one, two = ([{**entry, "seconds": 0} for entry in history] for history in histories)
    assert one == two


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_two_processes_go_on_with_the_training_of_one(data, whole, tmp_path):
    out = tmp_path / "out"
    killed(data, out, after=6)
    words = ["train", NAME, "--data", data, "--epochs", EPOCHS, "--batch-size", 6, "-o", out, "--resume"]
    child = processes("-m", "cnncompress", *words)
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("test images right after 3 epochs") == 1
    assert child.stderr.count("epoch 3 of 3: loss") == 1
    assert "Warning" not in child.stderr
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "train.json"]
    summaries = [json.loads((folder / "train.json").read_text()) for folder in (out, whole[0])]
    assert [summary["processes"] for summary in summaries] == [2, 1]
    losses = [[entry["loss"] for entry in summary["history"]] for summary in summaries]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # at a high rate rounding grows


DEAD = """
import os, signal, sys
from cnncompress.cli import main
from cnncompress.training.loop import Trainer

whole, steps = Trainer._step, iter(range(6))

def step(self, found):
    if next(steps, None) is None and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, found)

Trainer._step = step
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_dead_process_is_told_and_one_goes_on(data, whole, tmp_path):
    out, script = tmp_path / "out", tmp_path / "dead.py"
    script.write_text(DEAD)
    child = processes(script, "train", NAME, "--data", data, "--epochs", EPOCHS, "--batch-size", 6, "-o", out)
    assert child.returncode != 0
    assert child.stderr.count("error: another process of this run has died") == 1
    assert "--resume" in child.stderr
    assert [path.name for path in out.iterdir()] == ["training.pt"]
    resumed = train(data, out, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.output
    losses = [
        [entry["loss"] for entry in summary["history"]]
        for summary in (json.loads(resumed.stdout), json.loads((whole[0] / "train.json").read_text()))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # at a high rate rounding grows


@pytest.mark.parametrize("how", ["infinite", "full"])
def test_the_state_before_a_bad_step_stays(data, whole, tmp_path, monkeypatch, how):
    """In the middle of the second epoch the loss becomes NaN, or the disk is full."""
    out, steps, writes = tmp_path / "out", iter(range(6)), iter(range(6))
    step, save = Trainer._step, torch.save

    def stepped(self, found):
        return step(self, found) if next(steps, None) is not None else None

    def saved(state, file):
        if next(writes, None) is None:
            file.write_bytes(b"half")
            raise RuntimeError("[enforce fail] write failed: No space left on device")
        save(state, file)

    chosen = recipe("short", epochs=EPOCHS, batch_size=6)
    job = Job(name=NAME, data=data, output=out, recipe=chosen, keep_seconds=0)
    expected = {
        "infinite": (NumericsError, "in epoch 2; lower the learning rate"),
        "full": (OutputError, "can't be written .not all of it found room.; free space there"),
    }
    with monkeypatch.context() as patch:
        if how == "infinite":
            patch.setattr(Trainer, "_step", stepped)
        else:
            patch.setattr("torch.save", saved)
        kind, message = expected[how]
        with pytest.raises(kind, match=message):
            run_job(job)
    assert [path.name for path in out.iterdir()] == ["training.pt"]
    run_job(dataclasses.replace(job, resume=True))
    assert (out / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()


def test_interrupted_before_an_epoch_leaves_nothing(data, tmp_path, monkeypatch):
    def stop(self, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", stop)
    stopped = train(data, tmp_path / "out")
    assert stopped.exit_code == 130
    assert "no epoch was complete" in stopped.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_writing_leaves_the_state_before(data, whole, tmp_path, monkeypatch):
    out, calls = tmp_path / "out", iter(range(2))

    def write(*given):
        if next(calls, None) is None:
            given[0].with_name(".training.pt.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        write_state(*given)

    with monkeypatch.context() as patch:
        patch.setattr("cnncompress.training.keeping.write_state", write)
        assert train(data, out).exit_code == 130
    resumed = train(data, out, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (out / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()


def test_a_checkpoint_is_trained_further(data, whole, tmp_path):
    out, file = tmp_path / "out", "model.safetensors"
    more = train(data, out, "--checkpoint", whole[0] / file, "--lr", 1e-30, "--json")
    assert more.exit_code == 0, more.output
    assert json.loads(more.stdout)["start"].startswith(f"checkpoint {file} (sha256 ")
    one, two = (load_file(folder / file) for folder in (out, whole[0]))
    weights = [key for key in one if key.endswith("weight")]
    assert all(torch.equal(one[key], two[key]) for key in weights)
    write_images(tmp_path / "more", 1, 0)
    (tmp_path / "more" / "violet").mkdir()
    wrong = train(tmp_path / "more", out, "--eval", data / "test", "--checkpoint", whole[0] / file)
    assert wrong.exit_code == 2
    assert f"4 classes, but {NAME} (checkpoint {file} (sha256 " in wrong.stderr
    assert "has 3 outputs" in wrong.stderr


def test_help_names_all_recipes():
    shown = run("train", "--help").stdout
    assert all(name in shown for name in RECIPES)


def test_a_step_in_parts_is_the_recipes(data, tmp_path):
    result = train(data, tmp_path / "out", "--accumulate", 3, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["recipe"]["accumulate"] == 3


def test_images_are_decoded_once(data, tmp_path, monkeypatch):
    seen = []

    def look(path, **options):
        seen.append(path)
        return read_image(path, **options)

    monkeypatch.setattr("cnncompress.image_files.read_image", look)
    assert train(data, tmp_path / "out").exit_code == 0
    assert len(seen) == len(set(seen)) == 33


def test_a_folder_of_classes_needs_images_to_test_on(data, whole, tmp_path):
    out = tmp_path / "out"
    alone = run("train", NAME, "--data", data / "train", "-o", out)
    assert alone.exit_code == 2
    assert "no images to test on; give --eval" in alone.stderr
    given = run(
        "train", NAME, "--data", data / "train", "--eval", data / "test", "--epochs", EPOCHS,
        "--batch-size", 6, "-q", "-o", out,
    )  # fmt: skip
    assert given.exit_code == 0, given.output
    assert (out / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recipe", "shirt"), "unknown recipe 'shirt'; did you mean short"),
        (("--lr", 0), "learning_rate must be above 0"),
        (("--eval", "absent"), "absent: no such folder"),
        (("--resume",), "nothing to resume, no training was interrupted there"),
        (("--lr", 1e30), "infinite or NaN in epoch 1; lower the learning rate"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_bad_options_write_nothing(data, tmp_path, words, message):
    result = train(data, tmp_path / "out", *words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_bad_folders_write_nothing(data, tmp_path):
    write_images(tmp_path / "data" / "train", 2, 0)
    stranger = tmp_path / "data" / "test" / "violet"
    write_images(tmp_path / "spare", 1, 0)
    stranger.parent.mkdir()
    (tmp_path / "spare" / "red").rename(stranger)
    one = tmp_path / "one"
    (one / "train" / "red").mkdir(parents=True)
    out = tmp_path / "out"
    for folder, message in (
        (tmp_path / "absent", "absent: no such folder"),
        (tmp_path / "data", "violet: no training images are of this class"),
        (one, "no images to test on"),
    ):
        result = train(folder, out)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
    single = train(one, out, "--eval", data / "test")
    assert "1 class folders in it" in single.stderr
    same = train(data / "train", out, "--eval", data / "train")
    assert "are the training images too" in same.stderr
    unknown = run("train", "cifar-sick", "--data", data, "-o", out)
    assert unknown.exit_code == 2
    assert "unknown model 'cifar-sick'; did you mean" in unknown.stderr
    assert not out.exists()


def test_a_class_of_the_test_images_alone_is_refused_though_the_counts_agree(data, tmp_path):
    write_images(tmp_path / "test", 1, 0)
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "violet")
    result = train(data, tmp_path / "out", "--eval", tmp_path / "test")
    assert result.exit_code == 2
    assert "violet: no training images are of this class; rename the folder to one of blue, green, red" in (
        " ".join(result.stderr.split())
    )


@pytest.mark.parametrize(
    ("network", "words", "message"),
    [
        ("vgg11", ("--input-size", 8), "the network fails on an input of shape (1, 3, 8, 8)"),
        ("resnet18", ("--batch-size", 1, "--input-size", 32), "take larger batches or larger images"),
    ],
)
def test_what_a_network_cannot_read_is_one_line(data, tmp_path, network, words, message):
    result = run("train", network, "--data", data, "--epochs", 1, "-o", tmp_path / "out", *words)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_beginning_anew_forgets_the_interrupted_training(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert train(data, out).exit_code == 0
    (out / "train.json").unlink()
    (out / "training.pt").write_bytes(b"an old one")

    def interrupt(self, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", interrupt)
    train(data, out, "--overwrite")
    assert not (out / "training.pt").exists()


def test_earlier_results_are_kept_unless_told_otherwise(data, whole, tmp_path):
    assert train(data, tmp_path / "out", "-q").exit_code == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    refused = train(data, tmp_path / "out", "--seed", 1)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    ended = train(data, tmp_path / "out", "--resume")
    assert "that training has ended" in ended.stderr
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert train(data, tmp_path / "out", "--seed", 1, "--overwrite").exit_code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before
    (tmp_path / "out" / "plan.json").touch()
    foreign = train(data, tmp_path / "out", "--overwrite")
    assert "holds a compressed network" in foreign.stderr
    (tmp_path / "file").touch()
    assert "is a file" in train(data, tmp_path / "file").stderr
