"""Parts timed in OpenVINO, by its own performance counters."""

import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncompress.latency.onnx_network import branches, input_name, input_shape, node_name
from cnncompress.latency.parts import Part
from cnncompress.latency.rounds import Pace
from cnncompress.latency.setting import Setting

_FIXED = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    "INFERENCE_PRECISION_HINT": "f32",
    "PERF_COUNT": "YES",
}


class OpenVinoBench:
    """Runs all parts as branches of one network; each run of that is a round.

    The counters tell each part's time without that of reorders between memory formats, which a whole network
    has at its ends only.

    Args:
        setting: the conditions.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def times(self, parts: Sequence[Part], pace: Pace) -> NDArray[np.float64]:
        """Time parts in turn.

        Args:
            parts: to time, the reference first.
            pace: how long to go on.

        Returns:
            Milliseconds, shape (rounds, parts).
        """
        random, batch = np.random.default_rng(0), self._setting.batch
        shapes = {input_name(part): input_shape(part, batch) for part in parts}
        images = {name: random.random(shape, dtype=np.float32) for name, shape in shapes.items()}
        request = self._request(parts)
        for _ in range(pace.warmup):
            request.infer(images, share_inputs=True, share_outputs=True)
        rows: list[NDArray[np.float64]] = []
        begun = time.perf_counter()
        while not pace.enough(rows, time.perf_counter() - begun):
            request.infer(images, share_inputs=True, share_outputs=True)
            rows.append(_row(request.profiling_info, len(parts)))
        return np.array(rows)

    def _request(self, parts: Sequence[Part]) -> Any:
        openvino = import_module("openvino")
        core = openvino.Core()
        network = core.read_model(branches(parts, self._setting.batch).SerializeToString())
        properties = _FIXED | {"INFERENCE_NUM_THREADS": str(self._setting.threads)}
        return core.compile_model(network, "CPU", properties).create_infer_request()


def _row(counters: Sequence[Any], count: int) -> NDArray[np.float64]:
    """The counters of one run but for reorders; what becomes of a node keeps the beginning of its name."""
    times = np.zeros(count)
    places = {node_name(place): place for place in range(count)}
    for counter in counters:
        place = places.get(counter.node_name.partition("_")[0] + "_")
        if place is not None and counter.node_type != "Reorder":
            times[place] += counter.real_time.total_seconds() * 1e3
    return np.maximum(times, 1e-3)  # microseconds are counted
