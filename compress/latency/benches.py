"""The bench of each runtime."""

from cnncompress.latency.onnx_bench import OnnxBench
from cnncompress.latency.openvino_bench import OpenVinoBench
from cnncompress.latency.setting import Setting
from cnncompress.latency.torch_bench import Bench, TorchBench


def bench_for(setting: Setting) -> Bench:
    """What times parts under a setting.

    Args:
        setting: the conditions.

    Returns:
        The bench of its runtime.
    """
    if setting.runtime == "onnxruntime":
        return OnnxBench(setting)
    if setting.runtime == "openvino":
        return OpenVinoBench(setting)
    return TorchBench(setting)
