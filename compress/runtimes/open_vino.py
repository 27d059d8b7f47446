"""OpenVINO on the CPU, an optional dependency."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from cnncompress.errors import ModelError
from cnncompress.interleave import Run
from cnncompress.runtimes.base import Runtime, Subject, first_line

_PROPERTIES = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    "INFERENCE_PRECISION_HINT": "f32",  # processors with bfloat16 units would otherwise round to that
}


class OpenVino(Runtime):
    """Runs the network's ONNX file, compiled for the batch size.

    https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
    """

    name: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)

    @override
    def obstacle(self) -> str | None:
        try:
            import_module("openvino")
        except ImportError as error:
            return f"OpenVINO can't be imported ({error}); pip install 'cnncompress[openvino]'"
        return None

    @override
    @contextmanager
    def running(self, subject: Subject, *, device: torch.device, batch: int, threads: int) -> Iterator[Run]:
        openvino = import_module("openvino")
        properties = _PROPERTIES | {"INFERENCE_NUM_THREADS": str(threads)}
        file = subject.onnx_file()
        try:
            core = openvino.Core()
            network = core.read_model(str(file))
            network.reshape([batch, *subject.input_size])
            request = core.compile_model(network, "CPU", properties).create_infer_request()
        except RuntimeError as error:
            raise ModelError(
                f"{file}: OpenVINO can't compile it ({first_line(error)}); take runtime onnxruntime"
            ) from error

        def run(images: Tensor) -> Any:
            # shared memory: copies of the images and outputs are no part of the network's time
            return request.infer([images.numpy()], share_inputs=True, share_outputs=True)

        yield run
