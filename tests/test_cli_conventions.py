"""What holds for every command: help at once, one JSON document, quiet, plain text in a pipe, exit codes."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cnncompress.cli import main
from cnncompress.cli.progress import Progress

BUILD = """
import torch
from torch import nn

def build():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        ).eval()
"""
MODEL = "conventional_nets:build"
RUN = ("--data", "images.npz", "--input-size", "12", "--align", "1", "--method", "spatial", "--no-measure")

# a way to call each command that ends well within a second or two; FRESH becomes a folder of its own
CALLS: Mapping[str, tuple[str, ...]] = {
    "compress": (MODEL, *RUN, "--speedup", "2x", "-o", "FRESH"),
    "finetune": ("done", "--network", MODEL, "--train", "images.npz", "--epochs", "1", "-o", "FRESH"),
    "check": ("done", "--min-speedup", "1.1", "--model", MODEL, "-o", "FRESH"),
    "bench": ("done", "--model", MODEL, "--runtimes", "torch", "--repeats", "1", "--per-layer"),
    "explain": ("done",),
    "inspect": (MODEL, "--input-size", "12"),
    "models": ("vgg1*",),
    "profile": (MODEL, "--input-size", "12", "--method", "spatial"),
    "train": ("cifar-sic-half", "--data", "classes", "--epochs", "1", "--batch-size", "6", "-o", "FRESH"),
}
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "several speedups": ("compress", MODEL, *RUN, "--speedup", "1.5x,2x", "-o", "FRESH"),
    "explain a layer": ("explain", "done", "2"),
    "inspect --covariance": (
        *("inspect", MODEL, "--input-size", "12", "--covariance", "--data", "images.npz", "--images", "6"),
        *("--out", "FRESH"),
    ),
    "inspect --filters": (
        *("inspect", "cifar-sic-half", "--weights", "none", "--filters", "4.depthwise", "--out", "FRESH"),
    ),
}
WORKING = {name: (name, *CALLS.get(name, ())) for name in main.commands} | VARIANTS
WITHOUT_PROGRESS = {"models", "explain", "explain a layer"}
WITH_STAGES = ("compress", "finetune", "bench", "train", "several speedups", "inspect --covariance")

WRONG: Mapping[str, tuple[str, ...]] = {
    "compress": ("no-such-model",),
    "finetune": ("nowhere",),
    "check": ("done",),  # without a threshold there is nothing to check
    "bench": ("nowhere",),
    "explain": ("nowhere",),
    "inspect": ("no-such-model",),
    "models": ("no-such-*",),
    "profile": (MODEL, "--runtime", "no-such-runtime"),
    "train": ("no-such-model", "--data", "classes"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An importable network, images, and the folder that a run has left."""
    folder = tmp_path_factory.mktemp("conventions")
    (folder / "conventional_nets.py").write_text(BUILD)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((20, 3, 12, 12), dtype=np.float32)
    np.savez(folder / "images.npz", images=images, labels=np.arange(20) % 2)
    for name in ("a", "b"):
        for part, count in (("train", 6), ("test", 2)):
            (folder / "classes" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "classes" / part / name / f"{part}{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "conventional_nets", raising=False)
        patch.setenv("CNNCOMPRESS_CACHE", str(folder / "cache"))
        # exports take a second for each network, and have tests of their own
        patch.setattr("cnncompress.output.write_onnx", lambda *_, **__: None)
        patch.chdir(folder)
        made = CliRunner().invoke(
            main, ["compress", MODEL, *RUN, "--speedup", "2x", "--allow-slower", "-o", "done"]
        )
        assert made.exit_code == 0, made.output
        yield folder


def run(words: tuple[str, ...], fresh: Path) -> Result:
    return CliRunner().invoke(main, [str(fresh / "new") if word == "FRESH" else word for word in words])


def only_document(text: str) -> Any:
    """The one JSON document in a text; NaN, which is none, is refused."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_every_command_is_called_here() -> None:
    assert set(main.commands) <= set(CALLS)
    assert set(main.commands) <= set(WRONG)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", WORKING)
def test_json_is_one_document_and_progress_goes_to_stderr(name: str, tmp_path: Path) -> None:
    done = run((*WORKING[name], "--json"), tmp_path)
    assert done.exit_code == 0, done.output
    assert only_document(done.stdout) not in (None, {}, [])
    assert "\x1b" not in done.stdout + done.stderr
    assert bool(done.stderr) or name not in WITH_STAGES


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", [name for name in WORKING if name not in WITHOUT_PROGRESS])
def test_quiet_leaves_stderr_empty(name: str, tmp_path: Path) -> None:
    done = run((*WORKING[name], "--quiet"), tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert done.stdout.strip()
    assert "\x1b" not in done.stdout


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", main.commands)
def test_what_can_be_mended_goes_to_stderr_with_code_2(name: str, tmp_path: Path) -> None:
    failed = run((name, *WRONG.get(name, ()), "--json"), tmp_path)
    assert failed.exit_code == 2, failed.output
    assert failed.stdout == ""
    assert "rror: " in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("name", "when"),
    [
        *((name, "__enter__") for name in main.commands if name not in WITHOUT_PROGRESS),
        *((name, "__call__") for name in WITH_STAGES),
    ],
)
def test_interrupting_ends_with_130(
    name: str, when: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, when, interrupted)
    stopped = run((*WORKING[name], "--json"), tmp_path)
    assert stopped.exit_code == 130
    assert stopped.stdout == ""
    assert stopped.stderr.startswith("interrupted")
    assert not (tmp_path / "new").exists() or list((tmp_path / "new").iterdir()) == []


class Terminal:
    """A pseudo-terminal in the place of stdout and stderr; all that is written to it is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._reader, writer = os.openpty()
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self._file = os.fdopen(writer, "w", encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", self._file)
        monkeypatch.setattr(sys, "stderr", self._file)

    def _read(self) -> None:
        with suppress(OSError):  # the other end was closed
            while found := os.read(self._reader, 4096):
                self._kept += found

    def text(self) -> str:
        self._file.close()
        self._thread.join()
        os.close(self._reader)
        return self._kept.decode()


STYLE = re.compile(r"\x1b\[[\d;]*m")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("term", "colourless", "styles", "codes"),
    [
        ("xterm-256color", "", True, True),
        ("xterm-256color", "1", False, True),  # the bar still moves the cursor
        ("dumb", "", False, False),
        ("dumb", "1", False, False),
    ],
)
def test_terminals_get_the_codes_that_they_asked_for(
    term: str, colourless: str, styles: bool, codes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", colourless)
    for name in ("COLORTERM", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    terminal = Terminal(monkeypatch)
    try:
        main(WORKING["bench"], prog_name="cnncompress", standalone_mode=False)
        main(["models", "vgg1*"], prog_name="cnncompress", standalone_mode=False)
    finally:
        shown = terminal.text()
    assert "whole network" in shown
    assert "vgg16_bn" in shown
    assert bool(STYLE.search(shown)) is styles
    assert ("\x1b" in shown) is codes


HEAVY = (
    "torch",
    "torchvision",
    "numpy",
    "matplotlib",
    "rich",
    "onnxruntime",
    "onnx",
    "sklearn",
    "scipy",
    "PIL",
)
LOADED = f"print([name for name in {HEAVY!r} if name in sys.modules])"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603  # ourselves
    return done.stdout.strip()


def test_no_help_loads_anything_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cnncompress.cli import main\n"
        "for words in (['--help'], ['--version'], *([name, '--help'] for name in main.commands)):\n"
        "    done = CliRunner().invoke(main, words)\n"
        "    assert done.exit_code == 0 and done.stdout, words\n"
    )
    assert python(code + LOADED) == "[]"


UNUSABLE = (
    ["vgg16", "--speedup", "fast"],
    ["vgg16", "--no-such-option"],
    ["vgg16", "--method", "svd-outt"],
    ["vgg16", "--ranks", "best"],
    ["vgg16", "--plan", "plan.json", "--method", "spatial"],
    ["vgg16", "--plan", "plan.json", "--align", "8"],
    ["vgg16", "--budget", "latency", "--runtime", "onnxrutime"],
    ["vgg16", "--threads", "2"],
    ["vgg16", "--no-probes"],
    ["vgg16", "--max-drop", "0"],
    ["vgg16", "--max-drop", "1", "--data", "photos"],
    ["vgg16", "--lr", "0.1"],
    ["vgg16", "--finetune", "1", "--recipe", "none"],
    ["bench", "out", "--runtimes", "torch,openvio"],
    ["bench", "out", "--threads", "0"],
    ["profile", "vgg16", "--runtime", "cudda"],
    ["profile", "vgg16", "--method", "gsdv"],
    ["inspect", "vgg16", "--covariance"],
    ["finetune", "out", "--recipe", "none"],
    ["finetune", "out", "--temperature", "2"],
    ["train", "vgg16", "--data", "photos", "--recipe", "none"],
    ["train", "vgg16"],
)


def test_wrong_usage_is_told_before_anything_heavy_is_loaded() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cnncompress.cli import main\n"
        f"for words in {UNUSABLE!r}:\n"
        "    done = CliRunner().invoke(main, words)\n"
        "    assert done.exit_code == 2 and done.stderr and not done.stdout, (words, done.output)\n"
        f"    assert not set({HEAVY!r}) & set(sys.modules), words\n"
    )
    assert python(code + LOADED) == "[]"


@pytest.mark.parametrize("name", main.commands)
def test_every_command_and_option_is_described(name: str) -> None:
    command = main.commands[name]
    assert command.help
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert "--json" in flags
    assert {"--quiet", "-q"} <= flags or name in WITHOUT_PROGRESS
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{name} {parameter.opts}"
    shown = CliRunner().invoke(main, [name, "--help"]).stdout
    assert max(map(len, shown.splitlines())) <= 100


def test_what_a_library_prints_or_warns_of_is_dropped_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with Progress(quiet=quiet):
            print("a library prints")
            if quiet:
                warnings.warn("a library warns", stacklevel=1)
                logging.getLogger("library").warning("a library logs")
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err == ("" if quiet else "a library prints\n")
    assert logging.root.manager.disable == logging.NOTSET
