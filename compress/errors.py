"""Errors a user can mend.

Every error raised on purpose derives from `CompressError`; the command line prints it as one line
and exits with 2.

    CompressError
    ├── ModelError      the network can't be found, loaded, or has nothing to compress
    ├── DataError       images or labels can't be read, or don't fit
    ├── DownloadError   a file can't be fetched
    ├── BudgetError     the speedup that was asked can't be reached
    ├── SlowerError     a replacement takes longer than the layer
    ├── RankError       a rank out of its range
    ├── OptionError     an option that is unknown or out of its range
    ├── NumericsError   NaN or infinity where numbers are needed
    ├── BackendError    CuPy or a runtime was asked for and can't run
    ├── WorkerError     another process of the run has died, or they don't find each other
    └── OutputError     results can't be written or read back
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CompressError(Exception):
    """Base of all errors raised on purpose."""


class ModelError(CompressError, ValueError):
    """The network can't be found, loaded, or has nothing to compress."""


class DataError(CompressError, ValueError):
    """Images or labels can't be read, or don't fit the network."""


class DownloadError(CompressError, OSError):
    """A file can't be fetched."""


class BudgetError(CompressError, ValueError):
    """The speedup that was asked can't be reached."""


class SlowerError(CompressError, ValueError):
    """A replacement takes longer than the layer."""


class RankError(CompressError, ValueError):
    """A rank out of its range."""

    def __init__(self, layer: str, rank: int, limit: int, name: str = "rank") -> None:
        super().__init__(f"{layer}: {name} must be between 1 and {limit}, got {rank}")


class OptionError(CompressError, ValueError):
    """An option that is unknown or out of its range."""


class NumericsError(CompressError, ArithmeticError):
    """NaN or infinity where numbers are needed."""


class BackendError(CompressError, RuntimeError):
    """CuPy or a runtime was asked for and can't run."""


class WorkerError(CompressError, RuntimeError):
    """Another process of the run has died, or they don't find each other."""


class OutputError(CompressError, OSError):
    """Results can't be written or read back."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """A message for a name that isn't known, with the nearest ones that are.

    Args:
        kind: what the name should have been, for example ``"model"``.
        name: what was given.
        known: all valid names.

    Returns:
        One line: near misses if there are any, else the first valid names.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3)
    if close:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"unknown {kind} {name!r}; known: {shown}"
