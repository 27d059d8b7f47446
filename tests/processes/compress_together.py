"""Compresses a small network by several methods, in the processes that torchrun started; the first saves."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnncompress import World, compress_model, joined
from cnncompress.data import open_source

METHODS: dict[str, dict[str, Any]] = {
    "gsvd3d": {"method": "gsvd3d"},  # samples of the compressed prefix
    "auto": {"method": "auto"},  # patches, gradients and probes of the planner
    "root": {"method": "root", "speedup": 1.5},  # moments of whole patches
    "outer": {"method": "outer", "method_options": {"metric": "gradient"}},  # solved side by side
    "compare": {"method": "gsvd", "compare": True},
}


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1, stride=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 7),
    ).to(dtype).eval()  # fmt: skip


def compressed(world: World, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(31, 3, 12, 12, generator=generator)
    judges, labels = images[10:23] + 0.1, torch.arange(13) % 7
    images[5, 0, 0, 0] = float("nan")  # a bad image: batches are then no longer those of the list
    found = {}
    for name, options in METHODS.items():
        source = open_source(images.clone(), preprocess=None, max_bad=0.1)
        given = {"speedup": 2.0, "batch_size": 4, "measure": False} | options
        result = compress_model(network(dtype), source, eval_data=(judges, labels), world=world, **given)
        found[name] = {
            "weights": dict(result.model.state_dict()),
            "plan": [(layer.name, layer.method, layer.ranks) for layer in result.plan.layers],
            "accuracy": result.report["accuracy"],
            "fidelity": result.report["fidelity"],
            "bad": result.report["calibration"],
        }
    return found


if __name__ == "__main__":
    with joined() as world:
        found = {str(dtype): compressed(world, dtype) for dtype in (torch.float64, torch.float32)}
        for mine in found.values():
            for one in mine.values():  # every process has the same network, not only the first
                for name, value in one["weights"].items():
                    assert all(torch.equal(value, other) for other in world.gather(value)), name
        if world.is_first:
            torch.save(found, Path(sys.argv[1]))
