"""An output folder that appears whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cnncompress.errors import CompressError, OutputError

MARKER = "plan.json"
STATE = "finetune.pt"
"""What an interrupted fine-tuning leaves, to be resumed."""

_STATES = frozenset({STATE, f".{STATE}.tmp"})  # the other one is left by a kill while it was written
_RESULTS = frozenset({MARKER, "model.safetensors", "model.py", "model.onnx", "report.json", "report.html"})
_CHECKS = frozenset({"check.json", "check.xml"})  # of the network that is replaced
OWN_FILES = _RESULTS | _CHECKS | _STATES


def check_folder(path: str | Path, *, overwrite: bool) -> None:
    """Find out before a long run whether its results could be written.

    Args:
        path: the folder to be written.
        overwrite: a folder of earlier results may be replaced.

    Raises:
        OutputError: the folder holds something that must not be replaced, or can't be created.
    """
    target = Path(path).resolve()
    _refuse_foreign(target, overwrite=overwrite)
    try:
        made = _make_parents(target)
        try:
            probe = _temporary(target)
            probe.mkdir()
            probe.rmdir()
        finally:
            _remove_empty(made)
    except OSError as error:
        raise OutputError(_cannot_write(target, error)) from None


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write into a hidden folder beside ``path`` that takes its place when the block ends well.

    Args:
        path: the folder to be written; missing parents are created.
        overwrite: a folder of earlier results may be replaced.

    Yields:
        The temporary folder to write into.

    Raises:
        OutputError: ``path`` holds something that must not be replaced, or writing failed. Nothing is
            left behind and what stood at ``path`` still stands.
        CompressError: of the block, passed on.
    """
    target = Path(path).resolve()
    _refuse_foreign(target, overwrite=overwrite)
    try:
        made = _make_parents(target)
        temporary = _temporary(target)
        try:
            temporary.mkdir()
            yield temporary
            _refuse_foreign(target, overwrite=overwrite)  # the run was long: someone may have come first
            _swap(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            _remove_empty(made)
            raise
    except CompressError:
        raise
    except OSError as error:
        raise OutputError(_cannot_write(target, error)) from error


def _refuse_foreign(target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{target}: is a file, not a folder; choose another output folder")
    if target.is_mount() or target == Path.cwd():
        raise OutputError(f"{target}: is in use as a whole and can't be swapped; choose a folder inside it")
    try:
        names = {entry.name for entry in target.iterdir() if not _is_compiled(entry)}
    except OSError as error:
        raise OutputError(_cannot_write(target, error)) from None
    if not names:
        return
    if names <= _STATES:
        if not overwrite:
            raise OutputError(
                f"{target}: holds an interrupted fine-tuning; go on with `cnncompress finetune {target} "
                "--resume`, or choose another folder"
            )
        return
    if MARKER not in names:
        raise OutputError(
            f"{target}: holds files but no {MARKER}, so it isn't ours to replace; choose another folder"
        )
    foreign = sorted(names - OWN_FILES)
    if foreign:
        shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise OutputError(
            f"{target}: holds files we did not write ({shown}); move them or choose another folder"
        )
    if not overwrite:
        raise OutputError(
            f"{target}: holds earlier results; replace them with --overwrite or choose another folder"
        )


def _is_compiled(folder: Path) -> bool:
    """Whether Python alone wrote it when somebody imported model.py."""
    return (
        folder.name == "__pycache__"
        and folder.is_dir()
        and all(file.name.startswith("model.") and file.suffix == ".pyc" for file in folder.iterdir())
    )


def _make_parents(target: Path) -> list[Path]:
    # returned deepest first, the order in which they can be removed
    missing = [parent for parent in target.parents if not parent.exists()]
    made: list[Path] = []
    try:
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            made.insert(0, parent)
    except OSError:
        _remove_empty(made)
        raise
    return made


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # another run may have put its results there meanwhile
            folder.rmdir()


def _temporary(target: Path) -> Path:
    # not tempfile: its folders are private (0700), results should follow the user's umask
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        if target.exists():
            target.rmdir()
        temporary.replace(target)
        return
    old = _temporary(target)  # stays until the new one stands
    target.replace(old)
    try:
        temporary.replace(target)
    except BaseException:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _cannot_write(target: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(
        f"{target}: can't be written ({reason}); free space there or choose another folder with -o"
    )
