"""What an interrupted training leaves on disk, so that it can be resumed."""

import pickle
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnncompress.errors import OptionError, OutputError
from cnncompress.training.loop import Trainer

_SHOWN = 3  # differences named in a message
# what comes up where a file was cut off, or is none of ours
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError)


def write_state(
    file: Path, model: nn.Module, trainer: Trainer, settings: Mapping[str, Any], history: list[dict[str, Any]]
) -> None:
    """Write the state after an epoch or a step; the file is replaced as a whole.

    Args:
        file: to be written.
        model: that is trained.
        trainer: that trains it.
        settings: JSON-able; what must be the same when the training is resumed.
        history: one entry for each epoch.

    Raises:
        OutputError: it can't be written.
    """
    state = {
        "settings": dict(settings),
        "history": history,
        "model": model.state_dict(),
        "trainer": trainer.state(),
    }
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        torch.save(state, temporary)
        temporary.replace(file)
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, RuntimeError):  # torch's word for a full disk, which tells the user nothing
            reason = "not all of it found room"
        raise OutputError(f"{file}: can't be written ({reason}); free space there") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_state(
    file: Path, model: nn.Module, trainer: Trainer, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Take up a training where it was left.

    Args:
        file: what `write_state` wrote; no code in it is run.
        model: gets the weights.
        trainer: gets the state.
        settings: of this run.

    Returns:
        The history of the epochs that were run.

    Raises:
        OutputError: the file is absent or can't be read.
        OptionError: the training was started with other settings.
    """
    if not file.is_file():
        raise OutputError(f"{file}: there is no interrupted training to resume; leave out --resume")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        before, history = dict(state["settings"]), list(state["history"])
        weights, progress = state["model"], state["trainer"]
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OutputError(f"{file}: can't be read ({reason}); start again without --resume") from None
    changed = _differences(before, dict(settings))
    if changed:
        raise OptionError(
            f"{file}: that training was started with other settings ({'; '.join(changed[:_SHOWN])}); "
            "give the same ones, or start again without --resume"
        )
    try:
        model.load_state_dict(weights)
        trainer.take_up(progress)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OutputError(f"{file}: is damaged ({reason}); start again without --resume") from None
    return history


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new and not (isinstance(old, list | tuple) and list(old) == list(new or ())):
            found.append(f"{prefix}{key} was {old}, now {new}")
    return found
