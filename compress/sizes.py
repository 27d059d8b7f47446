"""Sizes as people write them."""

import re

from cnncompress.errors import OptionError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def byte_size(size: int | str) -> int:
    """Read ``"20MB"``, ``"1.5MiB"`` or a number of bytes.

    Args:
        size: as written; MB are a million bytes, MiB 2**20.

    Returns:
        Bytes.

    Raises:
        OptionError: it is no size.
    """
    if isinstance(size, int):
        return size
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", size.strip().lower(), re.ASCII)
    if found is None or found[2] not in _UNITS:
        raise OptionError(f"{size!r} is not a size; write for example 2GB, 500MB or 18MiB")
    return round(float(found[1]) * _UNITS[found[2]])
