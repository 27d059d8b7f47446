"""What networks are timed in.

A network doesn't run equally fast everywhere, and neither does what compression makes of it. Each runtime is
one file with one class, which makes a network ready for a batch size and a number of threads and runs it; all
compute in float32.
"""

from cnncompress.errors import OptionError, unknown_name
from cnncompress.runtimes.base import Runtime, Subject, random_images
from cnncompress.runtimes.compiled import Compiled
from cnncompress.runtimes.cuda import Cuda, CudaGraphs
from cnncompress.runtimes.eager import Eager
from cnncompress.runtimes.onnx_runtime import OnnxRuntime
from cnncompress.runtimes.open_vino import OpenVino

_BY_NAME: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (Eager(), Compiled(), OnnxRuntime(), OpenVino(), Cuda(), CudaGraphs())
}

RUNTIMES: tuple[str, ...] = tuple(_BY_NAME)
"""Names of all runtimes, whether they work here or not."""

__all__ = [
    "RUNTIMES",
    "Runtime",
    "Subject",
    "check_runtime",
    "random_images",
    "runtime_named",
    "runtime_versions",
]


def check_runtime(name: str) -> None:
    """Find out whether a runtime works on this machine, before the work.

    Args:
        name: of `RUNTIMES`.

    Raises:
        OptionError: it is unknown, not installed, or lacks a device or a compiler; the message says what to
            do.
    """
    obstacle = runtime_named(name).obstacle()
    if obstacle is not None:
        raise OptionError(f"runtime {name!r} can't run here: {obstacle}")


def runtime_versions(name: str) -> dict[str, str]:
    """Versions that a time measured in a runtime depends on.

    Args:
        name: of `RUNTIMES`; it need not work here. Unknown ones are an `OptionError`.

    Returns:
        For example ``{"torch": "2.15.0"}``; what isn't installed is left out.
    """
    return runtime_named(name).versions()


def runtime_named(name: str) -> Runtime:
    """Look a runtime up.

    Args:
        name: of `RUNTIMES`; it need not work here.

    Returns:
        The runtime.

    Raises:
        OptionError: it is unknown.
    """
    if name not in _BY_NAME:
        raise OptionError(unknown_name("runtime", name, RUNTIMES))
    return _BY_NAME[name]
