"""Runs a network up to one layer after another without starting from the image each time.

The network is traced once. Values that are alive at a layer are kept for all images when they fit the
memory that was granted, and the next layer is reached from there; where they don't fit, they are
computed again from the last place where they did. Networks that can't be traced are run from the image
for each layer, stopping at it.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnncompress.image_source import ImageSource
from cnncompress.memory_layout import layout_of

Values = dict[fx.Node, Any]


class Prefix:
    """The part of a network before the layer that is looked at.

    Args:
        model: replaced in place, layer by layer, by the caller; this class only runs it.
        source: the images.
        batch_size: images run at a time.
        memory: bytes that kept values may take.
    """

    def __init__(self, model: nn.Module, source: ImageSource, *, batch_size: int, memory: int) -> None:
        self._model = model
        self._source = source
        self._batch_size = batch_size
        self._memory = memory
        self._layout = layout_of(model)  # now: replacements don't tell
        self._graph = _trace(model)
        self._start = 0
        self._kept: list[tuple[Sequence[int], Values]] | None = None

    def inputs_of(self, name: str) -> Iterator[tuple[Sequence[int], Tensor]]:
        """What one layer reads, for all images.

        Layers must be asked for in the order in which they run, each one once, to its end.

        Args:
            name: of the layer.

        Yields:
            The positions of a batch's images in the list of all, and the layer's input.
        """
        if self._graph is None:
            yield from self._stopping_at(name)
            return
        stop, node = next(
            (i, n) for i, n in enumerate(self._graph) if n.op == "call_module" and n.target == name
        )
        argument = node.args[0]
        assert isinstance(argument, fx.Node)
        kept: list[tuple[Sequence[int], Values]] | None = None
        batches = -(-len(self._source) // self._batch_size)
        for place, (indices, values) in enumerate(self._states()):
            reached = self._advance(values, stop)
            yield indices, reached[argument]
            if place == 0 and _size(reached) * batches <= self._memory:
                kept = []
            if kept is not None:
                kept.append((indices, reached))
                if self._kept is not None:
                    self._kept[place] = (indices, {})  # not read again: make room
        if kept is not None:
            self._start, self._kept = stop, kept

    def _states(self) -> Iterator[tuple[Sequence[int], Values]]:
        """The kept values of each batch, or its images."""
        if self._kept is not None:
            for indices, values in self._kept:
                yield indices, dict(values)
            return
        placeholder = self._graph[0] if self._graph else None
        for batch in self._source.batches(self._batch_size):
            images = self._ready(batch.images)
            yield batch.indices.tolist(), {placeholder: images} if placeholder else {}

    def _ready(self, images: Tensor) -> Tensor:
        reference = next(self._model.parameters())
        return images.to(reference.device, reference.dtype, memory_format=self._layout)

    def _advance(self, values: Values, stop: int) -> Values:
        """Run the nodes from the kept place up to ``stop``; keep only what is used from there on."""
        assert self._graph is not None
        last_use = _last_uses(self._graph)
        modules = dict(self._model.named_modules())
        with torch.inference_mode():
            if self._kept is not None:
                # a function may write into its argument, and kept values are read again
                values = {node: _copied(value) for node, value in values.items()}
            for position in range(max(self._start, 1), stop):
                node = self._graph[position]
                values[node] = _call(node, values, modules, self._model)
                for used in node.all_input_nodes:
                    if last_use[used] <= position:
                        values.pop(used, None)
        return {node: value for node, value in values.items() if last_use.get(node, 0) >= stop}

    def _stopping_at(self, name: str) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Run whole forward passes that end at the layer."""
        caught: list[Tensor] = []

        def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            caught.append(inputs[0])
            raise _Reached

        handle = self._model.get_submodule(name).register_forward_pre_hook(stop)
        try:
            for batch in self._source.batches(self._batch_size):
                with torch.inference_mode(), suppress(_Reached):
                    self._model(self._ready(batch.images))
                yield batch.indices.tolist(), caught.pop()
        finally:
            handle.remove()


class _Reached(Exception):  # noqa: N818  # not an error: it ends a forward pass early
    """The layer has been reached."""


def _trace(model: nn.Module) -> list[fx.Node] | None:
    """The network's nodes in order, or None if it can't be traced to a graph of one input."""
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception:  # tracing runs the model's own code, which may raise anything
        return None
    inputs = [node for node in nodes if node.op == "placeholder"]
    return nodes if len(inputs) == 1 and nodes[0] is inputs[0] else None


def _last_uses(nodes: Sequence[fx.Node]) -> dict[fx.Node, int]:
    place = {node: position for position, node in enumerate(nodes)}
    return {node: max((place[user] for user in node.users), default=0) for node in nodes}


def _call(node: fx.Node, values: Values, modules: dict[str, nn.Module], model: nn.Module) -> Any:
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


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _size(values: Values) -> int:
    return sum(v.numel() * v.element_size() for v in values.values() if isinstance(v, Tensor))
