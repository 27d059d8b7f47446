"""A traced network with what may be changed in it without anybody noticing."""

from collections import Counter
from typing import Any

from torch import Tensor, fx, nn

from cnncompress.channelwise import flattens, is_channelwise, is_fresh, is_view, module_of, readers, source
from cnncompress.layers import ChannelOrder, TopologicalConv2d


class TracedNetwork:
    """A network and its graph.

    Args:
        model: the network.
        graph: of its calls.
        pinned: values that must stay as they are.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, pinned: set[fx.Node]) -> None:
        self.graph = graph
        self.modules = dict(model.named_modules())
        self._pinned = pinned
        self._private = _private(model, graph)

    def editable(self, node: fx.Node) -> Any:
        """The module that a node calls.

        Args:
            node: of the graph.

        Returns:
            None if there is none, or if its tensors can't be replaced because others use them too.
        """
        return module_of(node, self.modules) if node.target in self._private else None

    def only_reader(self, value: fx.Node) -> fx.Node | None:
        """The one operation that works on a value.

        Args:
            value: of the graph.

        Returns:
            None if there are others or none, or if the value is pinned.
        """
        found = readers(value)
        alone = len(found) == 1 and value not in self._pinned and source(found[0]) is value
        return found[0] if alone else None

    def can_share(self, copy: fx.Node) -> bool:
        """Whether an operation that copies its input could pass it on instead.

        Without the copy, whatever is written into one is written into the other.

        Args:
            copy: the operation.

        Returns:
            False if in doubt.
        """
        value = source(copy)
        return value is not None and (self._is_owned(value) or self._is_unwritten(value, copy))

    def remove(self, node: fx.Node) -> None:
        """Take an operation out of the graph; what it reads is passed on.

        Args:
            node: the operation.
        """
        value = source(node)
        assert value is not None
        if node in self._pinned:
            self._pinned.add(value)
        node.replace_all_uses_with(value)
        self.graph.erase_node(node)

    def _is_owned(self, value: fx.Node) -> bool:
        """Whether nobody else ever looks into a value's memory."""
        here: fx.Node | None = value
        while here is not None and self.only_reader(here) is not None:
            if is_fresh(here, self.modules):
                return True
            here = self._passed_on(here)
        return False

    def _is_unwritten(self, value: fx.Node, copy: fx.Node) -> bool:
        """Whether nothing writes into a value's memory, or its copy's, once the copy has been made."""
        root = value
        while not is_fresh(root, self.modules) and root.op != "placeholder":
            before = self._passed_on(root)
            if before is None:
                return False
            root = before
        place = {node: position for position, node in enumerate(self.graph.nodes)}
        sharing = [root]
        for member in sharing:  # grows on the way
            for reader in readers(member):
                if reader is copy or is_view(reader, self.modules) or place[reader] < place[copy]:
                    sharing.append(reader)
                elif reader.op != "output" and not is_fresh(reader, self.modules):
                    return False
        return True

    def _passed_on(self, value: fx.Node) -> fx.Node | None:
        """What an operation reads and may return itself, None if the operation is unknown."""
        known = is_channelwise(value, self.modules) or flattens(value, self.modules)
        return source(value) if known else None


def trace(model: nn.Module, pinned: str | None = None) -> TracedNetwork | None:
    """Trace a network, with torch's own layers, `ChannelOrder` and `TopologicalConv2d` as single calls.

    Args:
        model: left as it was.
        pinned: name of a submodule whose output must stay as it is, None for none.

    Returns:
        None if the network can't be traced.
    """
    tracer = _Tracer(pinned)
    try:
        graph = tracer.trace(model)
    except Exception:  # tracing runs the model's own code, which may raise anything
        return None
    return TracedNetwork(model, graph, tracer.pinned)


class _Tracer(fx.Tracer):
    """Remembers which values leave the pinned submodule."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self._name = name
        self.pinned: set[fx.Node] = set()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ChannelOrder | TopologicalConv2d) or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        if self._name is not None and m is self.root.get_submodule(self._name):
            self.pinned.update(_nodes(result))
        return result


def _nodes(value: Any) -> set[fx.Node]:
    """The nodes of all proxies in a nested structure."""
    if isinstance(value, fx.Proxy):
        return {value.node}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return {node for part in parts for node in _nodes(part)}


def _private(model: nn.Module, graph: fx.Graph) -> set[str]:
    """Names of modules that are called once and whose tensors nobody else uses."""
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    modules = dict(model.named_modules())
    homes = Counter(tensor.data_ptr() for module in modules.values() for tensor in _own_tensors(module))
    return {
        name
        for name, module in modules.items()
        if calls[name] == names[id(module)] == 1
        and name not in read
        and all(homes[tensor.data_ptr()] == 1 for tensor in _own_tensors(module))
    }


def _own_tensors(module: nn.Module) -> list[Tensor]:
    found = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in found if tensor is not None]
