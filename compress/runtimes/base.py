"""The contract of a runtime, and the network as runtimes take it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from cnncompress.export import write_onnx
from cnncompress.interleave import Run


class Subject:
    """A network in the forms that runtimes take: as a module, or as an ONNX file made when first asked for.

    Args:
        model: the network; runtimes leave it as it is.
        input_size: channels, height and width.
        layout: memory format that torch runs it in.
        onnx: its ONNX file; written there unless it exists.
    """

    def __init__(
        self, model: nn.Module, input_size: Sequence[int], layout: torch.memory_format, onnx: Path
    ) -> None:
        self.model, self.input_size, self.layout = model, tuple(input_size), layout
        self._onnx = onnx

    def onnx_file(self) -> Path:
        """The network as an ONNX file with a free batch size.

        Returns:
            The file; `cnncompress.export.write_onnx` makes it where there is none.
        """
        if not self._onnx.exists():
            write_onnx(self.model, self.input_size, self._onnx)
        return self._onnx


class Runtime(ABC):
    """Runs networks for the clock.

    Attributes:
        name: as users give it.
        packages: installed distributions whose versions change the times.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]

    def obstacle(self) -> str | None:
        """Why it can't run on this machine.

        Returns:
            The reason and its remedy on one line, None if it can.
        """
        return None

    def device(self, model: nn.Module) -> torch.device:
        """Where it runs a network, and where its images have to be.

        Args:
            model: the network as the caller has it.

        Returns:
            The CPU, unless the runtime says otherwise.
        """
        del model
        return torch.device("cpu")

    def versions(self) -> dict[str, str]:
        """Versions that the times depend on.

        Returns:
            One entry for each package that is installed.
        """
        found = {}
        for package in self.packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
        return found

    @abstractmethod
    def running(
        self, subject: Subject, *, device: torch.device, batch: int, threads: int
    ) -> AbstractContextManager[Run]:
        """Make a network ready; all that takes long happens on entering.

        Args:
            subject: the network.
            device: from `device`; both networks of a pair run on the same one.
            batch: images at a time; others may fail or be slow.
            threads: compute threads on the CPU; torch's own number is restored on leaving.

        Returns:
            A context in which the run may be called, with images of shape (batch, *input_size), float32, on
            the device. It returns when its work is done, with the outputs as the runtime gives them; a
            later call may overwrite these.
        """


def random_images(batch: int, input_size: Sequence[int], device: torch.device) -> Tensor:
    """Input for a run; times don't depend on what the images show.

    Args:
        batch: images.
        input_size: channels, height and width.
        device: where they shall be.

    Returns:
        Standard normal, float32, shape (batch, channels, height, width), the same at each call.
    """
    images = torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0))
    return images.to(device)


def first_line(error: Exception) -> str:
    """What a runtime's own error says, in short.

    Args:
        error: any.

    Returns:
        The first line that tells something, or the error's type. Compilers begin with a line that only
        says where the error was raised, OpenVINO with several.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith(("raised:", "failed:")) and ".cpp:" not in line]
    return (telling or lines or [type(error).__name__])[0]
