"""The parts of a network that can be called alone, each with the graph of what it does."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from cnncompress.standalone.constructors import constructor, stand_in
from cnncompress.standalone.literals import UnwritableError, is_container


@dataclass(frozen=True)
class Unit:
    """A module of somebody's class, traced with its callable parts as single calls.

    Attributes:
        module: the module.
        inputs: names of what its forward needs.
        evaluating: graph of its forward in evaluation mode.
        training: graph in training mode.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    evaluating: fx.Graph
    training: fx.Graph


@dataclass
class Units:
    """What is known of a network's modules, by their identity.

    Attributes:
        constructors: calls that make layers.
        arities: how many values a module that can be called alone takes.
        traced: modules of somebody's class.
    """

    constructors: dict[int, str] = field(default_factory=dict)
    arities: dict[int, int] = field(default_factory=dict)
    traced: dict[int, Unit] = field(default_factory=dict)


def find_units(model: nn.Module, *, nested: bool = True) -> Units:
    """Sort a network's modules, from the innermost to the network itself.

    Args:
        model: a copy that may be put into training and evaluation mode; ends in evaluation mode.
        nested: whether modules of somebody's class shall be traced each for itself.

    Returns:
        What can be called alone: torch's layers, the toolkit's and torchvision's that have a stand-in,
        sequences of such, and modules whose forward could be traced. All others are traced where they are
        called.

    Raises:
        UnwritableError: the network itself can't be traced.
    """  # noqa: DOC502  # raised by what it calls
    units = Units()
    for _, module in reversed(list(model.named_modules())):
        _sort(module, units, root=module is model, nested=nested)
    model.eval()
    return units


def _sort(module: nn.Module, units: Units, *, root: bool, nested: bool) -> None:
    replacement = stand_in(module)
    call = replacement[0] if replacement else constructor(module)
    if call is not None:
        units.constructors[id(module)] = call
        units.arities[id(module)] = 1
        return
    children = [child for child in module._modules.values() if child is not None]
    sequence = is_container(module) and isinstance(module, nn.Sequential)
    if sequence and all(units.arities.get(id(child)) == 1 for child in children):
        units.arities[id(module)] = 1
        return
    if not root and (is_container(module) or not nested):
        return
    try:
        unit = _traced(module, units, root=root)
    except Exception as error:
        if root:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
            raise UnwritableError(f"torch.fx can't trace it: {reason}") from error
        return
    units.traced[id(module)] = unit
    units.arities[id(module)] = len(unit.inputs)


def _traced(module: nn.Module, units: Units, *, root: bool) -> Unit:
    inputs = _needed(module)
    if not inputs or (root and len(inputs) > 1):
        raise UnwritableError(f"its forward takes {len(inputs)} values, one is expected")
    module.eval()
    evaluating = _graph(module, units, inputs)
    if not root and not isinstance(_returned(evaluating), fx.Node):
        raise UnwritableError("it returns several values")
    try:
        module.train()
        training = _graph(module, units, inputs)
    finally:
        module.eval()
    return Unit(module, inputs, evaluating, training)


def _graph(module: nn.Module, units: Units, inputs: tuple[str, ...]) -> fx.Graph:
    before = [(part, name, buffer) for part in module.modules() for name, buffer in part._buffers.items()]
    graph = _Tracer(units, inputs).trace(module)
    replaced = [place for place in before if place[0]._buffers.get(place[1]) is not place[2]]
    for part, name, buffer in replaced:
        part._buffers[name] = buffer
    if replaced:
        raise UnwritableError(f"its forward assigns to the buffer {replaced[0][1]!r}, which no graph shows")
    return graph


def _needed(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments that forward can't do without; its first if there are none."""
    if "forward" in vars(module):
        raise UnwritableError("its forward was replaced on the instance")
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    needed = [p.name for p in positional if p.default is p.empty]
    return tuple(needed or [p.name for p in positional[:1]])


def _returned(graph: fx.Graph) -> Any:
    (output,) = (node for node in graph.nodes if node.op == "output")
    return output.args[0]


class _Tracer(fx.Tracer):
    """Traces a module with the parts that can be called alone as single calls."""

    proxy_buffer_attributes = True  # else computations on buffers would become constants

    def __init__(self, units: Units, inputs: tuple[str, ...]) -> None:
        super().__init__(autowrap_modules=(math,))
        self._units, self._inputs, self._arguments = units, inputs, 0

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: Mapping[str, Any] | tuple[Any, ...] | None = None,
    ) -> tuple[Any, list[Any]]:
        # optional arguments keep their defaults, so that branches on them are known
        del is_module, concrete_args
        return root_fn, [self.root, *(self.create_proxy("placeholder", n, (), {}) for n in self._inputs)]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        self.param_shapes_constant = isinstance(attr_val, nn.Parameter)  # torch can't do it for buffers
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del module_qualified_name
        return id(m) in self._units.constructors or self._units.arities.get(id(m)) == self._arguments

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        plain = not kwargs and all(map(_is_value, args))
        self._arguments = len(args) if plain else -1
        return super().call_module(m, forward, args, kwargs)


def _is_value(argument: Any) -> bool:
    """Whether an argument can be a variable: a value of the graph, or a list of such."""
    if isinstance(argument, list):
        return all(isinstance(part, fx.Proxy) for part in argument)
    return isinstance(argument, fx.Proxy)
