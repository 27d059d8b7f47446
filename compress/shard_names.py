"""Which tar shards are meant by a folder or by a pattern."""

import re
from collections.abc import Iterator
from glob import glob, has_magic
from itertools import product
from pathlib import Path

from cnncompress.errors import DataError

_TAR = re.compile(r"\.(tar(\.(gz|zst|xz|bz2|lz4))?|tgz|tzst|txz|tbz2?)$", re.IGNORECASE)
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def is_tar(path: Path) -> bool:
    """Whether a file's name is that of a tar archive, compressed ones included.

    Args:
        path: of the file.

    Returns:
        What its ending says.
    """
    return _TAR.search(path.name) is not None


def shards_within(folder: Path) -> list[Path]:
    """The tar archives that lie in a folder.

    Args:
        folder: to look in, not below.

    Returns:
        Sorted by name; hidden ones are passed over.
    """
    try:
        return sorted(path for path in folder.iterdir() if is_tar(path) and not path.name.startswith("."))
    except OSError:
        return []  # the search for images says why


def shards_matching(pattern: str) -> list[Path]:
    """Expand ``train-{000..146}.tar``, ``{train,val}-*.tar`` and the like.

    Args:
        pattern: with braces, with ``*``, ``?`` or ``[]``, or both.

    Returns:
        The archives, braces in their order and the rest sorted; nothing where it is no pattern.

    Raises:
        DataError: a file of the range doesn't exist, nothing matches, or something else than archives does.
    """
    expanded = list(_expanded(pattern))
    if len(expanded) == 1 and not has_magic(pattern):
        return []
    found: list[Path] = []
    for name in expanded:
        matching = sorted(glob(name, recursive=True)) if has_magic(name) else [name]  # noqa: PTH207  # absolute too
        if not matching or not Path(matching[0]).exists():
            raise DataError(f"{name}: no such file, asked for by {pattern}; correct the pattern or fetch it")
        found += map(Path, matching)
    stranger = next((path for path in found if not is_tar(path)), None)
    if stranger is not None:
        raise DataError(f"{stranger}: no tar archive, asked for by {pattern}; give a folder of images itself")
    return found


def _expanded(pattern: str) -> Iterator[str]:
    parts = _BRACES.split(pattern)
    choices = [
        _choices(*parts[place + 1 : place + 4]) if place + 1 < len(parts) else [""]
        for place in range(0, len(parts), 4)
    ]
    for chosen in product(*choices):
        yield "".join(text + choice for text, choice in zip(parts[::4], chosen, strict=True))


def _choices(first: str | None, last: str | None, listed: str | None) -> list[str]:
    if first is None or last is None:
        return (listed or "").split(",")
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if int(first) <= int(last) else -1
    return [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
