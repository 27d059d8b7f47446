"""``cnncompress finetune`` on a folder that ``cnncompress MODEL`` has written."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import cnncompress
from cnncompress.cli import main
from cnncompress.data import open_source
from cnncompress.errors import OutputError
from cnncompress.export import ExportError
from cnncompress.finetuning.job import FinetuneJob, Given, finetune_folder
from cnncompress.gather import held_out_images
from cnncompress.image_arrays import array_source
from cnncompress.network import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from cnncompress.training.loop import Trainer
from cnncompress.training.recipe import Recipe
from cnncompress.training.recipes import RECIPES

CLASSES = ("blue", "green", "red")
FACTORY = "finetuned_nets:build"
SOURCE = """
from pathlib import Path
from safetensors.torch import load_file
from torch import nn

def build():
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )
    file = Path(__file__).with_name("trained.safetensors")
    if file.exists():
        net.load_state_dict(load_file(file))
    return net
"""


def colours(count, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 150, (3 * count, 16, 16, 3))
    labels = np.arange(3 * count) % 3
    for image, label in zip(pixels, labels, strict=True):
        image[..., 2 - label] += rng.integers(0, 60)
    return pixels.astype(np.uint8), labels


def write_images(folder, count, seed):
    for number, (pixels, label) in enumerate(zip(*colours(count, seed), strict=True)):
        (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / CLASSES[label] / f"{number}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "train", 14, 0)
    write_images(folder / "test", 6, 1)
    np.savez(folder / "bare.npz", images=colours(20, 2)[0].transpose(0, 3, 1, 2))
    return folder


@pytest.fixture(scope="module", autouse=True)
def without_onnx():
    """Its export takes seconds and is the same as after a compression."""

    def refuse(*given, **options):
        raise ExportError("not here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnncompress.output.write_onnx", refuse)
        yield


@pytest.fixture(scope="module")
def compressed(data, tmp_path_factory):
    """The results for a network that knows the colours, and what it was."""
    home = tmp_path_factory.mktemp("nets")
    (home / "finetuned_nets.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        import finetuned_nets

        torch.manual_seed(0)
        net = finetuned_nets.build()
        pixels, labels = colours(40, 5)
        mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(25):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), torch.from_numpy(labels)).backward()
            optimizer.step()
        save_file(net.state_dict(), home / "trained.safetensors")
        out = home / "out"
        made = run(
            FACTORY, "--data", data / "train", "--eval", data / "test", "--input-size", 16, "--speedup", "8x",
            "--align", 1, "--allow-slower", "--no-measure", "-o", out,
        )  # fmt: skip
        assert made.exit_code == 0, made.output
        yield out


@pytest.fixture
def out(compressed, tmp_path):

    return shutil.copytree(compressed, tmp_path / "out")


def run(*words):
    return CliRunner().invoke(main, list(map(str, words)))


def finetune(folder, *words, network=FACTORY):
    options = ("--network", network) if network else ()
    return run("finetune", folder, *options, *words)


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FAST = ("--epochs", 3, "--lr", 0.01, "--batch-size", 8)


def test_labels_train_and_the_folder_is_replaced(data, out):
    before = report_of(out)
    result = finetune(out, "--train", data / "train", "--eval", data / "test", *FAST)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors", "model.py", "plan.json", "report.json", "report.html",
    }  # fmt: skip
    after = report_of(out)
    done = after["finetune"]
    assert done["objective"] == "labels"
    assert max(done["accuracies"]) == done["accuracies"][done["kept"]] >= done["accuracies"][0]
    assert after["before_finetune"]["accuracy"] == before["accuracy"]
    assert after["accuracy"]["top1_before"] == before["accuracy"]["top1_before"]
    assert done["evaluation"]["top1_before"] == before["accuracy"]["top1_after"]
    assert done["evaluation"]["top1_after"] == after["accuracy"]["top1_after"]
    low, high = done["evaluation"]["ci95_paired"]
    assert low <= done["evaluation"]["gain_top1"] <= high
    assert after["macs"] == before["macs"]
    assert after["timing"]["total"] > before["timing"]["total"]
    plan = cnncompress.Plan.read(out / "plan.json")
    assert plan.finetuned[0]["recipe"]["learning_rate"] == 0.01
    assert plan.finetuned[0]["data_hash"] == done["data"]["hash"]
    assert "gained by fine-tuning" in (out / "report.html").read_text()
    assert after["notes"] == before["notes"]
    last = result.stdout.splitlines()[-1]
    assert last.startswith(f"{FACTORY}: held-out {done['accuracies'][0]:.1f} -> ")
    assert last.endswith(f"-> {out}")
    assert "epoch 1 of 3: loss" in result.stderr
    assert "start" in result.stdout


def test_the_written_network_is_the_one_that_was_measured(data, out):
    import finetuned_nets

    result = finetune(out, "--train", data / "train", "--eval", data / "test", *FAST, "--json")
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert written == report_of(out)
    model = cnncompress.load(out, finetuned_nets.build())
    preprocess = cnncompress.Preprocess.from_json(json.loads((out / "plan.json").read_text())["preprocess"])
    source = cnncompress.data.open_source(data / "test", preprocess=preprocess, need_labels=True)
    batch = next(iter(source.batches(100)))
    with torch.no_grad():
        right = float((model(batch.images).argmax(1) == batch.labels).double().mean())
    assert 100 * right == pytest.approx(written["accuracy"]["top1_after"])


@pytest.mark.parametrize("kind", [(), ("--distill",), ("--distill", "features"), ("--distill", "layers")])
def test_without_labels_the_original_teaches(data, out, kind):
    old = load_file(out / "model.safetensors")
    # at the temperature by which the held-out images judge: the steps are few
    words = ("--temperature", 1) if kind else ()
    result = finetune(out, "--train", data / "bare.npz", *FAST, *kind, *words)
    assert result.exit_code == 0, result.output
    done = report_of(out)["finetune"]
    assert done["objective"].startswith("distillation" if kind else "original outputs")
    assert done["history"][done["kept"]] == min(done["history"]) < done["history"][0]
    assert done["evaluation"] is None
    assert report_of(out)["accuracy"] is None
    assert report_of(out)["before_finetune"]["fidelity"]["heldout_images"] == done["held_out"]
    assert report_of(out)["fidelity"]["heldout_images"] == done["held_out"]
    assert report_of(out)["fidelity"] != report_of(out)["before_finetune"]["fidelity"]
    new = load_file(out / "model.safetensors")
    changed = {name for name in new if not torch.equal(new[name], old[name])}
    assert ("9.weight" in changed) == (kind[-1:] != ("layers",))
    assert "relative error before fine-tuning" in (out / "report.html").read_text()
    assert "held-out loss" in result.stdout


def test_the_upper_layers_alone(data, out):
    old = load_file(out / "model.safetensors")
    result = finetune(out, "--train", data / "bare.npz", *FAST, "--layers", "upper")
    assert result.exit_code == 0, result.output
    new = load_file(out / "model.safetensors")
    assert {name for name in new if not torch.equal(new[name], old[name])} == {"9.weight", "9.bias"}
    refused = finetune(out, "--train", data / "bare.npz", "--layers", "upper", "--distill", "layers")
    assert refused.exit_code == 2
    assert "--layers all" in refused.stderr


def test_a_result_that_could_not_replace_the_folder_is_refused_first(data, out, monkeypatch):
    before = content(out)
    inside = finetune(out, "--train", data / "train", *FAST, "-o", out / "better")
    assert inside.exit_code == 2
    assert "a folder beside it" in inside.stderr
    monkeypatch.chdir(out)
    here = finetune(".", "--train", data / "train", *FAST)
    assert here.exit_code == 2
    assert "from the folder above" in here.stderr
    assert content(out) == before


def broken(folder, how_many, *, share=0.2):
    """Break some of the images that will judge; returns how many judge."""
    keys = open_source(folder, preprocess=Preprocess(), seed=0).keys
    judges = sorted(held_out_images(range(len(keys)), share=share, seed=0))
    for place in judges[:how_many]:
        Path(keys[place]).write_bytes(b"broken")
    return len(judges)


def test_images_that_judge_but_cannot_be_read(out, tmp_path):
    write_images(tmp_path / "few", 5, 3)
    judges = broken(tmp_path / "few", 1)
    result = finetune(out, "--train", tmp_path / "few", *FAST)
    assert result.exit_code == 0, result.output
    done = report_of(out)["finetune"]
    assert done["held_out"] == judges - 1
    assert f"{judges - 1} images, by" in result.stdout
    broken(tmp_path / "few", judges)
    before = content(out)
    refused = finetune(out, "--train", tmp_path / "few", *FAST, "--max-bad", 0.9)
    assert refused.exit_code == 2
    assert f"none of the {judges} images" in refused.stderr
    assert content(out) == before


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_loss_out_of_hand_keeps_the_start(data, out, rate):
    old = load_file(out / "model.safetensors")
    result = finetune(out, "--train", data / "bare.npz", "--epochs", 4, "--lr", rate, "--batch-size", 8)
    assert result.exit_code == 0, result.output
    done = report_of(out)["finetune"]
    assert done["kept"] == 0
    assert done["epochs"] < 4
    assert "lower the learning rate (--lr" in done["note"]
    assert "the start, which is kept" in result.stdout
    new = load_file(out / "model.safetensors")
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_twice_is_recorded_twice(data, out, tmp_path):
    before, new = content(out), tmp_path / "new"
    first = finetune(out, "--train", data / "bare.npz", *FAST, "-o", new, "-q")
    assert first.exit_code == 0, first.output
    assert len(first.stdout.splitlines()) == 1
    assert content(out) == before
    again = finetune(new, "--train", data / "train", *FAST)
    assert again.exit_code == 0, again.output
    objectives = [record["objective"] for record in cnncompress.Plan.read(new / "plan.json").finetuned]
    assert objectives == ["original outputs", "labels"]
    refused = finetune(out, "--train", data / "bare.npz", *FAST, "-o", new)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert finetune(out, "--train", data / "bare.npz", *FAST, "-o", new, "--overwrite").exit_code == 0
    assert len(cnncompress.Plan.read(new / "plan.json").finetuned) == 1


def stopped(folder, *words, after, network=FACTORY):
    """Run until so many steps are taken."""
    whole, steps = Trainer._step, iter(range(after))

    def step(self, *given):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return whole(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        return finetune(folder, *words, network=network)


def test_interrupted_and_resumed_is_as_uninterrupted(data, out, tmp_path):
    words = ("--train", data / "bare.npz", *FAST, "--distill", "--patience", 2)
    assert finetune(out, *words, "-o", tmp_path / "whole").exit_code == 0
    before, new = content(out), tmp_path / "new"
    halted = stopped(out, *words, "-o", new, after=8)  # of six in an epoch
    assert halted.exit_code == 130
    assert "interrupted; --resume goes on" in halted.stderr
    assert [path.name for path in new.iterdir()] == ["finetune.pt"]
    assert content(out) == before
    for again in (finetune(out, *words, "-o", new), run(FACTORY, "--data", data / "bare.npz", "-o", new)):
        assert again.exit_code == 2
        assert "--resume" in again.stderr
    for wrong, message in (
        (("--lr", 0.5), "--lr 0.5 is not what the run began with (0.01)"),
        (("--train", data / "train"), "is not what the run began with"),
        (("--overwrite",), "can't be given beside --resume"),
        (("--recipe", "nin"), "can't be given beside --resume"),
    ):
        refused = finetune(new, "--resume", *wrong)
        assert refused.exit_code == 2, refused.output
        assert message in " ".join(refused.stderr.split())
    unnamed = finetune(new, "--resume", network=None)
    assert unnamed.exit_code == 2
    assert f"add --network {FACTORY}" in " ".join(unnamed.stderr.split())
    resumed = finetune(new, "--resume", "--lr", 0.01)
    assert resumed.exit_code == 0, resumed.output
    assert (new / "model.safetensors").read_bytes() != before["model.safetensors"]
    one, two = (load_file(folder / "model.safetensors") for folder in (new, tmp_path / "whole"))
    assert all(torch.equal(one[name], two[name]) for name in two)
    done, whole = (report_of(folder)["finetune"] for folder in (new, tmp_path / "whole"))
    assert done["history"] == whole["history"]
    assert (done["resumed"], whole["resumed"]) == ([1], [])
    ended = finetune(new, "--resume")
    assert ended.exit_code == 2
    assert "nothing to resume" in ended.stderr


KILLED = """
import os, signal, sys
from pathlib import Path
from cnncompress.finetuning.job import FinetuneJob, finetune_folder
from cnncompress.training.loop import Trainer
from cnncompress.training.recipe import Recipe

sys.path.insert(0, sys.argv[1])
whole, steps = Trainer._step, iter(range(8))

def step(self, *given):
    if next(steps, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, *given)

Trainer._step = step
recipe = Recipe(epochs=3, learning_rate=0.01, batch_size=8, precision="float32")
finetune_folder(FinetuneJob(
    folder=sys.argv[2], training=sys.argv[3], recipe=recipe, network=sys.argv[4], keep_seconds=0
))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_within_an_epoch_and_resumed_is_as_uninterrupted(data, compressed, out, tmp_path):
    bare, before = data / "bare.npz", content(out)
    words = [sys.executable, "-c", KILLED, compressed.parent, out, bare, FACTORY]
    child = subprocess.run(list(map(str, words)), check=False, capture_output=True)  # noqa: S603  # our own
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert {name: value for name, value in content(out).items() if name != "finetune.pt"} == before
    (out / ".finetune.pt.tmp").write_bytes(b"half")  # had it been killed while it wrote
    assert finetune(out, "--resume").exit_code == 0
    job = FinetuneJob(
        folder=compressed,
        training=bare,
        recipe=Recipe(epochs=3, learning_rate=0.01, batch_size=8),
        network=FACTORY,
        output=tmp_path / "whole",
    )
    expected = finetune_folder(job)
    assert report_of(out)["finetune"]["resumed"] == [1]
    found = load_file(out / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.model.state_dict().items())
    assert sorted(content(out)) == sorted(before)


def test_other_images_are_not_resumed_with(data, out, tmp_path):
    images = tmp_path / "images.npz"
    images.write_bytes((data / "bare.npz").read_bytes())
    assert stopped(out, "--train", images, *FAST, after=8).exit_code == 130
    np.savez(images, images=colours(20, 3)[0].transpose(0, 3, 1, 2))
    refused = finetune(out, "--resume")
    assert refused.exit_code == 2
    assert "images.training was" in refused.stderr
    (out / "finetune.pt").write_bytes(b"nonsense")
    assert "can't be read" in finetune(out, "--resume").stderr
    assert finetune(out, "--train", images, *FAST, "--overwrite").exit_code == 0


def test_interrupted_before_a_state_was_kept_leaves_no_trace(data, out, tmp_path):
    before = content(out)
    for where in ((), ("-o", tmp_path / "new")):
        halted = stopped(out, "--train", data / "bare.npz", *FAST, *where, after=1)
        assert halted.exit_code == 130
        assert "nothing has changed" in halted.stderr
    assert content(out) == before
    assert not (tmp_path / "new").exists()


def test_a_full_disk_at_the_end_leaves_the_folder_as_it_was(data, out, monkeypatch):
    before = content(out)

    def full(path, value):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cnncompress.output.write_json", full)
        failed = finetune(out, "--train", data / "bare.npz", *FAST)
    assert failed.exit_code == 2
    assert "No space left on device" in failed.stderr
    assert {name: value for name, value in content(out).items() if name != "finetune.pt"} == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    resumed = finetune(out, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert report_of(out)["finetune"]["epochs"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "brings no training images of its own; give some with --train"),
        (("--train", "absent"), "absent: no such file or folder"),
        (("--train", "TRAIN", "--eval", "TRAIN"), "42 images are in both"),
        (("--train", "TRAIN", "--lr", 0), "learning_rate must be above 0"),
        (("--train", "TRAIN", "--temperature", 2), "--temperature is that of --distill"),
        (("--train", "TRAIN", "--distill", "--temperature", 0), "temperature must be above 0"),
        (("--train", "TRAIN", "--recipe", "finetone"), "did you mean finetune"),
        (("--train", "TRAIN", "--device", "abacus"), "abacus"),
        (("--resume",), "nothing to resume"),
    ],
)
def test_bad_options_change_nothing(data, out, words, message):
    before = content(out)
    result = finetune(out, *(data / "train" if word == "TRAIN" else word for word in words))
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert content(out) == before


def test_what_is_no_folder_of_results_is_told(data, out, tmp_path):
    assert "plan.json" in finetune(tmp_path / "absent", "--train", data / "train").stderr
    (out / "report.json").write_text("{}")
    assert "is no report" in finetune(out, "--train", data / "train").stderr
    assert not (tmp_path / "absent").exists()


def test_own_code_runs_only_when_it_is_named(data, out):
    refused = finetune(out, "--train", data / "train", network=None)
    assert refused.exit_code == 2
    assert f"give --network {FACTORY}" in " ".join(refused.stderr.split())


def test_networks_and_images_in_memory(compressed, tmp_path):
    import finetuned_nets

    torch.manual_seed(0)
    source = array_source(
        torch.randn(30, 3, 16, 16), None, preprocess=None, limit=None, seed=0, name="mine", max_bad=0.0
    )
    recipe = Recipe(epochs=2, learning_rate=0.01, batch_size=8)
    given = Given(original=finetuned_nets.build(), training=source)
    done = finetune_folder(
        FinetuneJob(folder=compressed, recipe=recipe, output=tmp_path / "new"), given=given
    )
    assert done.folder == tmp_path / "new"
    assert done.finetuned.history[done.finetuned.kept] < done.finetuned.history[0]
    loaded = cnncompress.load(done.folder, finetuned_nets.build()).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in done.model.state_dict().items())
    with pytest.raises(OutputError, match="--overwrite"):
        finetune_folder(FinetuneJob(folder=compressed, recipe=recipe, output=tmp_path / "new"), given=given)


def test_labels_train_though_the_original_is_gone(data, tmp_path):
    checkpoint, out = tmp_path / "trained.safetensors", tmp_path / "out"
    network = cnncompress.load_network("cifar-sic-half", weights="none", num_classes=3)
    save_file(network.model.state_dict(), checkpoint)
    made = run(
        "cifar-sic-half", "--checkpoint", checkpoint, "--data", data / "train", "--speedup", "1.3x",
        "--no-measure", "--allow-slower", "-o", out,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    words = ("--train", data / "train", "--epochs", 1, "--batch-size", 20, "--eval", data / "test")
    blind = finetune(out, *words, network=None)
    assert blind.exit_code == 0, blind.output
    assert "the original network isn't at hand" in " ".join(blind.stderr.split())
    written = report_of(out)
    assert written["accuracy"] is None
    assert written["finetune"]["target"] is None
    assert written["finetune"]["evaluation"]["n"] == 18
    taught = finetune(out, *words, "--distill", network=None)
    assert taught.exit_code == 2
    assert "--checkpoint FILE" in taught.stderr
    words = ("--train", data / "bare.npz", "--epochs", 2, *words[4:], "--distill", "--checkpoint", checkpoint)
    assert stopped(out, *words, network=None, after=4).exit_code == 130  # of three in an epoch
    known = finetune(out, "--resume", network=None)
    assert known.exit_code == 0, known.output
    assert report_of(out)["accuracy"]["n"] == 18
    assert report_of(out)["finetune"]["resumed"] == [1]


def test_a_factory_whose_weights_were_a_file_teaches_only_with_them(data, compressed, out):
    written = report_of(out)
    written["weights"] = "checkpoint trained.safetensors"
    (out / "report.json").write_text(json.dumps(written))
    refused = finetune(out, "--train", data / "bare.npz", *FAST, "--distill")
    assert refused.exit_code == 2
    assert "--checkpoint FILE" in refused.stderr
    file = compressed.parent / "trained.safetensors"
    taught = finetune(out, "--train", data / "bare.npz", *FAST, "--distill", "--checkpoint", file)
    assert taught.exit_code == 0, taught.output


def test_help_names_all_recipes():
    shown = run("finetune", "--help").stdout
    assert all(name in shown for name in RECIPES)
