"""Names under which plain torch and Python offer the functions of a traced graph."""

import builtins
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from cnncompress.standalone.literals import UnwritableError

INFIX: Mapping[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}
PREFIX: Mapping[Any, str] = {operator.neg: "-", operator.invert: "~", operator.pos: "+"}

_HOMES = (
    ("torch", torch),
    ("F", functional),
    ("torch.special", torch.special),
    ("torch.linalg", torch.linalg),
    ("torch.fft", torch.fft),
    ("torch.Tensor", torch.Tensor),
    ("math", math),
    ("operator", operator),
    ("", builtins),
)


def function_name(function: Callable[..., Any]) -> str:
    """Where a generated file finds a function.

    Args:
        function: the target of a call in a graph.

    Returns:
        Source such as ``torch.cat`` or ``F.relu``.

    Raises:
        UnwritableError: it belongs to another package.
    """
    try:
        return _known()[function]
    except (KeyError, TypeError):
        home = getattr(function, "__module__", None) or "an unknown module"
        name = getattr(function, "__qualname__", repr(function))
        raise UnwritableError(f"it calls {home}.{name}, which plain torch lacks") from None


@functools.cache
def _known() -> Mapping[Any, str]:
    found: dict[Any, str] = {}
    for prefix, home in _HOMES:
        # public names first: some functions have both
        for name in sorted(dir(home), key=lambda name: (name.startswith("_"), name)):
            function = getattr(home, name, None)
            if callable(function) and not name.startswith("__"):
                try:
                    found.setdefault(function, f"{prefix}.{name}" if prefix else name)
                except TypeError:  # not hashable
                    continue
    return found
