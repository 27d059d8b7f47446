"""The versions and the machine behind the numbers of a report."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cnncompress import __version__

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "tensorly",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "timm",
    "cupy-cuda12x",
    "cupy-cuda13x",
)


def environment() -> dict[str, str | int]:
    """Versions of all that can change a number, and the name of the processor.

    Returns:
        ``cnncompress``, ``python``, one entry for each package that is installed, ``platform``, ``cpu``,
        ``cores`` (usable by this process) and, where there is one, ``gpu``.
    """
    found: dict[str, str | int] = {"cnncompress": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["platform"] = platform.platform(terse=True)
    found["cpu"] = cpu_name()
    found["cores"] = usable_cores()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def cpu_name() -> str:
    """The processor's name as its maker gives it.

    Returns:
        For example ``"AMD EPYC 7B13"``; the architecture (``"x86_64"``) where the system tells no more.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def usable_cores() -> int:
    """Cores this process may run on.

    Returns:
        At least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
