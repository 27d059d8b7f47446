"""How much memory this process has taken at most."""

import sys
from pathlib import Path


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far.

    Returns:
        Megabytes (10**6 bytes); NaN where the system doesn't tell.
    """
    # on Linux getrusage also counts what the process was before it exec'ed
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
