"""The shell: what may be typed, what goes to which stream, and with which exit code it ends."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console
from torch import nn

from cnncompress import api, data
from cnncompress import models as toolkit_models
from cnncompress.cli import main
from cnncompress.cli.compress import default_folder
from cnncompress.cli.progress import Progress, amount
from cnncompress.cli.tables import print_table, verdict
from cnncompress.errors import BudgetError, CompressError, DataError, ModelError
from cnncompress.events import LayerDone, Note, StageAdvanced, StageDone, StageStarted
from cnncompress.network import Network, Preprocess

LONG_NAME = "stages.3.blocks.12.residual_branch.convolution_with_a_long_name"

REPORT: dict[str, Any] = {
    "schema": 1,
    "name": "tiny",
    "asked": {"speedup": 4.0, "budget": "conv MACs"},
    "macs": {"conv_before": 4e6, "conv_after": 1e6, "conv_speedup": 4.0, "speedup": 3.9},
    "bytes": {"before": 4_000_000, "after": 1_000_000},
    "layers": [
        {
            "name": LONG_NAME,
            "method": "gsvd3d",
            "ranks": [8, 16],
            "macs_before": 4_000_000,
            "macs_after": 1_000_000,
            "energy_kept": 0.97,
            "error_heldout": 0.11,
            "reason": "asymmetric nonlinear was best on held-out images, and this reason is long too",
        },
        {
            "name": "conv1",
            "method": "none",
            "ranks": [],
            "macs_before": 10,
            "macs_after": 10,
            "energy_kept": None,
            "error_heldout": None,
            "reason": "no rank is cheaper",
        },
    ],
    "fidelity": {"heldout_images": 60, "output_relative_error": 0.084},
    "accuracy": {"n": 656, "top1_before": 84.3, "top1_after": 83.84, "drop_top1": 0.46},
    "latency": [{"runtime": "torch", "threads": 1, "speedup": 2.77}],
}


class FakeResult:
    """Saves the report alone."""

    def save(self, path: Path, *, overwrite: bool = False, report: Any = None) -> Path:
        path.mkdir(parents=True, exist_ok=overwrite)
        (path / "plan.json").write_text("{}")
        (path / "report.json").write_text(json.dumps(REPORT))
        return path


class Calls(dict[str, Any]):
    """What the toolkit was called with."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    seen = Calls()

    def load_network(name: str, **options: Any) -> Network:
        seen["network"] = {"name": name} | options
        return Network(
            name=name, model=nn.Conv2d(3, 4, 3), preprocess=Preprocess(crop=(8, 8)), categories=("a",)
        )

    def open_source(source: Any, **options: Any) -> str:
        seen[str(source)] = options
        return f"source {source}"

    def compress(
        network: Network,
        calibration: Any,
        evaluation: Any,
        options: Any,
        report: Any,
        *,
        training: Any,
        world: Any,
    ) -> FakeResult:
        assert world.is_alone
        seen.update(options=options, calibration=calibration, evaluation=evaluation, training=training)
        print("a library prints")
        report(StageStarted("calibrate", 20))
        report(StageAdvanced("calibrate", 20))
        report(StageDone("calibrate", 2.0))
        report(Note("the classifier is missing"))
        return FakeResult()

    monkeypatch.setattr(toolkit_models, "load_network", load_network)
    monkeypatch.setattr(data, "open_source", open_source)
    monkeypatch.setattr(api, "compress", compress)
    monkeypatch.chdir(tmp_path)
    return seen


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args), catch_exceptions=False)


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(api, "compress", refuse)


def test_a_model_alone_means_compress(calls: Calls) -> None:
    for args in (("tiny",), ("compress", "tiny"), ("--speedup", "4x", "tiny"), ("tiny", "--speedup", "4")):
        calls.clear()
        result = run(*args)
        assert result.exit_code == 0, result.output
        assert calls["network"]["name"] == "tiny"
        assert calls["options"] == api.Options()


def test_results_go_to_stdout_and_progress_to_stderr(calls: Calls) -> None:
    result = run("tiny")
    assert result.exit_code == 0
    assert LONG_NAME in result.stdout
    assert result.stdout.splitlines()[-1].endswith("-> cnncompress-out/tiny-4x")
    assert "calibrate: 20 images in 2.0 s, 10 images/s" in result.stderr
    assert "note: the classifier is missing" in result.stderr
    assert "calibrate" not in result.stdout
    assert "prints" not in result.stdout


def test_json_is_all_there_is_on_stdout(calls: Calls) -> None:
    result = run("tiny", "--json")
    assert json.loads(result.stdout) == REPORT
    assert "a library prints" in result.stderr


def test_quiet_prints_the_verdict_alone(calls: Calls) -> None:
    result = run("tiny", "--quiet")
    assert len(result.stdout.splitlines()) == 1
    assert "calibrate" not in result.stderr


def test_every_option_arrives(calls: Calls, tmp_path: Path) -> None:
    result = run(
        *("tiny", "--speedup", "2.5x", "--data", "photos", "--eval", "val", "--labels", "labels.csv"),
        *("--method", "spatial", "--option", "iterations=5", "--option", "lam=0.5", "--option", "fast=True"),
        *("--option", "init=svd", "--ranks", "uniform", "--align", "16", "--skip", "a.*", "--skip", "b"),
        *("--only", "c*", "--rank", "features.2=64,32", "--rank", "x=7", "--include-linear"),
        *("--images", "50", "--positions", "9", "--batch-size", "4", "--memory", "2GB", "--solver", "numpy"),
        *("--device", "cpu", "--seed", "3", "--weights", "none", "--num-classes", "7", "--input-size", "96"),
        *("--mean", "0.5,0.5,0.5", "--std", "1,1,1", "--max-bad", "0.2", "--no-measure", "-o", "here"),
        "--no-examples",
    )
    assert result.exit_code == 0, result.output
    assert calls["options"] == api.Options(
        speedup=2.5,
        method="spatial",
        method_options={"iterations": 5, "lam": 0.5, "fast": True, "init": "svd"},
        ranks="uniform",
        align=16,
        skip=("a.*", "b"),
        only=("c*",),
        layer_ranks={"features.2": (64, 32), "x": (7,)},
        include_linear=True,
        images=50,
        positions=9,
        batch_size=4,
        memory=2_000_000_000,
        solver="numpy",
        seed=3,
        measure=False,
        examples=False,
    )
    assert (calls["calibration"], calls["evaluation"]) == ("source photos", "source val")
    assert calls["photos"] | {"preprocess": None} == {
        "preprocess": None,
        "limit": 50,
        "seed": 3,
        "max_bad": 0.2,
        "categories": (),
    }
    assert calls["val"]["labels"] == Path("labels.csv")
    assert calls["val"]["need_labels"] is True
    assert calls["val"]["categories"] == ("a",)
    network = calls["network"]
    assert (network["weights"], network["num_classes"], network["input_size"]) == ("none", 7, 96)
    assert (network["mean"], network["std"]) == ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    assert (tmp_path / "here" / "report.json").exists()


def test_a_plan_arrives_and_implies_its_ranks(calls: Calls, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert run("tiny", "--plan", str(plan), "--images", "50").exit_code == 0
    assert calls["options"] == api.Options(ranks="manual", manual_plan=str(plan), images=50)


@pytest.mark.parametrize(
    "args",
    [
        ("--method", "spatial"),
        ("--method", "gsvd3d"),  # the default, but typed
        ("--align", "8"),
        ("--option", "iterations=5"),
        ("--rank", "features.2=64"),
        ("--layer", "features.*"),
        ("--skip", "features.2"),
    ],
)
def test_what_a_plan_settles_is_refused_beside_it(calls: Calls, args: tuple[str, ...]) -> None:
    result = run("tiny", "--plan", "p.json", *args)
    assert result.exit_code == 2
    assert "--plan settles all layers" in result.stderr
    assert "network" not in calls


def test_shorthands_of_method_options_arrive(calls: Calls) -> None:
    result = run(
        *("tiny", "--method", "monochromatic", "--layer", "features.0", "--colors", "12"),
        *("--metric-weights", "data", "--allow-slower", "--finetune", "upper", "--train", "train"),
        *("--epochs", "3", "--lr", "0.01"),
    )
    assert result.exit_code == 0, result.output
    assert calls["options"] == api.Options(
        method="monochromatic",
        method_options={"colors": 12, "metric": "data"},
        only=("features.0",),
        allow_slower=True,
        finetune="upper",
        epochs=3,
        learning_rate=0.01,
    )
    assert calls["training"] == "source train"
    assert calls["train"]["categories"] == ("a",)
    assert result.stdout.splitlines()[-1].endswith("-> cnncompress-out/tiny-monochromatic")
    for wrong, message in (
        (("--method", "monochromatic", "--colors", "12", "--option", "colors=6"), "given twice"),
        (("--option", "G=2", "--option", "G=4"), "--option G is given twice"),
        (("--metric-weights", "data"), "svd-out"),
        (("--colors", "12"), "--colors is for --method monochromatic, not for gsvd3d"),
    ):
        refused = run("tiny", *wrong)
        assert refused.exit_code == 2
        assert message in refused.stderr


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("--finetune", "3"), {"finetune": "all", "epochs": 3}),
        (("--finetune", "all", "--no-repair"), {"finetune": "all", "repair": False}),
        (("--repair",), {"repair": True}),
        (("--finetune", "2", "--distill", "--quiet"), {"finetune": "all", "epochs": 2, "distill": "logits"}),
        (("--finetune", "2", "--distill", "layers"), {"finetune": "all", "epochs": 2, "distill": "layers"}),
        (("--finetune", "upper", "--recipe", "recover"), {"finetune": "upper", "recipe": "recover"}),
    ],
)
def test_ways_to_recover_accuracy_arrive(
    calls: Calls, words: tuple[str, ...], options: dict[str, Any]
) -> None:
    assert run("tiny", *words).exit_code == 0
    assert calls["options"] == api.Options(method="gsvd3d", **options)


def test_recipes_and_repair_by_default() -> None:
    chosen = api.Options(finetune="all")
    recipe = chosen.finetuning()
    assert (recipe.learning_rate, recipe.batch_size, recipe.epochs) == (1e-5, 128, 5)  # Zhang et al., 3.6
    assert api.Options(finetune="all", epochs=2, learning_rate=0.1).finetuning().epochs == 2
    above = api.Options(finetune="upper").finetuning()
    assert (above.learning_rate, above.batch_size) == (1e-3, 32)
    with pytest.raises(CompressError, match="distill"):
        api.Options(distill="logits")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--colors", "0"), "--colors"),
        (("--train", "photos"), "--train needs --finetune"),
        (("--lr", "0.1"), "--lr needs --finetune"),
        (("--distill",), "--distill needs --finetune"),
        (("--finetune", "lower"), "a number of epochs nor upper or all"),
        (("--finetune", "0"), "a number of epochs"),
        (("--finetune", "3", "--epochs", "2"), "give one of them"),
        (("--finetune", "3", "--lr", "0"), "above 0"),
        (("--finetune", "3", "--recipe", "none"), "unknown recipe"),
        (("--finetune", "3", "--distill", "all"), "logits"),
        (("--metric-weights", "mahalanobis"), "gradient"),
        (("--speedup", "1x"), "above 1x"),
        (("--speedup", "0"), "above 1x"),
        (("--speedup", "-4"), "above 1x"),
        (("--speedup", "inf"), "above 1x"),
        (("--speedup", "nan"), "above 1x"),
        (("--speedup", "fast"), "4x or 2.5x"),
        (("--speedupp", "4x"), "No such option"),
        (("--align", "0"), "neither auto nor"),
        (("--memory", "lots"), "2GB"),
        (("--rank", "conv1"), "features.2=64,32"),
        (("--rank", "conv1=0"), "features.2=64,32"),
        (("--option", "iterations"), "iterations=50"),
        (("--mean", "grey"), "0.5,0.5,0.5"),
        (("--ranks", "best"), "greedy"),
        (("--ranks", "manual"), "--plan"),
        (("--ranks", "greedy", "--plan", "p.json"), "--ranks manual"),
        (("--labels", "l.csv"), "--eval"),
        (("--images", "0"), "--images"),
        (("--max-bad", "2"), "--max-bad"),
        (("--solver", "magma"), "cupy"),
    ],
)
def test_wrong_options_are_named_with_their_remedy(calls: Calls, args: tuple[str, ...], message: str) -> None:
    result = run("tiny", *args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert "options" not in calls


def test_no_model_is_a_usage_error(calls: Calls) -> None:
    result = run("--speedup", "4x")
    assert result.exit_code == 2
    assert "MODEL" in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        BudgetError("100x can't be reached: the most is 9.1x; ask for less"),
        DataError("photos/: no images there; give a folder with .jpg or .png files"),
        ModelError("two\nlines"),
    ],
)
def test_errors_a_user_can_mend_are_one_line(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    fail_with(monkeypatch, error)
    result = run("tiny", "--speedup", "100x")
    assert result.exit_code == 2
    assert result.stderr == f"error: {' '.join(str(error).split())}\n"
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_our_own_mistakes_are_not_hidden(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        run("tiny")


def test_interrupting_ends_with_130(calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    result = run("tiny")
    assert result.exit_code == 130
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_must_stay_is_found_before_the_work(calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_text("precious")
    result = run("tiny", "-o", "mine", "--overwrite")
    assert result.exit_code == 2
    assert "choose another folder" in result.stderr
    assert "network" not in calls


def test_earlier_results_are_replaced_at_the_default_place_only(calls: Calls) -> None:
    assert [run("tiny").exit_code for _ in range(2)] == [0, 0]
    assert [run("tiny", "-o", "here").exit_code for _ in range(2)] == [0, 2]
    assert "--overwrite" in run("tiny", "-o", "here").stderr
    assert run("tiny", "-o", "here", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("model", "speedup", "folder"),
    [
        ("vgg16", 4.0, "vgg16-4x"),
        ("timm:resnet50.a1_in1k", 2.5, "timm-resnet50.a1_in1k-2.5x"),
        ("../nets:build", 3.0, "nets-build-3x"),
    ],
)
def test_default_folder_stays_below_the_working_folder(model: str, speedup: float, folder: str) -> None:
    assert default_folder(model, speedup) == Path("cnncompress-out") / folder


def test_verdict_names_the_quality_that_was_measured() -> None:
    line = verdict(REPORT)
    for part in (
        "4x fewer conv MACs (asked 4x)",
        "84.3 -> 83.8 %",
        "drop 0.5 points",
        "2.77x",
        "4.0 MB -> 1.0 MB",
    ):
        assert part in line
    bare = verdict(REPORT | {"accuracy": None, "latency": []})
    assert "output error 0.084 on 60 held-out images" in bare
    assert "measured" not in bare
    assert "(ranks as asked)" in verdict(REPORT | {"asked": {"speedup": None, "budget": "conv MACs"}})
    assert "3.90x fewer all MACs" in verdict(REPORT | {"asked": {"speedup": 4.0, "budget": "all MACs"}})


def test_tables_in_a_pipe_keep_every_name_and_one_line_a_row(calls: Calls) -> None:
    lines = run("tiny").stdout.splitlines()
    assert len(lines) == 2 + len(REPORT["layers"])
    assert REPORT["layers"][0]["reason"] in lines[1]
    assert not any(line.endswith(" ") for line in lines)
    assert "\x1b" not in "".join(lines)


def test_tables_in_a_narrow_terminal_keep_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    print_table(("layer", "why"), [(LONG_NAME, "words " * 20)], wrap=("why",))
    assert LONG_NAME in out.getvalue()


@pytest.mark.parametrize("colourless", [True, False])
def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch, colourless: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLORTERM", raising=False)
    if colourless:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    out = io.StringIO()
    report = Progress(console=Console(file=out, force_terminal=True))
    with report:
        report(Note("careful"))
    assert bool(re.search(r"\x1b\[3\dm", out.getvalue())) is not colourless


def test_progress_in_a_terminal_shows_count_rate_and_layer() -> None:
    out = io.StringIO()
    report = Progress(console=Console(file=out, force_terminal=True, width=120))
    with report:
        report(StageStarted("factorize", 13, "layers"))
        report(StageAdvanced("factorize", 4))
        report(LayerDone("features.5", "none", (), None, ""))
        report(LayerDone("features.7", "gsvd3d", (3,), 0.1, ""))
        report(StageAdvanced("unknown"))
    assert "5 of 13 layers" in out.getvalue()
    assert "features.7" in out.getvalue()
    assert "\nfactorize" not in out.getvalue()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (amount(300, "images"), "300 images"),
        (amount(24.13, "images"), "24.1 images"),
        (amount(0.051, "layers"), "0.05 layers"),
        (amount(63_800_000, "bytes"), "63.8 MB"),
        (amount(1, "settings"), "1 setting"),
        (amount(3, "images", bare=True), "3"),
    ],
)
def test_amounts_have_their_unit(shown: str, expected: str) -> None:
    assert shown == expected


def test_inspect_lists_layers_without_downloading(calls: Calls) -> None:
    result = run("inspect", "tiny")
    assert result.exit_code == 0, result.output
    assert calls["network"]["weights"] == "none"
    assert "3->4" in result.stdout
    assert "1 of 1 layers can be decomposed" in result.stdout
    assert "svd-out" not in run("inspect", "tiny", "--no-methods").stdout
    (layer,) = json.loads(run("inspect", "tiny", "--json").stdout)
    assert layer["macs"] == 3 * 9 * 4 * 6 * 6
    methods = {entry["method"]: entry for entry in layer["methods"]}
    assert methods["monochromatic"]["options"] == {"colors": [1, 2, 4]}
    assert "do not divide its 3 input channels" in methods["biclustering-svd"]["obstacle"]
    assert methods["svd-in"]["limits"] == {"rank": 3}
    assert run("inspect", "tiny", "--checkpoint", "w.pth").exit_code == 0
    assert calls["network"]["weights"] == "default"


def test_models_lists_names() -> None:
    names = run("models").stdout.split()
    assert {"vgg16", "alexnet", "vgg16-elpv"} <= set(names)
    assert set(json.loads(run("models", "vgg*", "--json").stdout)) == {
        n for n in names if n.startswith("vgg")
    }
    nothing = run("models", "vgg17*")
    assert (nothing.exit_code, nothing.stdout) == (2, "")


def test_unknown_models_are_answered_with_suggestions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("vgg17")
    assert result.exit_code == 2
    assert "did you mean" in result.stderr
    assert list(tmp_path.iterdir()) == []


class FakePlan:
    network = "tiny"
    input_size = (3, 8, 8)
    source: ClassVar = {"kind": "tiny"}


def test_bench_times_both_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cnncompress.plan import Plan

    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    monkeypatch.setattr(Plan, "read", lambda path: FakePlan())
    monkeypatch.setattr(toolkit_models, "rebuild", lambda source: original)
    monkeypatch.setattr(api, "load", lambda folder, model: original)
    args = ("bench", str(tmp_path), "--repeats", "2", "--batch", "1,2", "--runtimes", "torch")
    found = json.loads(run(*args, "--json").stdout)
    assert [line["batch"] for line in found["latency"]] == [1, 2]
    assert all(line["ms_before"] > 0 for line in found["latency"])
    assert found["environment"]["cpu"]
    table = run(*args)
    assert table.exit_code == 0
    assert table.stdout.splitlines()[-1].rstrip().endswith("x")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--threads", "0"), "1,2"),
        (("--batch", "x"), "1,2"),
        (("--runtimes", "onnxrutime"), "did you mean onnxruntime"),
    ],
)
def test_bench_refuses_wrong_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    from cnncompress.plan import Plan

    monkeypatch.setattr(Plan, "read", lambda path: FakePlan())
    monkeypatch.setattr(toolkit_models, "rebuild", lambda source: nn.Conv2d(3, 4, 3))
    monkeypatch.setattr(api, "load", lambda folder, model: model)
    result = run("bench", str(tmp_path), *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_bench_needs_a_folder_of_ours(tmp_path: Path) -> None:
    result = run("bench", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_bench_asks_for_the_users_own_factory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cnncompress.plan import Plan

    class Own(FakePlan):
        source: ClassVar = {"kind": "factory", "factory": "nets:build"}

    monkeypatch.setattr(Plan, "read", lambda path: Own())
    result = run("bench", str(tmp_path))
    assert result.exit_code == 2
    assert "--model nets:build" in result.stderr


@pytest.mark.parametrize("module", ["cnncompress", "cnncompress.cli"])
def test_runs_as_a_module(module: str) -> None:
    done = subprocess.run(  # noqa: S603  # ourselves
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"cnncompress \d+\.\d+\.\d+\s*", done.stdout)


NET_SOURCE = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
"""


def test_own_code_is_found_in_the_working_folder_but_hides_nothing_installed(tmp_path: Path) -> None:
    (tmp_path / "nets_here.py").write_text(NET_SOURCE)
    (tmp_path / "click.py").write_text("raise SystemExit('a file of the working folder was run')")
    program = "import sys; sys.path.remove(''); from cnncompress.cli import main; main()"
    found = subprocess.run(  # noqa: S603  # ourselves
        [sys.executable, "-c", program, "inspect", "nets_here:build", "--json", "-q", "--input-size", "16"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)


def test_the_working_folder_is_searched_only_for_named_code(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for words in (("vgg16",), ("timm:resnet50",), ("vgg16", "--data", "C:photos/x"), ("models",)):
        run(*words)
        assert str(tmp_path) not in sys.path
    run("nets:build")
    assert sys.path[-1] == str(tmp_path)
