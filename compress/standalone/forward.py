"""A traced graph as the lines of a forward method."""

import operator
import re
from collections.abc import Callable, Iterator

from torch import fx, nn

from cnncompress.standalone.functions import INFIX
from cnncompress.standalone.literals import as_name
from cnncompress.standalone.operations import Expression, Operations
from cnncompress.standalone.tracing import Unit

WIDTH = 88


def forward_lines(unit: Unit, reserved: frozenset[str]) -> list[str]:
    """The forward method of a module, in evaluation and in training mode.

    Args:
        unit: the traced module.
        reserved: names that variables can't have.

    Returns:
        Lines without indentation, from ``def`` on.

    Raises:
        UnwritableError: an operation or a constant has no form in plain torch.
    """  # noqa: DOC502  # raised by what it calls
    names, lines = GraphWriter(unit.module, unit.evaluating, reserved).written()
    _, others = GraphWriter(unit.module, unit.training, reserved).written()
    lines = _merged(lines, others)
    return [f"def forward(self, {', '.join(names)}):", *(f"    {line}" for line in lines)]


def _merged(evaluating: list[str], training: list[str]) -> list[str]:
    """One body where the two differ in flags alone, else both."""
    if evaluating == training:
        return evaluating
    flags = re.compile(r"\b(True|False)\b")
    if [flags.sub("", line) for line in evaluating] == [flags.sub("", line) for line in training]:
        merged = []
        for line, other in zip(evaluating, training, strict=True):
            words = zip(flags.split(line), flags.split(other), strict=True)
            merged.append("".join(a if a == b else _flag(b) for a, b in words))
        return merged
    return ["if self.training:", *(f"    {line}" for line in training), *evaluating]


def _flag(in_training: str) -> str:
    return "self.training" if in_training == "True" else "(not self.training)"


class GraphWriter:
    """Writes the operations of one graph, one statement a line, nested where a value is read once, at once.

    Args:
        module: that was traced.
        graph: of its calls.
        reserved: names that variables can't have.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, reserved: frozenset[str]) -> None:
        self._operations, self._reserved = Operations(module, self._value), reserved
        self._nodes = list(graph.nodes)
        self._place = {node: position for position, node in enumerate(self._nodes)}
        self._last = {n: max((self._place[user] for user in n.users), default=-1) for n in self._nodes}
        self._names: dict[fx.Node, str] = {}
        self._pending: list[tuple[fx.Node, Expression]] = []
        self._lines: list[str] = []

    def written(self) -> tuple[list[str], list[str]]:
        """Write all operations.

        Returns:
            Names of the inputs and the lines of the body.
        """
        inputs = []
        for node in self._nodes:
            if node.op == "placeholder":
                self._names[node] = self._free_name(str(node.target), "x")
                inputs.append(self._names[node])
            elif node.op == "output":
                self._return(node)
            elif node.op != "get_attr":
                self._write(node)
        return inputs, self._lines

    def _return(self, node: fx.Node) -> None:
        expression = self._composed(
            node, lambda: self._operations.argument(node.args[0]), room=len("return ")
        )
        self._flush()
        self._lines.append(f"return {expression.code}")

    def _write(self, node: fx.Node) -> None:
        if not node.users and node.target in {operator.getitem, getattr}:
            return
        expression = self._composed(node, lambda: self._operations.operation(node), room=16)
        if len(node.users) == 1 and len(expression.code) <= WIDTH:
            self._pending.append((node, expression))
            return
        self._flush()
        self._emit(node, expression)

    def _composed(self, node: fx.Node, compose: Callable[[], Expression], room: int) -> Expression:
        """The node's source, with the pending values that it reads in their order nested into it."""
        read = [argument for argument in _reads(node) if any(argument is kept for kept, _ in self._pending)]
        if read:
            tail = [kept for kept, _ in self._pending[-len(read) :]]
            if read == tail:
                expression = compose()
                if len(expression.code) + room <= WIDTH:
                    del self._pending[-len(read) :]
                    return expression
            self._flush()
        return compose()

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        for node, expression in pending:
            self._emit(node, expression)

    def _emit(self, node: fx.Node, expression: Expression) -> None:
        if not node.users:
            self._lines.append(expression.code)
            return
        last_read = [
            value
            for value in expression.values
            if value in self._names and self._last[value] <= self._place[node]
        ]
        names = [self._names.pop(value) for value in last_read]
        picks = node.target in {operator.getitem, getattr}  # x.shape isn't another x
        reused = names[0] if names and not picks else None
        self._names[node] = reused or self._free_name(self._hint(node, expression), "out")
        self._lines.append(f"{self._names[node]} = {expression.code}")

    def _hint(self, node: fx.Node, expression: Expression) -> str:
        (first, *others) = node.users
        if node.target is getattr:
            return str(node.args[1])
        if node.target is operator.getitem:
            index = str(node.args[1]).replace("-", "last")
            return f"{self._hint(node.args[0], expression)}_{index}"  # type: ignore[arg-type]  # an item is of a node
        if expression.steps > 1 or (not others and first.op == "call_module"):
            return "out"
        if node.op == "call_module":
            parts = [part for part in str(node.target).split(".") if not part.isdigit()]
            return parts[-1] if parts else "out"
        if node.op == "call_method":
            return str(node.target)
        return "out" if node.target in INFIX else str(getattr(node.target, "__name__", "out"))

    def _free_name(self, hint: str, fallback: str) -> str:
        name = as_name(hint, fallback)
        if name in self._reserved:
            name = f"{name}_"
        taken, number, chosen = set(self._names.values()), 1, name
        while chosen in taken:
            number += 1
            chosen = f"{name}_{number}"
        return chosen

    def _value(self, node: fx.Node) -> Expression | None:
        if node in self._names:
            return Expression(self._names[node], True, (node,))
        for kept, expression in self._pending:
            if kept is node:
                return expression
        assert node.op == "get_attr", f"{node} is read before it is written"
        return None


def named_tuples(unit: Unit) -> Iterator[type]:
    """The named tuples that a module returns.

    Args:
        unit: the traced module.

    Yields:
        Their classes.
    """
    for graph in (unit.evaluating, unit.training):
        for node in graph.nodes:
            if isinstance(node.target, type) and hasattr(node.target, "_fields"):
                yield node.target


def _reads(node: fx.Node) -> list[fx.Node]:
    """Values in the order in which they stand in the source, as often as they do."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found
