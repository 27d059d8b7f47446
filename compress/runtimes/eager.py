"""torch as it is: one operator after the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import nn
from typing_extensions import override

from cnncompress.interleave import Run, device_of, torch_run, torch_threads
from cnncompress.runtimes.base import Runtime, Subject


class Eager(Runtime):
    """Runs where the network lives, in the memory format that suits it."""

    name: ClassVar[str] = "torch"
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    @override
    def device(self, model: nn.Module) -> torch.device:
        return device_of(model)

    @override
    @contextmanager
    def running(self, subject: Subject, *, device: torch.device, batch: int, threads: int) -> Iterator[Run]:
        with torch_threads(threads):
            yield torch_run(subject.model, device, subject.layout)
