"""onnxruntime on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import onnxruntime
import torch
from torch import Tensor
from typing_extensions import override

from cnncompress.errors import ModelError
from cnncompress.interleave import Run
from cnncompress.runtimes.base import Runtime, Subject, first_line


class OnnxRuntime(Runtime):
    """Runs the network's ONNX file with all of onnxruntime's optimisations.

    https://onnxruntime.ai/docs/performance/tune-performance/threading.html
    """

    name: ClassVar[str] = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    @override
    @contextmanager
    def running(self, subject: Subject, *, device: torch.device, batch: int, threads: int) -> Iterator[Run]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # idle threads of one session would otherwise burn the cores while the other one is timed
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        file = subject.onnx_file()
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(
                f"{file}: onnxruntime can't load it ({first_line(error)}); remove it to have it made anew"
            ) from error
        name = session.get_inputs()[0].name

        def run(images: Tensor) -> Any:
            return session.run(None, {name: images.numpy()})

        yield run
