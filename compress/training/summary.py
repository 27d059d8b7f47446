"""What a training did, as the content of train.json (schema 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cnncompress.environment import environment
from cnncompress.image_source import ImageSource
from cnncompress.network import Network
from cnncompress.training.costs import count_macs

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch brought.

    Attributes:
        epoch: its number, from 1.
        loss: mean over the training images while they were trained on, smoothing included.
        test_loss: mean over the test images after it.
        accuracy: percent of the test images that were right.
        seconds: it took since it was begun or resumed, the test included.
    """

    epoch: int
    loss: float
    test_loss: float
    accuracy: float
    seconds: float


def summarize(
    network: Network,
    settings: Mapping[str, Any],
    training: ImageSource,
    test: ImageSource,
    history: Sequence[Epoch],
    layout: torch.memory_format,
    *,
    processes: int = 1,
) -> dict[str, Any]:
    """Gather what train.json holds.

    Args:
        network: after the training.
        settings: name, source, start, input_size and recipe of the training.
        training: images that were trained on.
        test: images that judged.
        history: of the epochs, at least one.
        layout: memory format of the training.
        processes: that shared the training, at its end.

    Returns:
        JSON-able values.
    """
    return {
        "schema": SCHEMA,
        **{key: settings[key] for key in ("name", "source", "start", "input_size", "recipe")},
        "preprocess": network.preprocess.to_json(),
        "categories": list(network.categories),
        "data": {
            "training": {"description": training.description, "hash": training.hash, "images": len(training)},
            "test": {"description": test.description, "hash": test.hash, "images": len(test)},
            "unreadable": [bad._asdict() for bad in (*training.bad, *test.bad)],
        },
        "accuracy": history[-1].accuracy,
        "history": [asdict(epoch) for epoch in history],
        "macs": count_macs(network.model, network.input_size),
        "params": sum(parameter.numel() for parameter in network.model.parameters()),
        "memory_format": str(layout).removeprefix("torch."),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }
