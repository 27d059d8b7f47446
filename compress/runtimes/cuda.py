"""torch on an NVIDIA GPU, operator by operator or as one captured graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from cnncompress.interleave import Run, device_of, placed_copy, torch_threads, waited_for
from cnncompress.runtimes.base import Subject, random_images
from cnncompress.runtimes.eager import Eager

_WARMUP = 3  # libraries allocate and choose kernels in the first runs, which can't be captured


class Cuda(Eager):
    """Runs on the GPU where the network lives, else on the current one, and waits for it after each run."""

    name: ClassVar[str] = "cuda"
    packages: ClassVar[tuple[str, ...]] = ("torch", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")

    @override
    def obstacle(self) -> str | None:
        if not torch.cuda.is_available():
            return (
                "torch sees no CUDA device; install its driver and torch built for CUDA "
                "(https://pytorch.org/get-started), or take runtime torch"
            )
        return None

    @override
    def device(self, model: nn.Module) -> torch.device:
        home = device_of(model)
        return home if home.type == "cuda" else torch.device("cuda", torch.cuda.current_device())

    @override
    def versions(self) -> dict[str, str]:
        built_for = torch.version.cuda
        return super().versions() | ({} if built_for is None else {"cuda": built_for})


class CudaGraphs(Cuda):
    """Replays the network's kernels as one graph, without the time that the CPU takes to launch them.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    name: ClassVar[str] = "cuda-graphs"

    @override
    @contextmanager
    def running(self, subject: Subject, *, device: torch.device, batch: int, threads: int) -> Iterator[Run]:
        model = placed_copy(subject.model, device, subject.layout)
        # a graph reads its input where it was when captured; a normal tensor, since those of inference mode
        # can't be written to outside it
        held = random_images(batch, subject.input_size, device)
        with torch_threads(threads), torch.cuda.device(device):
            graph, outputs = _captured(model, held)

            def replay(images: Tensor) -> Any:
                held.copy_(images)
                graph.replay()
                return outputs

            yield waited_for(replay, device)


def _captured(model: nn.Module, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Any]:
    graph = torch.cuda.CUDAGraph()
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types for it
    aside.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode():
        with torch.cuda.stream(aside):
            for _ in range(_WARMUP):
                model(images)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            outputs = model(images)
    return graph, outputs
