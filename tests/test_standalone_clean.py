"""The folder's files in an environment that has torch, safetensors, Pillow and onnxruntime, but not us."""

import json
import re
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models as torchvision_models

from cnncompress import output
from cnncompress.layers import ChannelOrder, SICConv2d, TopologicalConv2d
from cnncompress.network import Network, Preprocess
from cnncompress.output import write_results

pytestmark = pytest.mark.slow

WANTED = ("torch", "safetensors", "numpy", "pillow", "onnxruntime")
ABSENT = ("cnncompress", "torchvision", "timm", "onnx", "scipy")
SCRIPT = """
import importlib.util, json, sys
import numpy as np, onnxruntime, torch
from PIL import Image
sys.path.insert(0, sys.argv[1])
found = [name for name in sys.argv[3].split(",") if importlib.util.find_spec(name)]
assert not found, found
from model import CATEGORIES, INPUT_SIZE, load, preprocess
net = load()
with Image.open(sys.argv[2]) as image:
    batch = preprocess(image).unsqueeze(0)
with torch.no_grad():
    scores = net(batch)
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx")
meta = session.get_modelmeta().custom_metadata_map
with Image.open(sys.argv[2]) as image:  # from the ONNX file's metadata alone
    recipe, (channels, height, width) = json.loads(meta["preprocess"]), json.loads(meta["input_size"])
    image, factor = image.convert(meta["color"]), recipe["resize"] / min(image.size)
    image = image.resize((int(factor * image.width), int(factor * image.height)), Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255
    pixels = (pixels - np.float32(recipe["mean"])) / np.float32(recipe["std"])
    fed = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
(by_onnx,) = session.run(["output"], {"input": np.concatenate([fed, fed])})
net.train()
optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
images, losses = torch.randn(4, *INPUT_SIZE, generator=torch.Generator().manual_seed(0)), []
for _ in range(8):
    loss = torch.nn.functional.cross_entropy(net(images), torch.tensor([0, 1, 2, 0]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert all(parameter.grad is not None for parameter in net.parameters())
print(json.dumps({"scores": scores.tolist(), "onnx": by_onnx.tolist(), "losses": losses,
                  "categories": list(CATEGORIES), "said": json.loads(meta["categories"])}))
"""


class Small(nn.Module):
    """A residual network with layers that torch lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torchvision_models.resnet.BasicBlock(3, 3)
        self.wide = nn.Sequential(nn.Conv2d(3, 12, 3), ChannelOrder(12), TopologicalConv2d((3, 4), (2, 2), 3))
        self.sic = SICConv2d(12, 12, norm=True)
        self.pool, self.drop = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.1)
        self.fc = nn.Linear(12, 3)
        self.wide[1].order = torch.randperm(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Three scores."""
        x = self.sic(self.wide(self.stem(x)))
        return self.fc(self.drop(torch.flatten(self.pool(x), 1)))


def needed(names: tuple[str, ...]) -> dict[str, Distribution]:
    """Distributions with all that they require here."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # wanted on other systems only
            continue
        for line in found[name].requires or ():
            if "extra ==" not in line:
                waiting.append(re.split(r"[^\w.-]", line, maxsplit=1)[0])
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that finds the wanted packages and no other; nothing is downloaded."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    for found in needed(WANTED).values():
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in {"..", "__pycache__"}}
        for top in tops:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))).resolve())
    return home / "bin" / "python"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.Tensor]:
    """A results folder, an image, and what the network says of it."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("results")
    preprocess = Preprocess(resize=40, crop=(32, 32))
    model = Small().eval()
    network = Network(name="small", model=model, preprocess=preprocess, categories=("a", "b", "it's"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "render_html", lambda report: "")
        folder = write_results(root / "out", model, {"schema": 1}, {"schema": 1}, network)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "image.png")
    with torch.no_grad(), Image.open(root / "image.png") as image:
        return folder, root / "image.png", model(preprocess(image)[None])


def run(python: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(  # noqa: S603  # our own interpreter and script
        [str(python), *arguments], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )


def test_we_are_not_there(python: Path, tmp_path: Path) -> None:
    for name in ABSENT:
        failed = run(python, "-c", f"import {name}", folder=tmp_path)
        assert failed.returncode == 1
        assert f"No module named '{name}'" in failed.stderr
    assert sys.prefix != run(python, "-c", "import sys; print(sys.prefix)", folder=tmp_path).stdout.strip()


def test_both_formats_run_and_model_py_trains(
    python: Path, results: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    folder, image, expected = results
    done = run(python, "-c", SCRIPT, str(folder), str(image), ",".join(ABSENT), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    torch.testing.assert_close(torch.tensor(found["scores"]), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found["onnx"]), expected.repeat(2, 1), rtol=1e-4, atol=1e-5)
    assert found["categories"] == found["said"] == ["a", "b", "it's"]
    assert min(found["losses"][1:]) < found["losses"][0]


def test_the_file_runs_by_itself(
    python: Path, results: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    folder, image, expected = results
    done = run(python, str(folder / "model.py"), str(image), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    path, first, *_ = done.stdout.splitlines()
    assert path == str(image)
    assert first.endswith(repr(("a", "b", "it's")[int(expected.argmax())]))
