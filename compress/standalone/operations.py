"""Single operations of a traced graph as source."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnncompress.standalone.functions import INFIX, PREFIX, function_name
from cnncompress.standalone.literals import (
    UnwritableError,
    as_name,
    is_plain_name,
    literal,
    path_to,
    tuple_of,
)

CONSTANT = 4096
"""Entries of a constant tensor that are still written out."""


@dataclass(frozen=True)
class Expression:
    """Source of a value.

    Attributes:
        code: the source.
        whole: whether a dot or an operator may stand beside it without parentheses.
        values: those it reads by their names.
        steps: calls in it.
    """

    code: str
    whole: bool
    values: tuple[fx.Node, ...] = ()
    steps: int = 0


class Operations:
    """Writes operations.

    Args:
        module: that was traced.
        value: source of what an earlier operation returned, None for parameters and the like.
    """

    def __init__(self, module: nn.Module, value: Callable[[fx.Node], Expression | None]) -> None:
        self._module, self._known = module, value

    def operation(self, node: fx.Node) -> Expression:
        """Write a call.

        Args:
            node: a call of a module, a method or a function.

        Returns:
            Its source.

        Raises:
            UnwritableError: it has no form in plain torch.
        """
        if node.op == "call_module":
            return self._call(
                Expression(path_to(self._module, str(node.target)), True), node.args, node.kwargs
            )
        if node.op == "call_method":
            if not is_plain_name(str(node.target)):
                raise UnwritableError(f"it calls a method {node.target!r}")
            owner = self.argument(node.args[0])
            method = Expression(f"{_guarded(owner)}.{node.target}", True, owner.values, owner.steps)
            return self._call(method, node.args[1:], node.kwargs)
        return self._function(node)

    def _function(self, node: fx.Node) -> Expression:
        target: Any = node.target
        arguments = node.args
        if target in INFIX and len(arguments) == 2 and not node.kwargs:
            left, right = map(self.argument, arguments)
            return _joined((left, right), f"{_guarded(left)} {INFIX[target]} {_guarded(right)}", whole=False)
        if target in PREFIX and len(arguments) == 1:
            operand = self.argument(arguments[0])
            return _joined((operand,), f"{PREFIX[target]}{_guarded(operand)}", whole=False)
        if target is operator.getitem:
            owner, index = self.argument(arguments[0]), self._index(arguments[1])
            return _joined((owner, index), f"{_guarded(owner)}[{index.code}]")
        if target is getattr and isinstance(arguments[1], str) and is_plain_name(arguments[1]):
            owner = self.argument(arguments[0])
            return _joined((owner,), f"{_guarded(owner)}.{arguments[1]}")
        fields = getattr(target, "_fields", None)
        if isinstance(target, type) and issubclass(target, tuple) and fields is not None:
            return self._call(Expression(named_tuple(target), True), arguments, node.kwargs)
        return self._call(Expression(function_name(target), True), arguments, node.kwargs)

    def _call(self, function: Expression, args: Sequence[Any], kwargs: dict[str, Any]) -> Expression:
        if not all(is_plain_name(name) for name in kwargs):
            raise UnwritableError(f"it passes arguments named {', '.join(map(repr, kwargs))}")
        positional = [self.argument(argument) for argument in args]
        named = {name: self.argument(argument) for name, argument in kwargs.items()}
        shown = [*(e.code for e in positional), *(f"{name}={e.code}" for name, e in named.items())]
        return _joined(
            (function, *positional, *named.values()), f"{function.code}({', '.join(shown)})", step=1
        )

    def _index(self, index: Any) -> Expression:
        if isinstance(index, tuple) and index:
            parts = [self._index(part) for part in index]
            tail = "," if len(parts) == 1 else ""
            return _joined(parts, ", ".join(part.code for part in parts) + tail)
        if isinstance(index, slice):
            ends = [
                None if end is None else self.argument(end) for end in (index.start, index.stop, index.step)
            ]
            shown = ["" if end is None else end.code for end in ends]
            code = ":".join(shown if shown[2] else shown[:2])
            return _joined([end for end in ends if end is not None], code)
        return self.argument(index)

    def argument(self, value: Any) -> Expression:
        """Write what a call reads.

        Args:
            value: a node, a plain value, or a nesting of such.

        Returns:
            Its source.
        """
        if isinstance(value, fx.Node):
            return self._value(value)
        if isinstance(value, list | tuple):
            parts = [self.argument(part) for part in value]
            codes = [part.code for part in parts]
            return _joined(parts, tuple_of(codes) if isinstance(value, tuple) else f"[{', '.join(codes)}]")
        if isinstance(value, dict):
            items = {key: self.argument(item) for key, item in value.items()}
            shown = ", ".join(f"{literal(key)}: {item.code}" for key, item in items.items())
            return _joined(list(items.values()), f"{{{shown}}}")
        if isinstance(value, slice):
            parts = [self.argument(end) for end in (value.start, value.stop, value.step)]
            return _joined(parts, f"slice({', '.join(part.code for part in parts)})")
        code = literal(value)
        return Expression(code, whole=not code.startswith("-"))

    def _value(self, node: fx.Node) -> Expression:
        known = self._known(node)
        return self._attribute(str(node.target)) if known is None else known

    def _attribute(self, path: str) -> Expression:
        owner, _, name = path.rpartition(".")
        module = self._module.get_submodule(owner)
        if name in module._parameters or name in module._buffers or name in module._modules:
            return Expression(path_to(self._module, path), True)
        value = getattr(module, name)
        if not isinstance(value, Tensor) or value.numel() > CONSTANT or value.is_meta:
            raise UnwritableError(
                f"it reads a constant {path!r} that isn't a small tensor, a parameter or a buffer"
            )
        return Expression(tensor_literal(value), True)


def tensor_literal(value: Tensor) -> str:
    """A constant tensor as source.

    Args:
        value: small.

    Returns:
        An expression that makes it.
    """
    exact = value.detach().cpu()
    numbers = exact.to(torch.float64).tolist() if exact.is_floating_point() else exact.tolist()
    return f"torch.tensor({literal(numbers)}, dtype={value.dtype})"


def named_tuple(kind: type) -> str:
    """The name of a named tuple's class in the generated file.

    Args:
        kind: the class.

    Returns:
        An identifier.
    """
    return as_name(kind.__name__, "Outputs")


def _guarded(expression: Expression) -> str:
    return expression.code if expression.whole else f"({expression.code})"


def _joined(parts: Sequence[Expression], code: str, *, whole: bool = True, step: int = 0) -> Expression:
    values = tuple(dict.fromkeys(value for part in parts for value in part.values))
    return Expression(code, whole, values, step + sum(part.steps for part in parts))
