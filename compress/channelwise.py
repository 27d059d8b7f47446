"""What the operations of a traced network do to channels and to memory.

An operation that treats all channels alike commutes with any permutation of them. Whatever isn't listed
here counts as mixing channels, and as writing into what it reads.
"""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as torch_functional
from torch import fx, nn

from cnncompress.layers import ChannelOrder, TopologicalConv2d

Modules = Mapping[str, nn.Module]

_ACTIVATIONS: set[type[nn.Module]] = {
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink,
    nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
}  # fmt: skip
_SAME_IN_EVALUATION: set[type[nn.Module]] = {nn.AlphaDropout, nn.Dropout, nn.Identity}
_POOLINGS: set[type[nn.Module]] = {
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.MaxPool2d,
}  # fmt: skip
_PADDINGS: set[type[nn.Module]] = {
    nn.CircularPad2d, nn.ConstantPad2d, nn.Dropout2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d,
}  # fmt: skip
_FRESH_LAYERS: set[type[nn.Module]] = {
    nn.BatchNorm2d, nn.Conv2d, nn.Linear, ChannelOrder, nn.ChannelShuffle, TopologicalConv2d,
}  # fmt: skip

_ACTIVATION_NAMES = (
    "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid",
    "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh",
    "tanhshrink", "threshold", "clamp",
)  # fmt: skip
_POOLING_NAMES = (
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "lp_pool2d", "max_pool2d",
)  # fmt: skip


def _functions(names: Iterable[str]) -> set[Any]:
    homes = (torch, torch_functional)
    return {getattr(home, name) for home in homes for name in names if hasattr(home, name)}


_IN_PLACE_NAMES = tuple(f"{name}_" for name in _ACTIVATION_NAMES)
_ACTIVATION_FUNCTIONS = _functions(_ACTIVATION_NAMES)
_IN_PLACE_FUNCTIONS = _functions(_IN_PLACE_NAMES)
_SAME_FUNCTIONS = _functions(("alpha_dropout", "dropout"))
_POOLING_FUNCTIONS = _functions(_POOLING_NAMES)
# no operator: a += b looks like a + b in a traced graph
_COMBINING_FUNCTIONS = {torch.add, torch.cat, torch.concat}


def module_of(node: fx.Node, modules: Modules) -> nn.Module | None:
    """The module that a node calls.

    Args:
        node: of a traced network.
        modules: of the network, by name.

    Returns:
        None if it calls none, or one whose hooks might see or change its values.
    """
    if node.op != "call_module":
        return None
    module = modules[str(node.target)]
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return None if any(hooks) else module


def source(node: fx.Node) -> fx.Node | None:
    """The one value that a node works on.

    Args:
        node: of a traced network.

    Returns:
        Its first argument, None if that isn't a value.
    """
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read a value's numbers, not only its shape.

    Args:
        node: the value.

    Returns:
        In the order in which they run.
    """
    return [user for user in node.users if not _asks_shape(user)]


def _asks_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in {"size", "dim"}
    asked = ("shape", "ndim", "dtype", "device")
    return node.target is getattr and node.args[1] in asked


def _kind(node: fx.Node, modules: Modules) -> Any:
    """What tells operations apart: a module's type, a function, or a method's name."""
    if node.op == "call_module":
        module = module_of(node, modules)
        return None if module is None else type(module)
    return node.target if node.op in {"call_function", "call_method"} else None


def is_elementwise(node: fx.Node, modules: Modules) -> bool:
    """Whether an operation treats every number alike, wherever it stands.

    Args:
        node: the operation.
        modules: of the network, by name.

    Returns:
        False if unknown.
    """
    if node.all_input_nodes != [source(node)]:
        return False
    kind = _kind(node, modules)
    if node.op == "call_method":
        return kind in {*_ACTIVATION_NAMES, *_IN_PLACE_NAMES, "contiguous", "clone"}
    homes = (
        _ACTIVATIONS, _SAME_IN_EVALUATION, _ACTIVATION_FUNCTIONS, _IN_PLACE_FUNCTIONS, _SAME_FUNCTIONS,
    )  # fmt: skip
    return any(kind in home for home in homes)


def is_channelwise(node: fx.Node, modules: Modules) -> bool:
    """Whether an operation without weights treats all channels of a feature map alike.

    Args:
        node: the operation.
        modules: of the network, by name.

    Returns:
        False if unknown.
    """
    if is_elementwise(node, modules):
        return True
    kind = _kind(node, modules)
    known = any(kind in home for home in (_POOLINGS, _PADDINGS, _POOLING_FUNCTIONS))
    return known and node.all_input_nodes == [source(node)]


def flattens(node: fx.Node, modules: Modules) -> bool:
    """Whether an operation turns a feature map into one row an image, channel after channel.

    Args:
        node: the operation.
        modules: of the network, by name.

    Returns:
        False if unknown.
    """
    kind = _kind(node, modules)
    if kind is nn.Flatten:
        module: Any = module_of(node, modules)
        return (module.start_dim, module.end_dim) == (1, -1)
    if kind in {"view", "reshape"} and len(node.args) == 3:
        return bool(node.args[2] == -1) and _is_batch_size(node.args[1], source(node))
    options: dict[str, Any] = dict(node.kwargs)
    if kind in {"flatten", torch.flatten}:
        options |= zip(("start_dim", "end_dim"), node.args[1:], strict=False)
        return bool(options.get("start_dim") == 1 and options.get("end_dim", -1) == -1)
    if kind in {"mean", torch.mean}:
        options |= zip(("dim", "keepdim"), node.args[1:], strict=False)
        return options.get("dim") in ([2, 3], [-2, -1], (2, 3), (-2, -1)) and not options.get("keepdim")
    return False


def _is_batch_size(argument: Any, value: fx.Node | None) -> bool:
    if not isinstance(argument, fx.Node):
        return False
    if argument.op == "call_method" and argument.target == "size":
        return argument.args == (value, 0)
    if argument.target is not operator.getitem or argument.args[1] != 0:
        return False
    shape = argument.args[0]
    assert isinstance(shape, fx.Node)
    return (shape.target is getattr and shape.args == (value, "shape")) or (
        shape.target == "size" and shape.args == (value,)
    )


def is_fresh(node: fx.Node, modules: Modules) -> bool:
    """Whether an operation writes its result into new memory and leaves what it reads as it was.

    Args:
        node: the operation.
        modules: of the network, by name.

    Returns:
        False if unknown.
    """
    kind = _kind(node, modules)
    if node.op == "call_module":
        in_place = getattr(module_of(node, modules), "inplace", False)
        return kind in _FRESH_LAYERS | _POOLINGS or (kind in _ACTIVATIONS and not in_place)
    if node.op == "call_method":
        return kind in {*_ACTIVATION_NAMES, "clone"}
    writes = "out" in node.kwargs or any(flag is True for flag in (*node.args, node.kwargs.get("inplace")))
    return kind in _POOLING_FUNCTIONS or (kind in _ACTIVATION_FUNCTIONS | _COMBINING_FUNCTIONS and not writes)


def is_view(node: fx.Node, modules: Modules) -> bool:
    """Whether an operation only reads, though its result may lie in the memory that it reads.

    Args:
        node: the operation.
        modules: of the network, by name.

    Returns:
        False if unknown.
    """
    kind = _kind(node, modules)
    if flattens(node, modules) or kind == "contiguous":
        return True
    return kind in _SAME_IN_EVALUATION and not getattr(module_of(node, modules), "inplace", False)
