"""One text file that appears whole or not at all."""

import secrets
from pathlib import Path

from cnncompress.errors import OutputError


def check_file(path: Path) -> None:
    """Find out before a long run whether its file could be written.

    Args:
        path: the file; one that is there will be replaced.

    Raises:
        OutputError: a folder stands there, or nothing can be written beside it.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    probe = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(_cannot_write(path, error)) from None


def write_text(path: Path, text: str) -> None:
    """Write a file under another name, then give it its own.

    Args:
        path: the file, replaced if it exists; missing folders are created.
        text: its content.

    Raises:
        OutputError: it can't be written; what stood there still stands.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(_cannot_write(path, error)) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _cannot_write(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{path}: can't be written ({reason}); free space there or choose another file"
