"""Runtimes: all compute what the network computes, and those that can't run here say so before the work."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from cnncompress import runtimes
from cnncompress.cli import main
from cnncompress.errors import ModelError, OptionError
from cnncompress.export import write_onnx
from cnncompress.interleave import Run
from cnncompress.measure import latencies
from cnncompress.runtimes import (
    RUNTIMES,
    Runtime,
    Subject,
    check_runtime,
    random_images,
    runtime_named,
    runtime_versions,
)
from cnncompress.runtimes import base as runtimes_base

SIZE = (3, 8, 8)
CPU = torch.device("cpu")
SLOW = {"torch.compile"}  # the first C++ compilation takes a quarter of a minute

Subjects = Callable[..., Subject]

each_runtime = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RUNTIMES]
)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Conv2d(6, 4, (3, 1), stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip


def working(name: str) -> Runtime:
    runtime = runtime_named(name)
    if obstacle := runtime.obstacle():
        pytest.skip(obstacle)
    return runtime


def as_tensor(outputs: Any) -> Tensor:
    """The single output in the form of each runtime."""
    if isinstance(outputs, Tensor):
        return outputs.cpu().clone()
    (only,) = outputs.values() if hasattr(outputs, "values") else outputs
    return torch.tensor(only)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """ONNX files of the networks of seeds 0 and 1: an export takes a second."""
    folder = tmp_path_factory.mktemp("exported")
    files = tuple(folder / f"{seed}.onnx" for seed in (0, 1))
    for seed, file in enumerate(files):
        write_onnx(net(seed), SIZE, file)
    return files[0], files[1]


@pytest.fixture
def subject(exported: tuple[Path, Path]) -> Subjects:
    def make(model: nn.Module, layout: torch.memory_format = torch.channels_last) -> Subject:
        return Subject(model, SIZE, layout, exported[0])

    return make


@each_runtime
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_outputs_are_the_networks_own(name: str, layout: torch.memory_format, subject: Subjects) -> None:
    runtime, model = working(name), net()
    prepared, device = subject(model, layout), runtime.device(model)
    for batch in (1, 3):
        images = random_images(batch, SIZE, device)
        with runtime.running(prepared, device=device, batch=batch, threads=1) as run:
            for given in (images, images.flip(3)):  # what a run returned is that of its own images
                with torch.no_grad():
                    expected = model(given.cpu())
                torch.testing.assert_close(as_tensor(run(given)), expected, rtol=1e-4, atol=1e-5)


@each_runtime
def test_two_networks_run_side_by_side(name: str, exported: tuple[Path, Path]) -> None:
    runtime, models = working(name), (net(0), net(1))
    before, after = (
        Subject(model, SIZE, torch.channels_last, file) for model, file in zip(models, exported, strict=True)
    )
    device = runtime.device(models[0])
    images = random_images(2, SIZE, device)
    with (
        runtime.running(before, device=device, batch=2, threads=1) as first,
        runtime.running(after, device=device, batch=2, threads=1) as second,
        torch.no_grad(),
    ):
        for _ in range(2):
            for model, run in zip(models, (first, second), strict=True):
                torch.testing.assert_close(as_tensor(run(images)), model(images.cpu()), rtol=1e-4, atol=1e-5)


@each_runtime
def test_network_and_thread_count_are_left_as_they_were(name: str, subject: Subjects) -> None:
    runtime, model, threads = working(name), net().train(), torch.get_num_threads()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    device = runtime.device(model)
    with runtime.running(subject(model), device=device, batch=1, threads=threads + 1) as run:
        run(random_images(1, SIZE, device))
    assert torch.get_num_threads() == threads
    assert model.training
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert model[0].weight.is_contiguous()
    assert not model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_torch_computes_with_the_threads_asked_for(subject: Subjects) -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def __deepcopy__(self, memo: dict[int, object]) -> "Counting":
            return self

        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return images

    wanted = torch.get_num_threads() + 1
    prepared = subject(Counting())
    with runtime_named("torch").running(prepared, device=CPU, batch=1, threads=wanted) as run:
        run(random_images(1, SIZE, CPU))
    assert seen == [wanted]


def test_onnxruntime_gets_the_threads_asked_for(subject: Subjects, monkeypatch: pytest.MonkeyPatch) -> None:
    session, seen = onnxruntime.InferenceSession, []

    def spying(file: str, options: Any, **more: Any) -> Any:
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads, more["providers"]))
        return session(file, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spying)
    with runtime_named("onnxruntime").running(subject(net()), device=CPU, batch=1, threads=2):
        assert seen == [(2, 1, ["CPUExecutionProvider"])]


def test_openvino_computes_in_float32_with_the_threads_asked_for(
    subject: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    working("openvino")
    import openvino

    compiled: list[Any] = []

    class Core:
        def __init__(self) -> None:
            self.core = openvino_core()

        def read_model(self, file: str) -> Any:
            return self.core.read_model(file)

        def compile_model(self, *given: Any) -> Any:
            compiled.append(self.core.compile_model(*given))
            return compiled[-1]

    openvino_core = openvino.Core
    monkeypatch.setattr(openvino, "Core", Core)
    with runtime_named("openvino").running(subject(net()), device=CPU, batch=3, threads=1):
        (model,) = compiled
        assert model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert model.get_property("INFERENCE_NUM_THREADS") == 1
        assert model.get_property("NUM_STREAMS") == 1
        assert list(model.input(0).shape) == [3, *SIZE]


@pytest.mark.slow
def test_torch_compile_compiles_every_network_of_one_class(subject: Subjects) -> None:
    class Telling(nn.Module):
        """Gives another output where it runs without being compiled."""

        def forward(self, images: Tensor) -> Tensor:
            return images + 1 if torch.compiler.is_compiling() else images

    runtime, images = working("torch.compile"), random_images(1, SIZE, CPU)
    for _ in range(10):  # torch gives up after eight variants of one function
        with runtime.running(subject(Telling()), device=CPU, batch=1, threads=1) as run:
            assert torch.equal(run(images), images + 1)


@pytest.mark.slow
def test_torch_compile_compiles_before_the_clock_starts(subject: Subjects) -> None:
    runtime = working("torch.compile")
    with (
        runtime.running(subject(net()), device=CPU, batch=1, threads=1) as run,
        torch.compiler.set_stance("fail_on_recompile"),
    ):
        run(random_images(1, SIZE, CPU))
        # another batch size shows that a compilation would have been noticed
        with pytest.raises(RuntimeError):
            run(random_images(2, SIZE, CPU))


class Broken(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.view(7, -1)


@pytest.mark.slow
def test_a_failing_compilation_is_one_line(subject: Subjects) -> None:
    runtime = working("torch.compile")
    with (
        pytest.raises(ModelError, match=r"torch.compile fails on the network .*runtime torch") as caught,
        runtime.running(subject(Broken()), device=CPU, batch=1, threads=1),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_file_that_is_no_network_is_one_line(name: str, tmp_path: Path) -> None:
    runtime = working(name)
    (tmp_path / "network.onnx").write_bytes(b"\x00")
    damaged = Subject(net(), SIZE, torch.channels_last, tmp_path / "network.onnx")
    with (
        pytest.raises(ModelError, match=r"network\.onnx") as caught,
        runtime.running(damaged, device=CPU, batch=1, threads=1),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_the_file_is_written_once_for_all_settings(
    exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: list[Path] = []

    def counting(model: nn.Module, input_size: tuple[int, int, int], path: Path) -> None:
        written.append(path)
        shutil.copy(exported[0], path)

    def files_written(given: Path) -> int:
        written.clear()
        found = latencies(
            net(), net(), SIZE, runtimes=names, batches=(1, 2), repeats=1, warmup=0, onnx=(None, given)
        )
        assert len(found) == 2 * len(names)
        return len(written)

    monkeypatch.setattr(runtimes_base, "write_onnx", counting)
    names = [name for name in ("onnxruntime", "openvino") if runtime_named(name).obstacle() is None]
    assert files_written(exported[1]) == 1
    assert files_written(tmp_path / "missing.onnx") == 2
    assert not any(file.exists() for file in written)
    assert not any(tmp_path.iterdir())  # the caller's folders get nothing


def test_both_networks_are_ready_before_either_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    class Fake(Runtime):
        name, packages = "fake", ()

        @contextmanager
        def running(self, subject: Subject, *, device: Any, batch: int, threads: int) -> Iterator[Run]:
            happened.append(f"ready {batch} {threads}")

            def run(images: Tensor) -> None:
                assert images.shape == (batch, *SIZE)
                happened.append("run")

            yield run
            happened.append("left")

    monkeypatch.setitem(runtimes._BY_NAME, "fake", Fake())
    found = latencies(net(), net(), SIZE, runtimes=("fake",), threads=(3,), batches=(2,), repeats=2, warmup=1)
    assert happened == ["ready 2 3"] * 2 + ["run"] * 6 + ["left"] * 2
    assert [(one.runtime, one.threads, one.batch, one.device) for one in found] == [("fake", 3, 2, "cpu")]


def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)


def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")


MISSING = pytest.mark.parametrize(
    ("name", "take_away", "remedy"),
    [
        ("openvino", without_openvino, r"pip install 'cnncompress\[openvino\]'"),
        ("cuda", without_gpu, "take runtime torch"),
        ("cuda-graphs", without_gpu, "take runtime torch"),
        ("torch.compile", without_compiler, "no no-such-compiler; install one"),
    ],
)


@MISSING
def test_what_is_missing_is_named_before_the_work(
    name: str, take_away: Callable[[pytest.MonkeyPatch], None], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(monkeypatch)
    with pytest.raises(OptionError, match=remedy) as caught:
        check_runtime(name)
    assert f"runtime '{name}' can't run here" in str(caught.value)
    # a network that can't run would be noticed first if anything had run
    with pytest.raises(OptionError, match=remedy):
        latencies(Broken(), Broken(), SIZE, runtimes=("torch", name))


@MISSING
def test_bench_refuses_before_it_reads_the_folder(
    name: str,
    take_away: Callable[[pytest.MonkeyPatch], None],
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    take_away(monkeypatch)
    ran = CliRunner().invoke(main, ["bench", str(tmp_path / "none"), "--runtimes", f"torch,{name}"])
    assert ran.exit_code == 2
    assert f"runtime '{name}' can't run here" in ran.stderr
    assert str(tmp_path) not in ran.stderr


def test_help_names_every_runtime() -> None:
    shown = CliRunner().invoke(main, ["bench", "--help"]).stdout
    assert all(name in shown for name in RUNTIMES)


@pytest.mark.parametrize("function", [check_runtime, runtime_versions, runtime_named])
def test_unknown_names_get_suggestions(function: Callable[[str], object]) -> None:
    with pytest.raises(OptionError, match="unknown runtime 'openvio'; did you mean openvino"):
        function("openvio")
    with pytest.raises(OptionError, match=", ".join(sorted(RUNTIMES))):
        function("zzz")


def test_no_runtime_at_all_is_refused() -> None:
    with pytest.raises(OptionError, match="at least one runtime"):
        latencies(net(), net(), SIZE, runtimes=())


@pytest.mark.parametrize("name", RUNTIMES)
def test_versions_are_those_installed(name: str) -> None:
    found = runtime_versions(name)
    packages = found.keys() - {"cuda"}
    assert {package: version(package) for package in packages} == {p: found[p] for p in packages}
    if runtime_named(name).obstacle() is None:
        assert name.partition(".")[0].replace("cuda-graphs", "torch").replace("cuda", "torch") in found


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(runtime_named("openvino")), "packages", ("surely-not-installed",))
    assert runtime_versions("openvino") == {}
