"""Files load without us and give the same outputs; folders appear whole or not at all."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cnncompress import export
from cnncompress.environment import environment
from cnncompress.errors import OutputError
from cnncompress.export import ExportError, write_onnx, write_safetensors
from cnncompress.folder import atomic_folder, check_folder


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, (3, 1), padding=(1, 0), bias=False),
        nn.Conv2d(6, 8, (1, 3), padding=(0, 1)),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_safetensors_hold_the_whole_state(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    channels_last = net.to(memory_format=torch.channels_last)
    write_safetensors(channels_last, path, {"name": "net", "ranks": [1, 2]})
    state = load_file(path)
    assert state.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["name"] == "net"
    assert json.loads(metadata["ranks"]) == [1, 2]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain").unlink()
    assert names(tmp_path) == ["model.safetensors"]


def test_shared_tensors_load_strictly(tmp_path: Path) -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    both = nn.Sequential(first, second)
    write_safetensors(both, tmp_path / "shared.safetensors")
    fresh = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    fresh.load_state_dict(load_file(tmp_path / "shared.safetensors"), strict=True)
    torch.testing.assert_close(fresh[1].weight, first.weight)


def test_unwritable_safetensors_are_an_output_error(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be written"):
        write_safetensors(net, tmp_path / "missing" / "model.safetensors")


def test_onnx_is_one_file_with_a_free_batch(
    net: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    write_onnx(net, (3, 12, 10), path, categories=("a", "b"), preprocess={"resize": 12})
    assert names(tmp_path) == ["model.onnx"]
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(str(path))
    assert [entry.name for entry in session.get_inputs()] == ["input"]
    assert [entry.name for entry in session.get_outputs()] == ["output"]
    for batch in (1, 2, 3, 17):
        images = torch.randn(batch, 3, 12, 10)
        (output,) = session.run(None, {"input": images.numpy()})
        np.testing.assert_allclose(output, net(images).detach().numpy(), rtol=1e-4, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["categories"]) == ["a", "b"]
    assert json.loads(metadata["preprocess"]) == {"resize": 12}
    assert json.loads(metadata["input_size"]) == [3, 12, 10]
    assert metadata["color"] == "RGB"
    assert "(batch, 3, 12, 10)" in onnx.load(path).doc_string
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_export_leaves_the_network_in_training_mode(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    write_onnx(net, (3, 6, 6), tmp_path / "model.onnx")
    assert all(module.training for module in net.modules())
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


class Forked(nn.Module):
    """Depends on its data, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images) if float(images.sum()) > 0 else images


def test_a_network_without_a_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        write_onnx(Forked().eval(), (3, 6, 6), tmp_path / "model.onnx")
    assert "model.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_file_that_differs_from_torch_is_refused(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="differs from torch"):
        write_onnx(net, (3, 8, 8), tmp_path / "model.onnx")
    assert names(tmp_path) == []


def test_not_a_number_never_passes_for_equal() -> None:
    good = torch.ones(3)
    assert export.relative_difference(good, good * float("nan")) == float("inf")
    assert export.relative_difference(good, torch.ones(4)) == float("inf")
    assert export.relative_difference(good, good + 1e-3) == pytest.approx(1e-3, rel=1e-3)


def test_weights_beyond_one_file_are_refused(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "ONNX_LIMIT", 100)
    with pytest.raises(ExportError, match="at most 2 GiB"):
        write_onnx(net, (3, 8, 8), tmp_path / "model.onnx")


def test_folder_appears_whole_and_follows_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with atomic_folder(target) as folder:
        (folder / "plan.json").write_text("{}")
        assert not target.exists()
    assert names(target) == ["plan.json"]
    assert names(target.parent) == ["out"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert target.stat().st_mode == plain.stat().st_mode


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "deep" / "out") as folder:
        (folder / "plan.json").write_text("{}")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_full_disk_keeps_the_earlier_results(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        (folder / "plan.json").write_text("old")
    with pytest.raises(OutputError, match="No space left"), atomic_folder(target, overwrite=True) as folder:
        (folder / "plan.json").write_text("new")
        raise OSError(28, "No space left on device")
    assert (target / "plan.json").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_own_results_are_replaced_only_when_told(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for text in ("old", "new"):
        with atomic_folder(target, overwrite=True) as folder:
            (folder / "plan.json").write_text(text)
    assert (target / "plan.json").read_text() == "new"
    assert names(tmp_path) == ["out"]
    with pytest.raises(OutputError, match="--overwrite"):
        check_folder(target, overwrite=False)


@pytest.mark.parametrize("held", [["photo.jpg"], ["plan.json", "my notes.txt"]])
def test_folders_of_others_are_never_replaced(tmp_path: Path, held: list[str]) -> None:
    target = tmp_path / "out"
    target.mkdir()
    for name in held:
        (target / name).write_text("precious")
    with pytest.raises(OutputError, match="choose another folder"):
        check_folder(target, overwrite=True)
    with pytest.raises(OutputError, match="choose another folder"), atomic_folder(target, overwrite=True):
        pass
    assert names(target) == sorted(held)


def test_what_python_wrote_beside_model_py_is_replaced(tmp_path: Path) -> None:
    compiled = tmp_path / "out" / "__pycache__" / "model.cpython-311.pyc"
    compiled.parent.mkdir(parents=True)
    compiled.touch()
    (tmp_path / "out" / "plan.json").touch()
    with atomic_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "plan.json").write_text("{}")
    assert names(tmp_path / "out") == ["plan.json"]
    compiled.parent.mkdir()
    compiled.with_name("mine.cpython-311.pyc").touch()
    with pytest.raises(OutputError, match="__pycache__"):
        check_folder(tmp_path / "out", overwrite=True)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with atomic_folder(target) as folder:
        (folder / "plan.json").write_text("{}")
    assert names(target) == ["plan.json"]


def test_a_place_that_cannot_be_written_is_named_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        check_folder(tmp_path / "file" / "out", overwrite=False)
    with pytest.raises(OutputError, match="is a file"):
        check_folder(tmp_path / "file", overwrite=True)


def test_a_read_only_parent_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        check_folder(tmp_path / "out", overwrite=False)
    with pytest.raises(OutputError, match="Permission denied"), atomic_folder(tmp_path / "out"):
        pass


def test_checking_leaves_no_trace(tmp_path: Path) -> None:
    check_folder(tmp_path / "deep" / "out", overwrite=False)
    assert names(tmp_path) == []


def test_the_working_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="inside it"):
        check_folder(".", overwrite=False)


def test_environment_names_versions_and_machine() -> None:
    found = environment()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert {"python", "cpu", "cores", "numpy", "onnxruntime", "cnncompress"} <= found.keys()
    json.dumps(found)


def test_empty_and_boolean_outputs_can_be_compared() -> None:
    nothing, mask = torch.zeros(0, 4), torch.tensor([True, False])
    assert export.relative_difference(nothing, nothing) == 0
    assert export.relative_difference(nothing, torch.zeros(1, 4)) == float("inf")
    assert export.relative_difference(mask, mask) == 0
    assert export.relative_difference(mask, ~mask) == 1
