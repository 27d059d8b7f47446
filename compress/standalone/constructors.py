"""Layers as the constructor calls that make them."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from cnncompress.layers import ChannelOrder as OurChannelOrder
from cnncompress.layers import TopologicalConv2d as OurTopologicalConv2d
from cnncompress.standalone import parts
from cnncompress.standalone.literals import UnwritableError, literal

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_PLACES = {"device", "dtype"}
_INHERITED = {
    "__init__",
    "__module__",
    "__doc__",
    "__annotations__",
    "__firstlineno__",
    "__static_attributes__",
}


def torch_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of ``torch.nn`` that a layer is an instance of.

    Args:
        module: any.

    Returns:
        None for containers, for classes of others, and for subclasses that add more than a constructor.
    """
    if "forward" in vars(module):
        return None
    for kind in type(module).__mro__:
        if kind is nn.Module or kind in CONTAINERS:
            return None
        if vars(nn).get(kind.__name__) is kind:
            found: type[nn.Module] = kind
            return found
        if set(vars(kind)) - _INHERITED:
            return None
    return None


def constructor(module: nn.Module) -> str | None:
    """The call that makes a layer of ``torch.nn``, with the arguments that aren't defaults.

    Args:
        module: any.

    Returns:
        Source such as ``nn.Conv2d(3, 64, 3, padding=1)``; None if it isn't a layer of torch's, or a call
        with its attributes doesn't make one like it.
    """
    kind = torch_class(module)
    if kind is None:
        return None
    try:
        needed, options = _arguments(kind, module)
        with torch.device("meta"):
            again = kind(*needed, **options)
        if not _alike(module, again):
            return None
        shown = [*map(literal, needed), *(f"{name}={literal(value)}" for name, value in options.items())]
    except (AttributeError, TypeError, ValueError, RuntimeError, UnwritableError):
        return None
    return f"nn.{kind.__name__}({', '.join(shown)})"


def stand_in(module: nn.Module) -> tuple[str, type[nn.Module]] | None:
    """The call that makes the same of `cnncompress.standalone.parts`.

    Args:
        module: any.

    Returns:
        Source and the class; None if there is no such class.
    """
    if isinstance(module, OurChannelOrder):
        return _call(parts.ChannelOrder, [len(module.order)], {"dim": (module.dim, 1)})
    if isinstance(module, OurTopologicalConv2d):
        window = module.window
        options = {
            "stride": (window.stride, (1, 1)),
            "padding": (window._margins, (0, 0, 0, 0)),
            "dilation": (window.dilation, (1, 1)),
            "bias": (module.bias is not None, True),
            "padding_mode": (window.padding_mode, "zeros"),
        }
        needed = [module.grid, module.neighbours, module.tile, window.kernel_size]
        return _call(parts.TopologicalConv2d, needed, options)
    module_name = f"{type(module).__module__}.{type(module).__qualname__}"
    loose: Any = module
    if module_name == "torchvision.ops.stochastic_depth.StochasticDepth":
        return _call(parts.StochasticDepth, [loose.p], {"mode": (loose.mode, "row")})
    if module_name == "timm.layers.conv2d_same.Conv2dSame":
        needed, given = _arguments(nn.Conv2d, module)
        return _call(parts.SameConv2d, needed, {name: (value, None) for name, value in given.items()})
    if module_name == "timm.layers.drop.DropPath":
        return _call(parts.StochasticDepth, [loose.drop_prob or 0.0], {"scaled": (loose.scale_by_keep, True)})
    return None


def _call(
    kind: type[nn.Module], needed: list[Any], options: dict[str, tuple[Any, Any]]
) -> tuple[str, type[nn.Module]]:
    shown = [f"{name}={literal(value)}" for name, (value, default) in options.items() if value != default]
    return f"{kind.__name__}({', '.join([*map(literal, needed), *shown])})", kind


def _arguments(kind: type[nn.Module], module: nn.Module) -> tuple[list[Any], dict[str, Any]]:
    """Arguments without defaults, and those that differ from theirs."""
    needed: list[Any] = []
    options: dict[str, Any] = {}
    signature = inspect.signature(kind.__init__)
    for name, parameter in list(signature.parameters.items())[1:]:
        if name in _PLACES or parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        value = _value(module, name, parameter.default)
        if parameter.default is parameter.empty:
            needed.append(value)
        elif value != parameter.default:
            options[name] = value
    dtypes = {tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point()}
    if dtypes - {torch.float32} and "dtype" in signature.parameters:
        (options["dtype"],) = dtypes
    return needed, options


def _value(module: nn.Module, name: str, default: Any) -> Any:
    if name == "bias":
        return module._parameters.get("in_proj_bias", module._parameters.get("bias")) is not None
    if name == "add_bias_kv":
        return getattr(module, "bias_k", None) is not None
    value = getattr(module, name) if default is inspect.Parameter.empty else getattr(module, name, default)
    if isinstance(module, _ConvNd) and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


def _alike(module: nn.Module, again: nn.Module) -> bool:
    """Whether two layers hold tensors of the same shapes and attributes of the same values."""
    here, there = module.state_dict(), again.state_dict()
    if [(name, t.shape, t.dtype) for name, t in here.items()] != [
        (name, t.shape, t.dtype) for name, t in there.items()
    ]:
        return False
    plain = (bool, int, float, str, tuple, type(None))
    return all(
        value == vars(again).get(name, value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and isinstance(value, plain)
    )
