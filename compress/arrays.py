"""The only bridge between torch tensors and the arrays of the solvers."""

import importlib
from typing import Any, Literal

import torch
from torch import Tensor

from cnncompress.errors import BackendError, OptionError
from cnncompress.solvers import Array

Backend = Literal["auto", "numpy", "cupy"]


def choose_backend(backend: str, device: torch.device) -> Literal["numpy", "cupy"]:
    """Decide once, before any work, which library the solvers run on.

    Args:
        backend: ``"auto"`` takes CuPy for networks on CUDA when it runs, else NumPy.
        device: where the network is.

    Returns:
        The library's name.

    Raises:
        OptionError: the name is unknown.
        BackendError: CuPy was asked for and can't run.
    """
    if backend == "numpy" or (backend == "auto" and device.type != "cuda"):
        return "numpy"
    if backend not in {"auto", "cupy"}:
        raise OptionError(f"unknown solver backend {backend!r}; known: auto, numpy, cupy")
    problem = _cupy_problem()
    if problem is None:
        return "cupy"
    if backend == "cupy":
        raise BackendError(
            f"--solver cupy can't run: {problem}; install cnncompress[cuda12] or [cuda13] on a machine "
            "with an NVIDIA GPU, or use --solver numpy"
        )
    return "numpy"


def _cupy_problem() -> str | None:
    """Why CuPy can't be used here, or None after a small operation has run on the GPU."""
    try:
        cupy: Any = importlib.import_module("cupy")
        float(cupy.arange(3).sum())
    except Exception as problem:  # whatever its import or its driver raises, the answer is the same
        return f"{type(problem).__name__}: {problem}".splitlines()[0]
    return None


def to_array(tensor: Tensor, backend: Literal["numpy", "cupy"]) -> Array:
    """A tensor as an array of the solvers' library, without a copy where the device allows it.

    Args:
        tensor: any device.
        backend: from `choose_backend`.

    Returns:
        A NumPy or CuPy array of the same shape and type.
    """
    tensor = tensor.detach()
    if backend == "numpy":
        return tensor.cpu().numpy()
    cupy: Any = importlib.import_module("cupy")
    if tensor.device.type == "cuda":
        return cupy.from_dlpack(tensor.contiguous())
    return cupy.asarray(tensor.numpy())


def to_tensor(array: Array, like: Tensor) -> Tensor:
    """An array of the solvers as a tensor.

    Args:
        array: NumPy or CuPy.
        like: gives the type and the device.

    Returns:
        A contiguous tensor.
    """
    tensor = torch.utils.dlpack.from_dlpack(array) if hasattr(array, "__dlpack__") else torch.as_tensor(array)
    return tensor.to(device=like.device, dtype=like.dtype).contiguous()
