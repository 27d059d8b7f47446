"""Loads what a run has written, without data and without pickle."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from cnncompress.errors import OutputError
from cnncompress.models import rebuild
from cnncompress.plan import Plan

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a compressed network.

    Args:
        path: folder that `Result.save` or the command line has written.
        model: the original architecture with any weights, needed only where it came from the user's own
            code; never changed.

    Returns:
        The network, in evaluation mode.

    Raises:
        OutputError: the folder can't be read.
    """
    folder = Path(path)
    plan = Plan.read(folder / "plan.json")
    network = plan.build(model if model is not None else rebuild(plan.source))
    weights = folder / "model.safetensors"
    try:
        _require_content(weights)
        state = load_file(weights)
    except (OSError, SafetensorError) as problem:
        raise OutputError(f"{weights}: can't be read: {problem}") from None
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as problem:  # of shapes
        reason = str(problem).splitlines()[-1].strip()
        raise OutputError(f"{weights}: doesn't fit plan.json beside it: {reason}") from None
    if missing or unexpected:
        name = (missing or unexpected)[0]
        raise OutputError(f"{weights}: doesn't fit plan.json beside it, for example at {name}; run again")
    return network


def _require_content(weights: Path) -> None:
    with weights.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise OutputError(
                f"{weights}: is a pointer of Git LFS, not the weights; fetch them: git lfs pull"
            )
