"""Runs a traced network a stretch at a time, from values that were kept on the way."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn

Values = dict[fx.Node, Any]


class Steps:
    """The functions of a network in the order in which they run.

    Args:
        nodes: of the network's graph, which has one input, the first.
    """

    def __init__(self, nodes: Sequence[fx.Node]) -> None:
        self._nodes = nodes
        self._last_use = _last_uses(nodes)

    @classmethod
    def of(cls, model: nn.Module) -> "Steps | None":
        """Trace a network.

        Args:
            model: the network.

        Returns:
            Its steps, or None if it can't be traced to a graph of one input.
        """
        try:
            nodes = list(fx.Tracer().trace(model).nodes)
        except Exception:  # tracing runs the model's own code, which may raise anything
            return None
        inputs = [node for node in nodes if node.op == "placeholder"]
        return cls(nodes) if len(inputs) == 1 and nodes[0] is inputs[0] else None

    def place_of(self, name: str) -> int | None:
        """Where a module runs first.

        Args:
            name: of the module.

        Returns:
            The number of its step, or None if it runs within another one.
        """
        places = (i for i, n in enumerate(self._nodes) if n.op == "call_module" and n.target == name)
        return next(places, None)

    def begun(self, images: Tensor) -> Values:
        """The values before the first step.

        Args:
            images: ready for the network.

        Returns:
            The images as the network's input.
        """
        return {self._nodes[0]: images}

    def input_of(self, place: int, values: Values) -> Tensor:
        """What a module reads.

        Args:
            place: of the module.
            values: that are alive there.

        Returns:
            Its first argument.
        """
        argument = self._nodes[place].args[0]
        assert isinstance(argument, fx.Node)
        value = values[argument]
        assert isinstance(value, Tensor)
        return value

    def advance(self, values: Values, model: nn.Module, *, start: int, stop: int) -> Values:
        """Run the steps between two places.

        Args:
            values: alive at the start; functions that work in place overwrite them.
            model: the network as it is.
            start: the first step to run.
            stop: the first one not to run.

        Returns:
            What is used from there on.
        """
        self._run(values, model, dict(model.named_modules()), start, stop)
        return {node: value for node, value in values.items() if self._last_use.get(node, 0) >= stop}

    def finish(
        self, values: Values, model: nn.Module, *, start: int, swapped: Mapping[str, nn.Module]
    ) -> Any:
        """Run the steps from a place to the end.

        Args:
            values: alive at the start; functions that work in place overwrite them.
            model: the network as it is.
            start: the first step to run.
            swapped: modules that run in place of those of these names.

        Returns:
            The network's output.
        """
        self._run(values, model, {**dict(model.named_modules()), **swapped}, start, len(self._nodes))
        return values[self._nodes[-1]]

    def _run(
        self, values: Values, model: nn.Module, modules: Mapping[str, nn.Module], start: int, stop: int
    ) -> None:
        with torch.inference_mode():
            for position in range(max(start, 1), stop):
                node = self._nodes[position]
                values[node] = _call(node, values, modules, model)
                for used in node.all_input_nodes:
                    if self._last_use[used] <= position:
                        values.pop(used, None)


def copied(values: Values) -> Values:
    """Copy values that are read again, since a function may write into its arguments.

    Args:
        values: left as they are by whatever runs on the copy.

    Returns:
        A copy in which what shared memory shares it again.
    """
    return dict(zip(values, deepcopy(list(values.values())), strict=True))


def size_of(values: Values) -> int:
    """Memory that values take.

    Args:
        values: alive somewhere in a network.

    Returns:
        Bytes of their tensors.
    """
    return sum(part.numel() * part.element_size() for part in _tensors(list(values.values())))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _last_uses(nodes: Sequence[fx.Node]) -> dict[fx.Node, int]:
    place = {node: position for position, node in enumerate(nodes)}
    return {node: max((place[user] for user in node.users), default=0) for node in nodes}


def _call(node: fx.Node, values: Values, modules: Mapping[str, nn.Module], model: nn.Module) -> Any:
    args = fx.node.map_arg(node.args, lambda used: values[used])
    kwargs = fx.node.map_arg(node.kwargs, lambda used: values[used])
    match node.op:
        case "call_module":
            return modules[str(node.target)](*args, **kwargs)
        case "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]  # callable by the op's definition
        case "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        case "get_attr":
            value: Any = model
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        case _:
            return args[0]
