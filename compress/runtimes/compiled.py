"""torch.compile: kernels generated for one network and one shape of input."""

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from cnncompress.errors import ModelError
from cnncompress.interleave import Run, device_of, placed_copy, torch_threads, waited_for
from cnncompress.runtimes.base import Runtime, Subject, first_line, random_images


class Compiled(Runtime):
    """Runs where the network lives; compiled by inductor on entering, with its default settings.

    https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    """

    name: ClassVar[str] = "torch.compile"
    packages: ClassVar[tuple[str, ...]] = ("torch", "triton")

    @override
    def obstacle(self) -> str | None:
        compiler = _compiler()
        if shutil.which(compiler) is None:
            return (
                f"torch.compile needs a C++ compiler and there is no {compiler}; "
                f"install one, or name yours in the environment variable CXX"
            )
        return None

    @override
    def device(self, model: nn.Module) -> torch.device:
        return device_of(model)

    @override
    @contextmanager
    def running(self, subject: Subject, *, device: torch.device, batch: int, threads: int) -> Iterator[Run]:
        with torch_threads(threads):
            copy = placed_copy(subject.model, device, subject.layout)
            forward = torch.compile(_with_own_code(copy), dynamic=False)
            run = waited_for(forward, device)
            _compile_now(run, random_images(batch, subject.input_size, device))
            yield run


def _compiler() -> str:
    # as torch._inductor.config.cpp.cxx has it
    names = {"darwin": "clang++", "win32": "cl"}
    return os.environ.get("CXX", names.get(sys.platform, "g++"))


def _with_own_code(model: nn.Module) -> Callable[[Tensor], Any]:
    """The forward pass as a function that shares its code object with no other."""

    # torch keeps what it compiled by code object, tries an object's variants in turn at each call, and after
    # eight of them silently compiles no more; networks of one class would be variants of one ``forward``
    def forward(images: Tensor) -> Any:
        return model(images)

    return FunctionType(
        forward.__code__.replace(), forward.__globals__, forward.__name__, None, forward.__closure__
    )


def _compile_now(run: Run, images: Tensor) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns about its own internals
            run(images)
    except Exception as error:  # compilers and the network's own code may raise anything
        raise ModelError(
            f"torch.compile fails on the network ({first_line(error)}); try runtime torch"
        ) from error
