"""Writing a network to files that load without us: safetensors and ONNX."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from cnncompress.errors import OutputError

ONNX_LIMIT = 2**31 - 2**24  # protobuf refuses 2 GiB; the graph itself needs a little
VERIFIED_BATCHES = (1, 2, 3)
TOLERANCE = 1e-4
COLORS = {1: "L", 3: "RGB"}
"""Pillow's name of what a network of so many channels reads."""


class ExportError(OutputError):
    """The network has no faithful form in the format that was asked, though the disk is fine."""


def write_safetensors(model: nn.Module, path: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write all parameters and buffers of a network.

    Tensors that share memory are written once for each name, so the file loads with
    ``load_state_dict(strict=True)``.

    Args:
        model: any network; its tensors are copied to the CPU where needed.
        path: the file to be written, replaced if it exists.
        metadata: JSON-able values; strings go in as they are, all others as JSON.

    Raises:
        OutputError: the file can't be written, or the state holds something that isn't a tensor.
    """
    tensors: dict[str, Tensor] = {}
    homes: set[int] = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise OutputError(
                f"{name}: a {type(value).__name__} in the state; safetensors holds tensors only"
            )
        tensor = value.detach().cpu().contiguous()
        home = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if home in homes else tensor
        homes.add(home)
    texts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()
    }
    with replacing(Path(path)) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata=texts)
            temporary.chmod(mode)  # safetensors makes private files, results should follow the umask
        except SafetensorError as error:
            raise OutputError(
                f"{path}: can't be written ({error}); free space there or choose another folder"
            ) from None


def write_onnx(
    model: nn.Module,
    input_size: Sequence[int],
    path: str | Path,
    *,
    categories: Sequence[str] = (),
    preprocess: Mapping[str, Any] | None = None,
) -> None:
    """Write a network as one ONNX file with a free batch size, then prove it against torch.

    The input is called ``input``, a single output ``output``. What somebody needs who has the file alone
    travels in its metadata, where onnxruntime gives it as ``session.get_modelmeta().custom_metadata_map``:

    - ``input_size``: JSON, channels, height and width;
    - ``categories``: JSON, class names in the order of the outputs; absent if unknown;
    - ``preprocess``: JSON, the fields of `cnncompress.network.Preprocess`: ``resize`` (length of the shorter
      side in pixels, null to leave it), ``crop`` (height and width, from the centre), ``interpolation``,
      ``mean`` and ``std`` (per channel, of pixels divided by 255); absent if unknown;
    - ``color``: ``RGB``, or ``L`` for networks of one channel (grey); absent for other numbers of channels.

    The same stands in words in the model's ``doc_string``. onnxruntime must give torch's outputs at several
    batch sizes. A file that can't be written is an `OutputError`.

    Args:
        model: in eval mode or not; it is exported in eval mode and never changed.
        input_size: channels, height and width.
        path: the file to be written, replaced if it exists.
        categories: class names in the order of the outputs.
        preprocess: what `Preprocess.to_json` returns.

    Raises:
        ExportError: torch can't export this network, or onnxruntime's outputs differ.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > ONNX_LIMIT:
        raise ExportError(f"{path}: {size / 2**30:.2f} GiB of weights, one ONNX file holds at most 2 GiB")
    frozen = in_eval_on_cpu(model)
    metadata = _metadata(input_size, categories, preprocess)
    with replacing(Path(path)) as temporary:
        program = _exported(frozen, input_size, str(path))
        program.model.metadata_props.update(metadata)
        program.model.doc_string = _in_words(input_size, preprocess)
        program.save(str(temporary), external_data=False)
        del program  # the weights would be held a second time while verifying
        _verify(frozen, input_size, temporary, str(path))


def _metadata(
    input_size: Sequence[int], categories: Sequence[str], preprocess: Mapping[str, Any] | None
) -> dict[str, str]:
    metadata = {"input_size": json.dumps(list(input_size))}
    if categories:
        metadata["categories"] = json.dumps(list(categories))
    if preprocess is not None:
        metadata["preprocess"] = json.dumps(dict(preprocess))
    if input_size[0] in COLORS:
        metadata["color"] = COLORS[input_size[0]]
    return metadata


def _in_words(input_size: Sequence[int], preprocess: Mapping[str, Any] | None) -> str:
    channels, height, width = input_size
    shape = (
        f"Input: float32, shape (batch, {channels}, {height}, {width}), channels {COLORS.get(channels, '')}."
    )
    if preprocess is None:
        return shape
    resize = preprocess.get("resize")
    steps = [
        f"resize the shorter side to {resize} pixels ({preprocess.get('interpolation')}, antialiased)"
        if resize
        else "",
        f"crop {height} x {width} pixels from the centre",
        "divide by 255",
        f"subtract {preprocess.get('mean')} and divide by {preprocess.get('std')} per channel",
    ]
    return f"{shape} Preparation: {'; '.join(step for step in steps if step)}."


def _exported(model: nn.Module, input_size: Sequence[int], path: str) -> torch.onnx.ONNXProgram:
    # a batch of 1 would be taken for a constant
    example = torch.zeros(2, *input_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            single = isinstance(_run(model, example), Tensor)
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=["input"],
                output_names=["output"] if single else None,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever the network's own code led it to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"{path}: torch can't export this network to ONNX ({reason})") from error
    if program is None:
        raise ExportError(f"{path}: torch's ONNX exporter returned nothing")
    return program


def _verify(model: nn.Module, input_size: Sequence[int], file: Path, path: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ExportError(f"{path}: onnxruntime can't load it ({str(error).splitlines()[0]})") from error
    name = session.get_inputs()[0].name
    generator = torch.Generator().manual_seed(0)
    for batch in VERIFIED_BATCHES:
        images = torch.randn(batch, *input_size, generator=generator)
        expected = _tensors(_run(model, images))
        try:
            outputs = [torch.from_numpy(array) for array in session.run(None, {name: images.numpy()})]
        except Exception as error:  # as above
            raise ExportError(
                f"{path}: onnxruntime fails at batch {batch} ({str(error).splitlines()[0]})"
            ) from error
        difference = max(relative_difference(*pair) for pair in zip(expected, outputs, strict=True))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{path}: onnxruntime differs from torch by {difference:.1e} of the largest output "
                f"at batch {batch}, allowed is {TOLERANCE:.0e}"
            )


def relative_difference(expected: Tensor, output: Tensor) -> float:
    """How far an output is from what it should be.

    Args:
        expected: as it should be.
        output: as it is.

    Returns:
        The largest difference over the largest magnitude; infinite where shapes differ or NaN appears.
    """
    if expected.shape != output.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    if expected.dtype == torch.bool:
        expected, output = expected.int(), output.int()
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    difference = float((expected - output).abs().max()) / scale
    return difference if difference == difference else float("inf")  # noqa: PLR0124 - NaN


def _run(model: nn.Module, images: Tensor) -> Any:
    with torch.no_grad():
        return model(images)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output
    return [tensor for part in parts for tensor in _tensors(part)]


def in_eval_on_cpu(model: nn.Module) -> nn.Module:
    """A network that may be run, though not changed.

    Args:
        model: on any device, in any mode.

    Returns:
        The network itself where it is in evaluation mode on the CPU, else a copy that is.
    """
    on_cpu = all(tensor.device.type == "cpu" for tensor in model.state_dict().values())
    if on_cpu and not any(module.training for module in model.modules()):
        return model  # a copy of a large classifier costs half a gigabyte
    return deepcopy(model).eval().cpu()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name that is renamed when the block ends well.

    Args:
        path: the file to be written.

    Yields:
        The temporary path.

    Raises:
        OutputError: writing failed; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"{path}: can't be written ({reason}); free space there or choose another folder"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
