"""Parts timed in onnxruntime, by its own profile."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cnncompress.latency.onnx_network import branches, input_name, input_shape, node_name
from cnncompress.latency.parts import Part
from cnncompress.latency.rounds import Pace
from cnncompress.latency.setting import Setting


class OnnxBench:
    """Runs all parts as branches of one network; each run of that is a round.

    A convolution alone in a network would be timed with the reorders to and from the blocked memory format of
    onnxruntime, which a whole network has at its ends only; the profile tells the convolution's share.

    https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html

    Args:
        setting: the conditions.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def times(self, parts: Sequence[Part], pace: Pace) -> NDArray[np.float64]:
        """Time parts in turn.

        Args:
            parts: to time, the reference first.
            pace: how long to go on; the profile is read at the end, hence not for how even the times are.

        Returns:
            Milliseconds, shape (rounds, parts).
        """
        random, batch = np.random.default_rng(0), self._setting.batch
        shapes = {input_name(part): input_shape(part, batch) for part in parts}
        images = {name: random.random(shape, dtype=np.float32) for name, shape in shapes.items()}
        with tempfile.TemporaryDirectory() as folder:
            session = self._session(parts, Path(folder))
            begun, rounds = time.perf_counter(), -pace.warmup
            while rounds < pace.least or (rounds < pace.most and time.perf_counter() - begun < pace.seconds):
                session.run(None, images)
                rounds += 1
            profile = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return _rounds(profile, len(parts))[pace.warmup :]

    def _session(self, parts: Sequence[Part], folder: Path) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._setting.threads
        options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        network = branches(parts, self._setting.batch).SerializeToString()
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _rounds(profile: Sequence[Mapping[str, Any]], count: int) -> NDArray[np.float64]:
    """The kernels' times; what becomes of a node keeps the beginning of its name."""
    seen: list[list[float]] = [[] for _ in range(count)]
    places = {node_name(place): place for place in range(count)}
    for event in profile:
        name = str(event.get("name", ""))
        place = places.get(name.partition("_")[0] + "_")
        if place is not None and name.endswith("_kernel_time"):
            seen[place].append(max(1, int(event["dur"])) / 1e3)
    return np.array(seen).T
