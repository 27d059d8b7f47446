"""What a fine-tuning keeps on disk while it runs, so that it can be resumed."""

import json
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cnncompress.errors import OptionError, OutputError

SCHEMA = 1
_SHOWN = 3  # differences named in a message
# what comes up where a file was cut off, or is none of ours
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Where and how often the state is kept.

    Attributes:
        file: that is replaced as a whole each time.
        seconds: between two times within an epoch; it is kept after each epoch too.
        settings: JSON-able; what must be the same when the run is resumed.
        job: JSON-able; what was asked for, so that it needn't be asked for again.
    """

    file: Path
    seconds: float = 300.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)


def write_state(keep: Keep, state: Mapping[str, Any]) -> None:
    """Write a state; the file before stands until the new one is whole.

    Args:
        keep: the file and the settings.
        state: tensors and plain values.

    Raises:
        OutputError: it can't be written.
    """
    temporary = temporary_of(keep.file)
    parts = {"settings": _plain(keep.settings), "job": _plain(keep.job), "state": dict(state)}
    try:
        torch.save({"schema": SCHEMA, **parts}, temporary)
        temporary.replace(keep.file)
    except OSError as error:
        raise OutputError(_cannot_write(keep.file, _reason(error))) from None
    except RuntimeError:  # torch's word for a full disk, which tells the user nothing
        raise OutputError(_cannot_write(keep.file, "not all of it found room")) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_job(file: Path) -> dict[str, Any]:
    """What an interrupted run was asked for.

    Args:
        file: what `write_state` wrote; no code in it is run.

    Returns:
        JSON-able values.

    Raises:
        OutputError: the file is absent or can't be read.
    """  # noqa: DOC502  # raised by what is called
    return dict(_content(file)["job"])


def read_state(keep: Keep) -> dict[str, Any]:
    """The state of an interrupted run with the same settings.

    Args:
        keep: the file, and the settings of this run.

    Returns:
        What was given to `write_state`, tensors on the CPU.

    Raises:
        OutputError: the file is absent or can't be read.
        OptionError: the run was started with other settings.
    """  # noqa: DOC502  # one is raised by what is called
    content = _content(keep.file)
    changed = differences(content["settings"], _plain(keep.settings))
    if changed:
        raise OptionError(
            f"{keep.file}: that run was started with other settings ({'; '.join(changed[:_SHOWN])}); bring "
            "back what has changed, or start again with --overwrite instead of --resume"
        )
    return dict(content["state"])


def damaged(file: Path, error: Exception) -> OutputError:
    """The error for a state that can be read but makes no sense.

    Args:
        file: of the state.
        error: what came up.

    Returns:
        The error.
    """
    return OutputError(
        f"{file}: is damaged ({_reason(error)}); start again with --overwrite instead of --resume"
    )


def temporary_of(file: Path) -> Path:
    """Where a state is written before it takes its place; a kill may leave it behind.

    Args:
        file: of the state.

    Returns:
        A hidden file beside it.
    """
    return file.with_name(f".{file.name}.tmp")


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What is not the same in two settings.

    Args:
        before: of the interrupted run.
        now: of this one.
        prefix: of the names.

    Returns:
        A few words for each, sorted by name.
    """
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old}, now {new}")
    return found


def _content(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise OutputError(f"{file}: there is no interrupted fine-tuning to resume; leave out --resume")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        schema = content["schema"]
        parts = {key: content[key] for key in ("settings", "job", "state")}
    except _UNREADABLE as error:
        # torch's reasons are about bytes of its format
        reason = (
            _reason(error) if isinstance(error, OSError) else "it is cut off, or no state of a fine-tuning"
        )
        raise OutputError(
            f"{file}: can't be read ({reason}); start again with --overwrite instead of --resume"
        ) from None
    if schema != SCHEMA or not all(isinstance(part, dict) for part in parts.values()):
        raise OutputError(
            f"{file}: is of schema {schema}, this version reads {SCHEMA}; start again with --overwrite "
            "instead of --resume"
        )
    return parts


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON brings it back."""
    return dict(json.loads(json.dumps(values)))


def _cannot_write(file: Path, reason: str) -> str:
    then = "go on with --resume" if file.exists() else "start again, no state was kept yet"
    return f"{file}: can't be written ({reason}); free space there, then {then}"


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
