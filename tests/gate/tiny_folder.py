"""A tiny compressed network in a folder, with images on which its original is always right."""

from pathlib import Path

import numpy as np
import torch

from cnncompress import Options, compress, load_network
from cnncompress.data import open_source

FACTORY = "tiny_classifier:build"
SOURCE = """
import torch
from torch import nn

from cnncompress.network import Network, Preprocess


def build():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 3),
    )
    with torch.no_grad():  # so that each class is found in some images
        colours = 2 * torch.randn(200, 3, 1, 1) + torch.randn(200, 3, 12, 12)
        model[-1].bias -= model(colours).median(0).values
    raw = Preprocess(resize=None, crop=(12, 12))
    return Network(name="tiny", model=model.eval(), preprocess=raw, source={"kind": "factory"})
"""


def make(workspace: Path, images: int = 60) -> None:
    """Write tiny_classifier.py, val.npz and the folder out.

    Args:
        workspace: where; it must be on the path for imports.
        images: number of images.
    """
    Path(workspace, "tiny_classifier.py").write_text(SOURCE, encoding="utf-8")
    network = load_network(FACTORY)
    rng = np.random.default_rng(0)
    colours = rng.uniform(0, 255, size=(images, 1, 1, 3)) + rng.normal(0, 50, size=(images, 12, 12, 3))
    pixels = colours.clip(0, 255).astype(np.uint8)
    source = open_source(pixels, preprocess=network.preprocess)
    (batch,) = source.batches(images)
    with torch.inference_mode():
        labels = network.model(batch.images).argmax(1).numpy()
    np.savez(workspace / "val.npz", images=pixels, labels=labels)
    options = Options(speedup=2, method="svd", measure=False, align=1)
    compress(network, source, None, options).save(workspace / "out")
