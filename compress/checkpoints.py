"""State dicts from the user's files, made to fit an architecture."""

import pickle
import re
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cnncompress.errors import ModelError, NumericsError

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIX = re.compile(r"(?:module|model|_orig_mod)\.")  # DataParallel, Lightning, torch.compile
_SHOWN = 4  # names listed in a message


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Read a checkpoint; no code in it is run.

    Args:
        file: ``.safetensors``, or anything `torch.save` wrote that holds a state dict, bare or under
            ``state_dict``, ``model_state_dict`` or ``model``.

    Returns:
        Names to tensors on the CPU, floating-point ones as float32.

    Raises:
        ModelError: the file is absent, can't be read, or holds no state dict.
    """
    if not file.is_file():
        raise ModelError(f"checkpoint {file}: no such file")
    try:
        if file.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"checkpoint {file}: holds more than tensors, which would run code; "
            "save model.state_dict() instead of the model"
        ) from None
    except (safetensors.SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"checkpoint {file}: can't be read ({reason})") from None
    return _as_tensors(_unwrap(content), file)


def _unwrap(content: Any) -> Any:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return content[key]
    return content


def _as_tensors(content: Any, file: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"checkpoint {file}: expected a state dict, found {type(content).__name__}")
    state = {}
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"checkpoint {file}: expected a state dict, but {key!r} is {type(value).__name__}"
            )
        state[str(key)] = value.detach().float() if value.is_floating_point() else value.detach()
    return state


def strip_prefixes(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Take off what wrappers put before the names, as far as that makes more names fit.

    Args:
        state: a state dict.
        model: the architecture it belongs to.

    Returns:
        The state dict with as many leading ``module.``, ``model.`` and ``_orig_mod.`` removed as match
        the architecture best.
    """
    expected = model.state_dict().keys()
    best = current = dict(state)
    while any(_PREFIX.match(key) for key in current):
        current = {
            _PREFIX.sub("", key, count=1) if _PREFIX.match(key) else key: v for key, v in current.items()
        }
        if len(current.keys() & expected) > len(best.keys() & expected):
            best = current
    return best


def classes_in(state: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """For how many classes a state dict is, if that isn't what the architecture was built for.

    Args:
        state: a state dict, prefixes removed.
        model: the architecture.

    Returns:
        Rows of the weight that differs from the architecture's in nothing but its rows; None if all
        fit or several differ.
    """
    rows = set()
    for key, value in model.state_dict().items():
        given = state.get(key)
        if value.ndim >= 2 and given is not None and given.shape != value.shape:
            rows.add(len(given) if given.shape[1:] == value.shape[1:] else None)
    return rows.pop() if len(rows) == 1 else None


def load_into(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Fill a network with weights; every tensor must fit.

    Args:
        model: filled in place.
        state: a state dict, prefixes removed.
        origin: where it came from, for messages.

    Raises:
        ModelError: names are missing or unexpected, or shapes differ; one line names them.
    """
    expected = model.state_dict()
    # Batch counters aren't used for inference, and old files lack them.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    wrong = [f"{len(names)} {what} ({_some(names)})" for what, names in lists.items() if names]
    if wrong:
        raise ModelError(f"{origin}: doesn't fit this network: {'; '.join(wrong)}")
    model.load_state_dict(state, strict=False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def require_finite(model: nn.Module, name: str) -> None:
    """Refuse a network whose weights or buffers hold NaN or infinity.

    Args:
        model: any network.
        name: what to call it in the message.

    Raises:
        NumericsError: a tensor isn't finite; the message names it.
    """
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            raise NumericsError(
                f"{name}: {bad} of {value.numel()} values of {key} are NaN or infinite; "
                "train it again or give another checkpoint"
            )


def described_checkpoint(file: Path) -> str:
    """A checkpoint as reports name it.

    Args:
        file: that was read.

    Returns:
        One line: files of the same name are told apart by the beginning of their digest.
    """
    with file.open("rb") as opened:
        digest = file_digest(opened, "sha256").hexdigest()
    return f"checkpoint {file.name} (sha256 {digest[:12]})"
