"""What every layer of a network is, what follows it, and whether it can be decomposed.

Nothing is guessed from the order of modules or from source code: the network is run once on one
input, and the functions that consume each layer's output are observed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnncompress.errors import ModelError

Activation = Literal["relu", "none"]
Kind = Literal["conv2d", "linear"]

_RECTIFIERS = ("relu", "relu_")


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """One convolution or linear layer as it ran.

    A linear layer counts as a 1 x 1 convolution whose positions are its input rows.

    Attributes:
        name: of the module in the network.
        kind: ``"conv2d"`` or ``"linear"``.
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: height and width.
        stride: vertical and horizontal.
        padding: vertical and horizontal, or ``"same"`` / ``"valid"``.
        dilation: vertical and horizontal.
        groups: of the convolution.
        padding_mode: of the convolution.
        bias: whether it has one.
        input_size: height and width of its input.
        output_size: height and width of its output.
        activation: ``"relu"`` if a rectifier alone consumes its output, else ``"none"``.
        followed_by: names of the functions that consume its output.
        batchnorm: name of the BatchNorm module that alone consumes its output, else None.
        eligible: whether a decomposition may replace it.
        reason: why it is not eligible; empty if it is.
    """

    name: str
    kind: Kind
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | Literal["same", "valid"] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros"
    bias: bool = True
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    activation: Activation = "none"
    followed_by: tuple[str, ...] = ()
    batchnorm: str | None = None
    eligible: bool = True
    reason: str = ""

    @property
    def patch_size(self) -> int:
        """Entries of one input patch: channels of a group times kernel height times kernel width."""
        return self.in_channels // self.groups * prod(self.kernel_size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.patch_size * self.out_channels * prod(self.output_size)

    @property
    def params(self) -> int:
        """Weights and biases."""
        return self.out_channels * (self.patch_size + self.bias)


@dataclass
class _Seen:
    """What one layer did while the network ran."""

    input_size: tuple[int, int]
    output_size: tuple[int, int]
    calls: int = 1
    consumers: list[str] = field(default_factory=list)
    batchnorms: list[str] = field(default_factory=list)


class _Consumers(TorchFunctionMode):
    """Reports every torch function with the tensors that it reads."""

    def __init__(self, saw: Callable[[str, Sequence[Tensor], Any], None]) -> None:
        super().__init__()
        self._saw = saw

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._saw(getattr(func, "__name__", str(func)), list(_tensors((args, kwargs))), result)
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


class _Observation:
    """Follows each layer's output from its forward hook to the functions that read it.

    Tensors are kept alive while observing, so that an identity is never reused.
    """

    def __init__(self, model: nn.Module) -> None:
        self.seen: dict[str, _Seen] = {}
        self._names = {module: name for name, module in model.named_modules()}
        self._producer: dict[int, str] = {}
        self._alive: list[Tensor] = []
        self._inside: list[nn.Module] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on every layer and BatchNorm, removed on leaving."""
        handles = []
        for module in self._names:
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave))
        try:
            with _Consumers(self._function):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for tensor in inputs[:1]:
            producer = self._producer.get(id(tensor))
            if producer is not None:
                self._consumed(producer, module)
        self._inside.append(module)

    def _consumed(self, producer: str, module: nn.Module) -> None:
        self.seen[producer].consumers.append(type(module).__name__)
        if isinstance(module, nn.BatchNorm2d):
            self.seen[producer].batchnorms.append(self._names[module])

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._inside.pop()
        if isinstance(module, nn.BatchNorm2d):
            return
        name = self._names[module]
        if name in self.seen:
            self.seen[name].calls += 1
        else:
            self.seen[name] = _Seen(_grid(module, inputs[0]), _grid(module, output))
        self._producer[id(output)] = name
        self._alive.append(output)

    def _function(self, name: str, reads: Sequence[Tensor], result: Any) -> None:
        if self._inside or name in {"__get__", "__set__", "dim", "size"}:
            return
        for tensor in reads:
            producer = self._producer.get(id(tensor))
            if producer is not None:
                self.seen[producer].consumers.append(name)
                if isinstance(result, Tensor) and result is tensor:
                    # an in-place function: what reads the tensor later reads its result, not the layer's
                    del self._producer[id(tensor)]


def _grid(module: nn.Module, tensor: Tensor) -> tuple[int, int]:
    if isinstance(module, nn.Conv2d):
        return (tensor.shape[-2], tensor.shape[-1])
    return (1, prod(tensor.shape[1:-1]))


def inspect_layers(model: nn.Module, input_size: tuple[int, int, int]) -> tuple[LayerInfo, ...]:
    """Run the network once and describe its convolution and linear layers in the order of execution.

    Args:
        model: left as it was; run in evaluation mode.
        input_size: channels, height and width of one input.

    Returns:
        One entry for each layer that ran, then those that never ran.

    Raises:
        ModelError: the network can't read an input of that size.
    """
    observation = _Observation(model)
    reference = next(model.parameters(), torch.zeros(()))
    example = torch.zeros((1, *input_size), dtype=reference.dtype, device=reference.device)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), observation.watching():
            model(example)
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["RuntimeError"])[0]
        raise ModelError(
            f"the network fails on an input of shape {tuple(example.shape)}: {reason}"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    modules = dict(model.named_modules())
    order = [*observation.seen, *(name for name in modules if name not in observation.seen)]
    layers = (_describe(name, modules[name], observation.seen.get(name)) for name in order)
    return tuple(layer for layer in layers if layer is not None)


def _describe(name: str, module: nn.Module, seen: _Seen | None) -> LayerInfo | None:
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return None
    reason = _obstacle(module, seen)
    seen = seen or _Seen((0, 0), (0, 0), calls=0)
    rectified = len(seen.consumers) == 1 and seen.consumers[0] in _RECTIFIERS
    common: dict[str, Any] = {
        "name": name,
        "bias": module.bias is not None,
        "input_size": seen.input_size,
        "output_size": seen.output_size,
        "activation": "relu" if rectified else "none",
        "followed_by": tuple(dict.fromkeys(seen.consumers)),
        "batchnorm": seen.batchnorms[0] if len(seen.consumers) == len(seen.batchnorms) == 1 else None,
        "eligible": not reason,
        "reason": reason,
    }
    if isinstance(module, nn.Linear):
        return LayerInfo(
            kind="linear",
            in_channels=module.in_features,
            out_channels=module.out_features,
            kernel_size=(1, 1),
            **common,
        )
    padding: Any = module.padding if isinstance(module.padding, str) else tuple(module.padding)
    mode: Any = module.padding_mode
    return LayerInfo(
        kind="conv2d",
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        kernel_size=(module.kernel_size[0], module.kernel_size[1]),
        stride=(module.stride[0], module.stride[1]),
        padding=padding,
        dilation=(module.dilation[0], module.dilation[1]),
        groups=module.groups,
        padding_mode=mode,
        **common,
    )


def _obstacle(module: nn.Conv2d | nn.Linear, seen: _Seen | None) -> str:
    """Why a layer can't be replaced, or an empty string."""
    if seen is None:
        return "never called on the example input"
    if seen.calls > 1:
        return f"called {seen.calls} times in one pass"
    if type(module) not in {nn.Conv2d, nn.Linear}:
        return f"is a {type(module).__name__}, a subclass whose forward may differ"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        depthwise = module.groups == module.in_channels
        return "depthwise: one channel a filter has nothing to share" if depthwise else "grouped convolution"
    return ""
