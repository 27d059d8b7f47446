"""Parts as branches of one ONNX network, each of them a node with a name of its own."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cnncompress.latency.parts import Part

_OPSET = 17
_IR = 10  # read by all onnxruntimes that we admit


def branches(parts: Sequence[Part], batch: int) -> onnx.ModelProto:
    """A network that runs every part once.

    In front of each part a multiplication writes its input, as the layer before would do, and reorders to the
    runtime's own memory format fall there; behind it a global maximum, which reads that format, stands for
    the layer after, so that no output is held for long. Neither belongs to the part's node.

    Args:
        parts: convolutions and linear layers, none twice.
        batch: images.

    Returns:
        The network, its inputs named by `input_name` and its parts' nodes by `node_name`.
    """
    random = np.random.default_rng(0)
    nodes, constants, outputs = [], [], []
    inputs = {input_name(part): list(input_shape(part, batch)) for part in parts}
    for place, part in enumerate(parts):
        factor, written = f"factor{place}", f"written{place}"
        # factors differ, or optimisers would merge what is equal
        constants.append(numpy_helper.from_array(np.float32(1 + place * 1e-3).reshape(1), factor))
        nodes.append(helper.make_node("Mul", [input_name(part), factor], [written], name=f"write{place}"))
        arguments = [written]
        for name, array in _weights(part, random).items():
            constants.append(numpy_helper.from_array(array, f"{name}{place}"))
            arguments.append(f"{name}{place}")
        nodes.append(_node(part, place, arguments))
        nodes.append(_reader(part, place))
        outputs.append(helper.make_tensor_value_info(f"read{place}", TensorProto.FLOAT, None))
    taken = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    graph = helper.make_graph(nodes, "parts", taken, outputs, initializer=constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


def node_name(place: int) -> str:
    """The name of a part's node and of its output; runtimes name what they make of the node by either.

    Args:
        place: of the part.

    Returns:
        The name; none is the beginning of another.
    """
    return f"part{place}_"


def input_name(part: Part) -> str:
    """The name of the input that a part reads; parts of equal inputs share it.

    Args:
        part: the part.

    Returns:
        The name.
    """
    return "x" + "x".join(map(str, (part.kind, part.in_channels, *part.input_size)))


def input_shape(part: Part, batch: int) -> tuple[int, ...]:
    """The shape of a part's input.

    Args:
        part: the part.
        batch: images.

    Returns:
        As the part's node reads it.
    """
    if part.kind == "linear":
        return (batch * part.input_size[0] * part.input_size[1], part.in_channels)
    return (batch, part.in_channels, *part.input_size)


def _weights(part: Part, random: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    kernel = () if part.kind == "linear" else part.kernel_size
    shape = (part.out_channels, part.in_channels // part.groups, *kernel)
    arrays = {"weight": random.random(shape, dtype=np.float32) - np.float32(0.5)}
    if part.bias:
        arrays["bias"] = np.ones(part.out_channels, dtype=np.float32)
    return arrays


def _node(part: Part, place: int, arguments: Sequence[str]) -> onnx.NodeProto:
    name = node_name(place)
    if part.kind == "linear":
        return helper.make_node("Gemm", arguments, [name], name=name, transB=1)
    top, bottom, left, right = part.padding
    return helper.make_node(
        "Conv",
        arguments,
        [name],
        name=name,
        kernel_shape=part.kernel_size,
        strides=part.stride,
        pads=(top, left, bottom, right),
        dilations=part.dilation,
        group=part.groups,
    )


def _reader(part: Part, place: int) -> onnx.NodeProto:
    if part.kind == "linear":
        return helper.make_node("ReduceMax", [node_name(place)], [f"read{place}"], axes=[1])
    return helper.make_node("GlobalMaxPool", [node_name(place)], [f"read{place}"])
