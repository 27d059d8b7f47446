"""Writing model.py, and proving that it does what the network does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnncompress.errors import CompressError
from cnncompress.export import ExportError, in_eval_on_cpu, replacing
from cnncompress.standalone.literals import UnwritableError
from cnncompress.standalone.source import model_source
from cnncompress.standalone.verification import verify


def write_model_file(
    model: nn.Module,
    path: str | Path,
    weights: str | Path,
    *,
    input_size: Sequence[int],
    preprocess: Mapping[str, Any],
    categories: Sequence[str] = (),
    header: Sequence[str] = (),
) -> None:
    """Write a network as Python source that needs torch and safetensors alone, then prove it.

    The file defines a class with the network's layers under their names, ``load``, ``preprocess``,
    ``CATEGORIES`` and ``INPUT_SIZE``, and classifies images when it is run. It is imported, loads the
    weights, and must give the network's outputs: several batch sizes, another image size where the network
    takes it, and training mode with the same random numbers, buffers and gradients. A file that can't be
    written is an `OutputError`.

    Args:
        model: in eval mode or not; never changed.
        path: the file to be written, replaced if it exists.
        weights: the network's state, as `write_safetensors` writes it.
        input_size: channels, height and width.
        preprocess: what `Preprocess.to_json` returns.
        categories: class names in the order of the outputs.
        header: lines that say where the network comes from; shown as comments, line breaks escaped.

    Raises:
        ExportError: the network has no such form, or the file's outputs differ.
    """
    frozen = in_eval_on_cpu(model)
    texts: dict[str, Any] = {
        "input_size": input_size,
        "preprocess": preprocess,
        "categories": categories,
        "header": [repr(line)[1:-1] for line in header],
    }
    try:
        try:
            _write(frozen, Path(path), Path(weights), texts, nested=True)
        except UnwritableError:  # a module behaves differently where it is called
            _write(frozen, Path(path), Path(weights), texts, nested=False)
    except UnwritableError as error:
        raise ExportError(f"{path}: {error}") from error


def _write(model: nn.Module, path: Path, weights: Path, texts: dict[str, Any], *, nested: bool) -> None:
    size = texts["input_size"]
    try:
        classifies = _classifies(model, size, texts["categories"])
        source = model_source(model, **texts, classifies=classifies, nested=nested)
        with replacing(path) as temporary:
            temporary.write_text(source, encoding="utf-8")
            verify(model, temporary, weights, size)
    except (UnwritableError, CompressError, OSError):
        raise
    except Exception as error:  # the network's own code may raise anything, traced or run
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnwritableError(f"the network fails while it is written: {reason}") from error


def _classifies(model: nn.Module, input_size: Sequence[int], categories: Sequence[str]) -> bool:
    with torch.no_grad():
        output = model(torch.zeros(1, *input_size))
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        return False
    return not categories or output.shape[1] == len(categories)
